//! What the user says of memories and devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use llm_plan::{Budgets, Home, MaxMemory, Strategy};
use llm_runtime::OffloadFolder;
use llm_tensor::Bytes;

use crate::failure::UserError;
use crate::memory::Memory;
use crate::system::{self, Room};

/// Which memories a model may use, and how its parts are placed in them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Placement")]
pub(crate) struct PlaceArgs {
    /// What may be used of each memory, as 0=15GB,cpu=12.7GB,disk=100GB: GPUs by number, of RAM what the whole process
    /// takes, of the disk what is written [default: what is free]
    #[arg(long, value_name = "BUDGETS")]
    pub(crate) max_memory: Option<MaxMemory>,
    /// Where weights rest: auto, balanced, balanced_low_0, sequential, cpu, or a JSON file from modules to GPUs'
    /// numbers, "cpu" and "disk", as accelerate writes it
    #[arg(long, value_name = "MAP", default_value = "auto", value_parser = device_map)]
    pub(crate) device_map: Strategy,
    /// A folder for weights that neither GPU nor RAM has room for, unless the checkpoint itself holds them as they are
    /// computed with [default: `offload` in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    offload_folder: Option<PathBuf>,
}

/// How much of each memory may be used.
#[derive(Debug)]
pub(crate) struct Memories {
    pub(crate) budgets: Budgets,
    /// Who says so, of each memory that has a budget.
    pub(crate) sources: BTreeMap<Home, String>,
    /// GPUs that have a budget and that this machine lacks.
    pub(crate) lacking: Vec<u32>,
    /// RAM or disk of which more is given than this machine has free, with what that is.
    pub(crate) beyond: BTreeMap<Home, Beyond>,
    /// Where weights that rest on disk are written.
    pub(crate) offload_folder: Option<PathBuf>,
}

/// What this machine has free of a memory, where a budget is larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// What could be used.
    pub(crate) free: Bytes,
    /// What would be used unless told: that less a margin.
    pub(crate) usable: Bytes,
    /// Who says so.
    pub(crate) source: String,
}

impl Beyond {
    /// `given` beside what is free, `own` of it being this process's already; nothing where it is enough, or where the
    /// system does not tell.
    fn of(given: Option<Bytes>, room: &Room, own: Bytes) -> Option<Self> {
        let free = room.free + own;
        let is_beyond = room.is_known() && given.is_some_and(|given| given > free);
        is_beyond.then(|| Beyond {
            free,
            usable: room.bytes + own,
            source: room.source.clone(),
        })
    }
}

impl Memories {
    /// Brings a budget for RAM down to what this machine has, and says so: more would be believed until the kernel kills
    /// the process. A full disk is an error like others, after which a run can be taken up.
    pub(crate) fn bound(&mut self) -> Option<String> {
        let Beyond {
            free,
            usable,
            source,
        } = self.beyond.remove(&Home::Ram)?;
        let given = self.budgets.ram;
        self.budgets.ram = usable;
        let bounded = format!("as given, bounded by what is free: {source}");
        self.sources.insert(Home::Ram, bounded);
        Some(format!(
            "--max-memory cpu: {given} is more than the {free} of RAM that are free ({source}); {usable} are used at most"
        ))
    }
}

impl PlaceArgs {
    /// Where weights are written that rest on disk: as given, else in the user's cache folder; nowhere for a user who
    /// has none.
    pub(crate) fn offload_folder(&self) -> Option<PathBuf> {
        system::offload_folder(self.offload_folder.as_deref())
    }

    /// What the user gives, else what is free. `offloaded` says what of the weights an offload folder holds already, which
    /// need not be free.
    ///
    /// # Errors
    /// When the offload folder is a file, and what `offloaded` answers.
    pub(crate) fn memories(
        &self,
        offloaded: &dyn Fn(OffloadFolder) -> Result<Bytes>,
    ) -> Result<Memories> {
        let (mut free, mut sources) = (Budgets::default(), BTreeMap::new());
        for (number, name, room) in system::gpus() {
            free.gpus.insert(number, room.bytes);
            sources.insert(Home::Gpu(number), format!("{name}, {}", less_margin(&room)));
        }
        let given = self.max_memory.clone().unwrap_or_default();
        let mut beyond = BTreeMap::new();
        let room = system::ram();
        let own = Memory::now().anonymous();
        beyond.extend(Beyond::of(given.ram, &room, own).map(|beyond| (Home::Ram, beyond)));
        free.ram = room.bytes;
        sources.insert(Home::Ram, less_margin(&room));
        let offload_folder = self.offload_folder();
        if let Some(folder) = &offload_folder {
            if folder.is_file() {
                let problem = "is a file; give a folder";
                let message = format!("--offload-folder: {} {problem}", folder.display());
                return Err(UserError(message).into());
            }
            let room = system::disk(folder);
            let there = offloaded(OffloadFolder::new(folder.clone()))?;
            free.disk = Some(room.bytes + there);
            beyond.extend(Beyond::of(given.disk, &room, there).map(|beyond| (Home::Disk, beyond)));
            let source = less_margin(&room);
            let source = match there {
                Bytes::ZERO => source,
                there => format!("{source}, and {there} of the weights that are there"),
            };
            sources.insert(Home::Disk, source);
        }
        let gpus = given.gpus.keys().map(|&number| Home::Gpu(number));
        let others = [(Home::Ram, given.ram), (Home::Disk, given.disk)];
        let others = others.iter().filter(|(_, budget)| budget.is_some());
        for home in gpus.chain(others.map(|&(home, _)| home)) {
            sources.insert(home, "as given".to_owned());
        }
        let mut budgets = given.over(&free);
        if self.device_map == Strategy::Cpu {
            budgets.gpus.clear();
        }
        sources.retain(|home, _| match home {
            Home::Gpu(number) => budgets.gpus.contains_key(number),
            Home::Ram | Home::Disk => true,
        });
        Ok(Memories {
            lacking: budgets.lacking(&free).collect(),
            beyond,
            offload_folder,
            budgets,
            sources,
        })
    }
}

