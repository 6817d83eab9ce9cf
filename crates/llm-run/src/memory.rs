//! What the process takes of the machine's memory, as the kernel counts it.

use std::collections::BTreeMap;

use llm_runtime::Session;
use llm_tensor::Bytes;
use serde::Serialize;

/// Resident memory in bytes; all zero where `/proc` does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// The most that was resident at any time: anonymous and mapped files together.
    pub(crate) peak_resident_bytes: u64,
    /// Anonymous memory now: what the program allocated and touched.
    pub(crate) anonymous_bytes: u64,
    /// Pages of mapped files now: the kernel may take them back.
    pub(crate) file_bytes: u64,
}

impl Memory {
    /// What the program allocated and touched, now.
    pub(crate) fn anonymous(self) -> Bytes {
        Bytes::new(self.anonymous_bytes)
    }

    /// All that is resident now.
    pub(crate) fn resident(self) -> Bytes {
        Bytes::new(self.anonymous_bytes + self.file_bytes)
    }

    /// What the kernel says now.
    pub(crate) fn now() -> Self {
        std::fs::read_to_string("/proc/self/status")
            .map_or_else(|_| Self::default(), |status| parse(&status))
    }
}

/// Memory over a run.
#[derive(Debug, Serialize)]
pub(crate) struct Course {
    #[serde(flatten)]
    now: Memory,
    /// Before weights were loaded: the program, the model's headers, its tokenizer.
    before_load: Memory,
    after_load: Memory,
    /// What the session has allocated, in bytes by term.
    allocated: BTreeMap<&'static str, u64>,
}

impl Course {
    pub(crate) fn up_to_now(before_load: Memory, after_load: Memory, session: &Session) -> Self {
        let terms = session.memory().terms;
        Course {
            now: Memory::now(),
            before_load,
            after_load,
            allocated: terms
                .iter()
                .map(|(term, bytes)| (term.name(), bytes.get()))
                .collect(),
        }
    }
}

fn parse(status: &str) -> Memory {
    let of = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Memory {
        peak_resident_bytes: of("VmHWM").unwrap_or(0),
        anonymous_bytes: of("RssAnon").unwrap_or(0),
        file_bytes: of("RssFile").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let status =
            "Name:\tllm-run\nVmHWM:\t  123456 kB\nRssAnon:\t     100 kB\nRssFile:\t       2 kB\n";
        let expected = Memory {
            peak_resident_bytes: 123_456 << 10,
            anonymous_bytes: 100 << 10,
            file_bytes: 2 << 10,
        };
        assert_eq!(parse(status), expected);
        assert_eq!(parse("Name:\tx"), Memory::default());
    }
}
