//! Checksums that a hub has of its files.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::is_hex;

/// Checksum of a file, which is its name among the cache's blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sum {
    /// Of a large file.
    Sha256(String),
    /// Of a small one, as git has it: of the word `blob`, the length, a zero byte and the file.
    GitSha1(String),
}

impl Sum {
    /// The sum that hexadecimal digits are.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if is_hex(text, 64) {
            Some(Sum::Sha256(text.to_owned()))
        } else if is_hex(text, 40) {
            Some(Sum::GitSha1(text.to_owned()))
        } else {
            None
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        match self {
            Sum::Sha256(digits) | Sum::GitSha1(digits) => digits,
        }
    }
}

/// A sum that grows with its file.
pub(crate) enum Hasher {
    Sha256(Sha256),
    GitSha1(Sha1),
}

impl Hasher {
    /// The sum of a file of `size` bytes, as `sum` is one.
    pub(crate) fn like(sum: &Sum, size: u64) -> Self {
        match sum {
            Sum::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Sum::GitSha1(_) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {size}\0"));
                Hasher::GitSha1(hasher)
            }
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::GitSha1(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Sum {
        match self {
            Hasher::Sha256(hasher) => Sum::Sha256(hex(&hasher.finalize())),
            Hasher::GitSha1(hasher) => Sum::GitSha1(hex(&hasher.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_git_and_of_large_files() {
        for (sum, expected) in [
            // `printf 'hello\n' | git hash-object --stdin`
            (
                Sum::GitSha1(String::new()),
                "ce013625030ba8dba906f756967f9e9ca394464a",
            ),
            // `printf 'hello\n' | sha256sum`
            (
                Sum::Sha256(String::new()),
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            ),
        ] {
            let mut hasher = Hasher::like(&sum, 6);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            assert_eq!(Some(hasher.finish()), Sum::parse(expected));
        }
        assert_eq!(Sum::parse("W/abc"), None);
        assert_eq!(Sum::parse(&"A".repeat(40)), None);
    }
}
