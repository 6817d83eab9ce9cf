//! The machine's memory, as the kernel counts it.

use llm_tensor::Bytes;

/// Figures of `/proc/meminfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemInfo {
    /// Bytes that the kernel manages.
    pub(crate) total: Bytes,
    /// Bytes that programs can still take without swapping, reclaimable page cache included.
    pub(crate) available: Bytes,
}

impl MemInfo {
    /// Current figures; none where `/proc` does not tell.
    pub(crate) fn now() -> Option<Self> {
        parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
    }
}

fn parse(meminfo: &str) -> Option<MemInfo> {
    Some(MemInfo {
        total: figure(meminfo, "MemTotal")?,
        available: figure(meminfo, "MemAvailable")?,
    })
}

/// The size that a line `key: 12 kB` of a file in `/proc` says.
pub(crate) fn figure(text: &str, key: &str) -> Option<Bytes> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let meminfo = "MemTotal:       24682416 kB\nMemFree:         3688172 kB\nMemAvailable:   24056676 kB\n";
        let expected = MemInfo {
            total: Bytes::new(24_682_416 << 10),
            available: Bytes::new(24_056_676 << 10),
        };
        assert_eq!(parse(meminfo), Some(expected));
    }

    #[test]
    fn says_nothing_where_the_kernel_does_not() {
        for meminfo in [
            "",
            "MemTotal: 1 kB\n",
            "MemTotal: 1 kB\nMemAvailable: many kB\n",
            "MemTotal: 1 kB\nMemAvailable: 1 pages\n",
            "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n",
        ] {
            assert_eq!(parse(meminfo), None, "{meminfo}");
        }
    }
}
