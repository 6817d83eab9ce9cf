//! Free memory of this machine, and its bandwidths, which a plan is made for.

use std::fmt;
use std::path::{Path, PathBuf};

use llm_tensor::Bytes;
use serde::{Serialize, Serializer};

use crate::failure::UserError;

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
pub(crate) use gpu::{Gpu, LeftOut, NoGpu, ShownGpus, capability, gpus};
pub(crate) use machine::Machine;
pub(crate) use measured::{
    Bandwidth, Kept, MeasuredDisk, MeasuredGpu, MeasuredLink, Measurement, Volume, cache_folder,
    keep,
};
pub(crate) use meminfo::{MemInfo, figure};
pub(crate) use rates::{Origin, Rates, USUAL};
pub(crate) use rlimit::ProcessLimit;

/// Room that a memory has left for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Room {
    /// Bytes that a plan may use: what is free less the margin.
    #[serde(rename = "usable_bytes", serialize_with = "number")]
    pub(crate) bytes: Bytes,
    /// Bytes that are free now.
    #[serde(rename = "free_bytes", serialize_with = "number")]
    pub(crate) free: Bytes,
    /// Bytes that are left to other programs.
    #[serde(rename = "margin_bytes", serialize_with = "number")]
    pub(crate) margin: Bytes,
    /// Source of the figures: `MemAvailable`, or `cgroup v2 limit 12.7 GB (11.8 GiB) less usage`.
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

    /// True where the system told what is free.
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

/// `MemAvailable less a margin of 67.1 MB (64.0 MiB)`.
impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} less a margin of {}", self.source, self.margin)
    }
}

/// The machine's memory: what the kernel calls available, or what is left of a limit where that is less.
pub(crate) fn ram() -> Room {
    ram_of(MemInfo::now(), &RamLimits::now())
}

/// The machine's memory, from figures that were read before.
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
    /// Limits of control groups, as far as they are less than the machine's memory.
    pub(crate) groups: Vec<Limit>,
    /// Limits of the process itself.
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

/// Memory of a GPU: what its driver calls free, and what this process's own context takes of the rest.
///
/// The driver tells what is free only to who has a context there, and a plan counts the context of its run.
pub(crate) fn gpu_memory(gpu: &Gpu) -> Room {
    let own = gpu.context().min(gpu.total.saturating_sub(gpu.free));
    let Gpu {
        name, total, free, ..
    } = gpu;
    let source = format!("{name}: {free} of {total} are free");
    let source = match own {
        Bytes::ZERO => source,
        own => format!("{source} and {own} this program's own"),
    };
    Room::new(gpu.free + own, source)
}

/// Offload folder: as given, else in the user's cache folder, if there is one.
pub(crate) fn offload_folder(given: Option<&Path>) -> Option<PathBuf> {
    let given = given.map(Path::to_owned);
    given.or_else(|| Some(cache_folder()?.join("offload")))
}

/// Offload folder, where there has to be one.
///
/// # Errors
/// When nothing says where the user's cache folder is.
pub(crate) fn expect_offload_folder(given: Option<&Path>) -> Result<PathBuf, UserError> {
    let missing = || {
        let reason = "neither XDG_CACHE_HOME nor HOME says where the cache folder is";
        UserError(format!("{reason}; give --offload-folder"))
    };
    offload_folder(given).ok_or_else(missing)
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
/// Bytes that a desktop's programs take and give back within minutes.
const LEAST_MARGIN: Bytes = Bytes::mib(64);
const MOST_MARGIN: Bytes = Bytes::mib(1024);

#[cfg(test)]
mod tests;
