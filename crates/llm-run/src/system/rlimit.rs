//! Limits that this process is under by itself, as `ulimit` sets them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use llm_tensor::Bytes;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::meminfo::figure;

/// A limit, and what this process takes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ProcessLimit {
    /// Name of the limit, as the system has it: `RLIMIT_AS`.
    pub(crate) name: &'static str,
    #[serde(rename = "limit_bytes", serialize_with = "super::number")]
    pub(crate) limit: Bytes,
    /// Bytes that the process takes of it, without files that are mapped to be read: a budget counts those that it uses.
    #[serde(rename = "usage_bytes", serialize_with = "super::number")]
    pub(crate) usage: Bytes,
}

impl ProcessLimit {
    /// Bytes that the process can still take.
    pub(crate) fn free(&self) -> Bytes {
        self.limit.saturating_sub(self.usage)
    }
}

impl fmt::Display for ProcessLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = match self.name {
            ADDRESS_SPACE => "ulimit -v",
            _ => "ulimit -d",
        };
        write!(f, "{} ({flag}) {} less usage", self.name, self.limit)
    }
}

/// Limits of this process, the tightest first.
pub(super) fn process_limits() -> Vec<ProcessLimit> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let usage = Usage::of(&status, &maps);
    let limit = |resource, name, usage| {
        let limit = getrlimit(resource).current?;
        Some(ProcessLimit {
            name,
            limit: Bytes::new(limit),
            usage,
        })
    };
    let limits = [
        limit(Resource::As, ADDRESS_SPACE, usage.address_space),
        limit(Resource::Data, DATA, usage.data),
    ];
    let mut limits: Vec<_> = limits.into_iter().flatten().collect();
    limits.sort_by_key(ProcessLimit::free);
    limits
}

/// Bytes that a process takes of what may be limited.
#[derive(Debug, PartialEq, Eq)]
struct Usage {
    address_space: Bytes,
    data: Bytes,
}

impl Usage {
    fn of(status: &str, maps: &str) -> Self {
        let of = |key| figure(status, key).unwrap_or(Bytes::ZERO);
        Usage {
            address_space: of("VmSize").saturating_sub(mapped_to_be_read(maps)),
            data: of("VmData"),
        }
    }
}

/// Files that are mapped to be read, but for those of which code is run.
fn mapped_to_be_read(maps: &str) -> Bytes {
    let mut files: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (range, access, file) = (words.next(), words.next(), words.nth(3));
        let (Some(range), Some(access), Some(file)) = (range, access, file) else {
            continue;
        };
        let address = |text| u64::from_str_radix(text, 16).ok();
        let length = range
            .split_once('-')
            .and_then(|(from, to)| address(to)?.checked_sub(address(from)?));
        if file.starts_with('/') {
            let (sum, is_code) = files.entry(file).or_default();
            *sum += length.unwrap_or(0);
            *is_code |= !access.starts_with("r--");
        }
    }
    let files = files.values().filter(|(_, is_code)| !is_code);
    Bytes::new(files.map(|(length, _)| length).sum())
}

const ADDRESS_SPACE: &str = "RLIMIT_AS";
const DATA: &str = "RLIMIT_DATA";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_to_be_read_is_the_budgets() {
        let status = "VmSize:\t  1000 kB\nVmData:\t   300 kB\n";
        let maps = "\
00000000-00010000 r--p 00000000 fe:00 12   /usr/bin/llm-run
00010000-00020000 r-xp 00010000 fe:00 12   /usr/bin/llm-run
00020000-00060000 r--p 00000000 fe:00 77   /models/a/model.safetensors
00060000-00061000 rw-p 00000000 00:00 0
00061000-00062000 r--s 00000000 fe:00 78   /models/a/b.safetensors
7ffd0000-7ffd1000 r--p 00000000 00:00 0    [vvar]
";
        let usage = Usage::of(status, maps);
        assert_eq!(usage.address_space, Bytes::new((1000 << 10) - 0x41000));
        assert_eq!(usage.data, Bytes::new(300 << 10));
        let nothing = Usage::of("", "x\n- r--p 0 0 0 /x\n");
        assert_eq!(
            nothing,
            Usage {
                address_space: Bytes::ZERO,
                data: Bytes::ZERO
            }
        );
    }

    #[test]
    fn a_limit_says_what_it_is() {
        let limit = ProcessLimit {
            name: ADDRESS_SPACE,
            limit: Bytes::new(16_000_000_000),
            usage: Bytes::new(1_000_000_000),
        };
        assert_eq!(
            limit.to_string(),
            "RLIMIT_AS (ulimit -v) 16.0 GB (14.9 GiB) less usage"
        );
        assert_eq!(limit.free(), Bytes::new(15_000_000_000));
    }
}