/// `MemAvailable less a margin of 67.1 MB (64.0 MiB)`.
fn less_margin(room: &Room) -> String {
    format!("{} less a margin of {}", room.source, room.margin)
}

/// A strategy by its name, or a map in a file.
fn device_map(text: &str) -> Result<Strategy, String> {
    let path = Path::new(text);
    let is_file = path
        .extension()
        .is_some_and(|extension| extension == "json")
        || path.is_file();
    if !is_file {
        return text
            .parse()
            .map_err(|flaw: llm_plan::PlanError| flaw.to_string());
    }
    let json = std::fs::read_to_string(path).map_err(|error| format!("cannot read it: {error}"))?;
    let map = json.parse().map(Strategy::Map);
    map.map_err(|flaw: llm_plan::PlanError| flaw.to_string())
}

#[cfg(test)]
mod tests {
    use llm_plan::MaxMemory;

    use super::*;
    use crate::system::{Limit, MemInfo, RamLimits, Version, ram_of};

    const GB: u64 = 1_000_000_000;

    /// A container of 16 GB on a machine of 64.
    fn container() -> Room {
        let memory = MemInfo {
            total: Bytes::new(64 * GB),
            available: Bytes::new(60 * GB),
        };
        let limit = Limit {
            version: Version::V2,
            folder: PathBuf::from("/sys/fs/cgroup"),
            limit: Bytes::new(16 * GB),
            usage: Bytes::new(3 * GB),
            page_cache: Bytes::new(2 * GB),
        };
        let limits = RamLimits {
            groups: vec![limit],
            process: Vec::new(),
        };
        ram_of(Some(memory), &limits)
    }

    #[test]
    fn a_budget_beyond_a_containers_limit_is_brought_down_to_it() {
        let own = Bytes::new(GB / 100);
        let beyond = |given: Option<u64>| Beyond::of(given.map(Bytes::new), &container(), own);
        assert_eq!(beyond(None), None);
        assert_eq!(beyond(Some(15 * GB)), None, "as given, to the last byte");
        assert_eq!(
            beyond(Some(15 * GB + GB / 100)),
            None,
            "with what is its own"
        );
        let found = beyond(Some(15 * GB + GB / 100 + 1)).unwrap();
        assert_eq!(found, beyond(Some(64 * GB)).unwrap());
        assert_eq!(found.free, Bytes::new(15 * GB + GB / 100));
        assert!(found.usable < found.free);

        let given: MaxMemory = "cpu=64GB".parse().unwrap();
        let mut memories = Memories {
            budgets: given.over(&Budgets::default()),
            sources: BTreeMap::new(),
            lacking: Vec::new(),
            beyond: BTreeMap::from([(Home::Ram, found.clone())]),
            offload_folder: None,
        };
        let notice = memories.bound().unwrap();
        assert_eq!(
            notice,
            "--max-memory cpu: 64.0 GB (59.6 GiB) is more than the 15.0 GB (14.0 GiB) of RAM that are free \
             (cgroup v2 limit 16.0 GB (14.9 GiB) less usage); 14.5 GB (13.5 GiB) are used at most"
        );
        assert_eq!(memories.budgets.ram, found.usable);
        assert_eq!(memories.bound(), None, "it is within now");
    }

    #[test]
    fn what_the_system_does_not_tell_bounds_nothing() {
        let room = ram_of(None, &RamLimits::default());
        let given = Some(Bytes::new(64 * GB));
        assert_eq!(Beyond::of(given, &room, Bytes::ZERO), None);
    }
}
