//! What this machine has free, and how fast it is: what a plan is made for.

use std::fmt;
use std::path::{Path, PathBuf};

use llm_plan::Bandwidths;
use llm_tensor::Bytes;
use serde::{Serialize, Serializer};

mod cgroup;
mod gpu;
mod machine;
mod measured;
mod meminfo;

pub(crate) use cgroup::Limit;
pub(crate) use gpu::no_gpu_reason;
pub(crate) use machine::Machine;
pub(crate) use measured::{Bandwidth, Measurement, cache_folder, keep};
pub(crate) use meminfo::MemInfo;

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

    fn unknown(source: String) -> Self {
        Room {
            bytes: Bytes::ZERO,
            free: Bytes::ZERO,
            margin: Bytes::ZERO,
            source,
        }
    }
}

/// The machine's memory: what the kernel calls available, or what is left of a cgroup's limit where that is less.
pub(crate) fn ram() -> Room {
    ram_of(MemInfo::now(), &ram_limits())
}

/// The same from what was read before.
pub(crate) fn ram_of(memory: Option<MemInfo>, limits: &[Limit]) -> Room {
    let available = memory.map(|memory| Room::new(memory.available, "MemAvailable".to_owned()));
    let limited = limits.iter().min_by_key(|limit| limit.free());
    let limited = limited.map(|limit| Room::new(limit.free(), limit.to_string()));
    available
        .into_iter()
        .chain(limited)
        .min_by_key(|room| room.free)
        .unwrap_or_else(|| {
            Room::unknown("/proc/meminfo does not say; give --max-memory cpu=SIZE".to_owned())
        })
}

/// The limits that this process's memory is under, the tightest first; those that the machine's memory is within are
/// none.
pub(crate) fn ram_limits() -> Vec<Limit> {
    let total = MemInfo::now().map_or(Bytes::new(u64::MAX), |memory| memory.total);
    let mut limits = cgroup::limits(Path::new("/"));
    limits.retain(|limit| limit.limit < total);
    limits.sort_by_key(Limit::free);
    limits
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

/// Where bandwidths come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Measured {
    /// `llm-run doctor` measured those of RAM and, where it could, disk on this machine; those of GPUs are assumed.
    OnThisMachine {
        /// The day, as 2026-07-06.
        date: String,
    },
    /// Nobody measured.
    Assumed,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Measured::OnThisMachine { date } => write!(f, "measured by `llm-run doctor` on {date}"),
            Measured::Assumed => f.write_str("assumed; `llm-run doctor` measures this machine's"),
        }
    }
}

/// Bytes a second: what `llm-run doctor` measured on this machine, else what is usual.
pub(crate) fn bandwidths() -> (Bandwidths, Measured) {
    let kept = cache_folder().and_then(|folder| Measurement::read(&folder, &Machine::this()));
    match kept {
        None => (USUAL, Measured::Assumed),
        Some(kept) => (
            Bandwidths {
                ram: kept.bandwidth.ram,
                disk: kept.bandwidth.disk.unwrap_or(USUAL.disk),
                ..USUAL
            },
            Measured::OnThisMachine { date: kept.date() },
        ),
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

/// A small data centre GPU behind 16 lanes of PCIe 3, two channels of DDR4, and a solid-state drive.
const USUAL: Bandwidths = Bandwidths {
    gpu: 300e9,
    pcie: 12e9,
    ram: 20e9,
    disk: 1e9,
};

#[cfg(test)]
mod tests;
