//! What this machine has free, and how fast it is: what a plan is made for.

use std::path::{Path, PathBuf};

use llm_tensor::Bytes;
use serde::{Serialize, Serializer};

mod cgroup;
mod gpu;
mod machine;
mod measured;
mod meminfo;
mod rates;
mod rlimit;

pub(crate) use cgroup::Limit;
#[cfg(test)]
pub(crate) use cgroup::Version;
pub(crate) use gpu::no_gpu_reason;
pub(crate) use machine::Machine;
pub(crate) use measured::{Bandwidth, Kept, MeasuredDisk, Measurement, Volume, cache_folder, keep};
pub(crate) use meminfo::MemInfo;
pub(crate) use rates::{Origin, Rates, USUAL};
pub(crate) use rlimit::ProcessLimit;

/// What a memory has left for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Room {
    /// What a plan may use: what is free less the margin.
    #[serde(rename = "usable_bytes", serialize_with = "number")]
    pub(crate) bytes: Bytes,
    /// What is free now.
    #[serde(rename = "free_bytes", serialize_with = "number")]
    pub(crate) free: Bytes,
    /// What is left alone: what other programs take meanwhile.
    #[serde(rename = "margin_bytes", serialize_with = "number")]
    pub(crate) margin: Bytes,
    /// Who says so: `MemAvailable`, or `cgroup v2 limit 12.7 GB (11.8 GiB) less usage`.
    pub(crate) source: String,
}

impl Room {
    fn new(free: Bytes, source: String) -> Self {
        let margin = Bytes::new(free.get() / MARGIN_SHARE).clamp(LEAST_MARGIN, MOST_MARGIN);
        Room {
            bytes: free.saturating_sub(margin),
            free,
            margin,
            source,
        }
    }

    /// Whether the system told what is free.
    pub(crate) fn is_known(&self) -> bool {
        self.margin > Bytes::ZERO
    }

    fn unknown(source: String) -> Self {
        Room {
            bytes: Bytes::ZERO,
            free: Bytes::ZERO,
            margin: Bytes::ZERO,
            source,
        }
    }
}

/// The machine's memory: what the kernel calls available, or what is left of a limit where that is less.
pub(crate) fn ram() -> Room {
    ram_of(MemInfo::now(), &RamLimits::now())
}

/// The same from what was read before.
pub(crate) fn ram_of(memory: Option<MemInfo>, limits: &RamLimits) -> Room {
    let available = memory.map(|memory| (memory.available, "MemAvailable".to_owned()));
    let of_groups = limits.groups.iter().map(|l| (l.free(), l.to_string()));
    let of_process = limits.process.iter().map(|l| (l.free(), l.to_string()));
    let all = available.into_iter().chain(of_groups).chain(of_process);
    match all.min_by_key(|&(free, _)| free) {
        Some((free, source)) => Room::new(free, source),
        None => Room::unknown("/proc/meminfo does not say; give --max-memory cpu=SIZE".to_owned()),
    }
}

/// The limits that this process's memory is under, the tightest of a kind first.
#[derive(Debug, Default)]
pub(crate) struct RamLimits {
    /// Those of control groups; what the machine's memory is within is none.
    pub(crate) groups: Vec<Limit>,
    /// Those of the process itself.
    pub(crate) process: Vec<ProcessLimit>,
}

impl RamLimits {
    pub(crate) fn now() -> Self {
        let total = MemInfo::now().map_or(Bytes::new(u64::MAX), |memory| memory.total);
        let mut groups = cgroup::limits(Path::new("/"));
        groups.retain(|limit| limit.limit < total);
        groups.sort_by_key(Limit::free);
        RamLimits {
            groups,
            process: rlimit::process_limits(),
        }
    }
}

/// GPUs to compute on, by number and name. There are none, and [`no_gpu_reason`] says why.
pub(crate) fn gpus() -> Vec<(u32, String, Room)> {
    Vec::new()
}

/// Where weights that rest on disk are written: as given, else in the user's cache folder, if there is one.
pub(crate) fn offload_folder(given: Option<&Path>) -> Option<PathBuf> {
    let given = given.map(Path::to_owned);
    given.or_else(|| Some(cache_folder()?.join("offload")))
}

/// The file system of the offload folder, or of where it would be made.
pub(crate) fn disk(folder: &Path) -> Room {
    let statistics = std::path::absolute(folder).and_then(|folder| {
        let is_there = |folder: &&Path| folder.exists();
        let existing = folder.ancestors().find(is_there).unwrap_or(&folder);
        Ok(rustix::fs::statvfs(existing)?)
    });
    match statistics {
        Ok(statistics) => {
            let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
            let source = format!("the file system of {}", folder.display());
            Room::new(Bytes::new(free), source)
        }
        Err(error) => Room::unknown(format!("{}: {error}", folder.display())),
    }
}

fn number<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bytes.get())
}

/// The margin is this part of what is free, within the bounds below.
const MARGIN_SHARE: u64 = 32;
/// What a desktop's programs take and give back within minutes.
const LEAST_MARGIN: Bytes = Bytes::mib(64);
const MOST_MARGIN: Bytes = Bytes::mib(1024);

#[cfg(test)]
mod tests;
