//! Files of a model's folder, read whole.
//!
//! A folder may hold anything under a name that we look for: a pipe that nobody writes to, a device without an end, a
//! file larger than memory. None of them is waited for or believed.

use std::fs::{self, File, FileType};
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::TextError;

/// A file's bytes, or `None` if it is not there.
///
/// # Errors
///
/// [`TextError::NotAFile`] for a pipe, a device, a socket or a folder, [`TextError::Mistaken`] for what a download that
/// failed left, [`TextError::TooLarge`] for more than `limit` bytes, and [`TextError::Unreadable`] for what the operating
/// system refuses.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextError> {
    let unreadable = |source| TextError::Unreadable {
        path: path.into(),
        source,
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        // A link that leads nowhere is a broken download, not a file that is not there.
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() {
        return Err(TextError::NotAFile {
            path: path.into(),
            found: kind(metadata.file_type()),
        });
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let n_read = match metadata.len() <= limit {
        // One byte more than allowed shows a file that has grown since.
        true => file
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)? as u64,
        false => metadata.len(),
    };
    if n_read > limit {
        return Err(TextError::TooLarge {
            path: path.into(),
            found: n_read,
            limit,
        });
    }
    match llm_json::mistaken(&bytes) {
        Some(found) => Err(TextError::Mistaken {
            path: path.into(),
            found,
        }),
        None => Ok(Some(bytes)),
    }
}

/// Kind of something that is no file, in words.
fn kind(found: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return "a pipe";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    if found.is_dir() {
        return "a folder";
    }
    "something else"
}

/// Most that a tokenizer's file may have: the largest in use have some 40 MB.
pub(crate) const MAX_TOKENIZER_BYTES: u64 = 1 << 30;

/// Most that a configuration may have.
pub(crate) const MAX_CONFIG_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_sane_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read(&path, 3).unwrap(), None);
        fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"abc");
        let error = read(&path, 2).unwrap_err();
        assert!(
            matches!(
                error,
                TextError::TooLarge {
                    found: 3,
                    limit: 2,
                    ..
                }
            ),
            "{error:?}"
        );
        let error = read(dir.path(), 3).unwrap_err();
        assert!(
            matches!(
                error,
                TextError::NotAFile {
                    found: "a folder",
                    ..
                }
            ),
            "{error:?}"
        );
        let huge = File::create(dir.path().join("huge")).unwrap();
        huge.set_len(10 << 30).unwrap();
        let error = read(&dir.path().join("huge"), MAX_TOKENIZER_BYTES).unwrap_err();
        assert!(matches!(error, TextError::TooLarge { .. }), "{error:?}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, expected) in [
            (pipe.as_path(), "a pipe"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read(path, 10).unwrap_err();
            assert!(
                matches!(error, TextError::NotAFile { found, .. } if found == expected),
                "{error:?}"
            );
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(matches!(read(&link, 10), Err(TextError::Unreadable { .. })));
    }
}
