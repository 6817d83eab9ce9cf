//! Budgets of memories: as given, else what this machine has free.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use llm_plan::{Budgets, Home, Strategy};
use llm_runtime::OffloadFolder;
use llm_tensor::Bytes;

use super::gpus::MachineGpus;
use crate::cli::PlaceArgs;
use crate::failure::refuse;
use crate::resident::ResidentSet;
use crate::system::{self, Room};

/// Budgets of all memories that a model may use.
#[derive(Debug)]
pub(crate) struct MemoryBudgets {
    pub(crate) budgets: Budgets,
    /// Source of the budget of each memory that has one.
    pub(crate) sources: BTreeMap<Home, String>,
    /// GPUs that have a budget and that this machine lacks.
    pub(crate) lacking: Vec<u32>,
    /// GPUs that it has.
    pub(crate) gpus: MachineGpus,
    /// Memories of which more is given than this machine has free, with what that is.
    pub(crate) beyond: BTreeMap<Home, Beyond>,
    /// Folder for weights that are offloaded to disk.
    pub(crate) offload_folder: Option<PathBuf>,
}

/// Free bytes of a memory, where a budget is larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beyond {
    /// Bytes that could be used.
    pub(crate) free: Bytes,
    /// The default budget: that less a margin.
    pub(crate) usable: Bytes,
    /// Source of the figures.
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

impl MemoryBudgets {
    /// Brings budgets for RAM and GPUs down to what this machine has, and says so: more would be believed until the kernel
    /// kills the process, or the driver refuses. A full disk is an error like others, after which a run can be taken up.
    pub(crate) fn bound(&mut self) -> Vec<String> {
        let mut notices = Vec::new();
        let beyond = std::mem::take(&mut self.beyond);
        for (home, beyond) in beyond {
            let device = match home {
                Home::Gpu(number) => number.to_string(),
                Home::Ram => "cpu".to_owned(),
                Home::Disk => {
                    self.beyond.insert(home, beyond);
                    continue;
                }
            };
            let Beyond {
                free,
                usable,
                source,
            } = beyond;
            let given = self.budgets.of(home);
            self.budgets = self.budgets.with(home, usable);
            let bounded = format!("as given, bounded by what is free: {source}");
            self.sources.insert(home, bounded);
            notices.push(format!(
                "--max-memory {device}: {given} is more than the {free} of {home} that are free ({source}); {usable} are used at most"
            ));
        }
        notices
    }

    /// Budgets that the user gives, else what is free. `offloaded` says what of the weights an offload folder holds
    /// already, which need not be free.
    ///
    /// # Errors
    /// When the offload folder is a file, and what `offloaded` answers.
    pub(crate) fn new(
        args: &PlaceArgs,
        offloaded: &dyn Fn(OffloadFolder) -> Result<Bytes>,
    ) -> Result<Self> {
        let (mut free, mut sources) = (Budgets::default(), BTreeMap::new());
        let gpus = MachineGpus::of(args)?;
        let given = args.max_memory.clone().unwrap_or_default();
        let mut beyond = BTreeMap::new();
        for gpu in &gpus.found {
            let (home, room) = (Home::Gpu(gpu.number), system::gpu_memory(gpu));
            let of_it = given.gpus.get(&gpu.number).copied();
            beyond.extend(Beyond::of(of_it, &room, Bytes::ZERO).map(|beyond| (home, beyond)));
            free.gpus.insert(gpu.number, room.bytes);
            sources.insert(home, room.to_string());
        }
        let room = system::ram();
        let own = ResidentSet::now().anonymous();
        beyond.extend(Beyond::of(given.ram, &room, own).map(|beyond| (Home::Ram, beyond)));
        free.ram = room.bytes;
        sources.insert(Home::Ram, room.to_string());
        let offload_folder = system::offload_folder(args.offload_folder.as_deref());
        if let Some(folder) = &offload_folder {
            if folder.is_file() {
                let problem = "is a file; give a folder";
                return refuse(format!("--offload-folder: {} {problem}", folder.display()));
            }
            let room = system::disk(folder);
            let there = offloaded(OffloadFolder::new(folder.clone()))?;
            free.disk = Some(room.bytes + there);
            beyond.extend(Beyond::of(given.disk, &room, there).map(|beyond| (Home::Disk, beyond)));
            let source = room.to_string();
            let source = match there {
                Bytes::ZERO => source,
                there => format!("{source}, and {there} of the weights that are there"),
            };
            sources.insert(Home::Disk, source);
        }
        let named = given.gpus.keys().map(|&number| Home::Gpu(number));
        let others = [(Home::Ram, given.ram), (Home::Disk, given.disk)];
        let others = others.iter().filter(|(_, budget)| budget.is_some());
        for home in named.chain(others.map(|&(home, _)| home)) {
            sources.insert(home, "as given".to_owned());
        }
        // Filled in the order in which they are asked for.
        let of_gpu = |&number: &u32| {
            let budget = given.gpus.get(&number).or(free.gpus.get(&number));
            Some((number, *budget?))
        };
        let used = match args.device_map {
            Strategy::Cpu => [].iter(),
            Strategy::Auto
            | Strategy::Balanced
            | Strategy::BalancedLow0
            | Strategy::Sequential
            | Strategy::Map(_) => gpus.used.iter(),
        };
        let budgets = Budgets {
            gpus: used.filter_map(of_gpu).collect(),
            ram: given.ram.unwrap_or(free.ram),
            disk: given.disk.or(free.disk),
        };
        sources.retain(|home, _| match home {
            Home::Gpu(number) => budgets.gpus.contains_key(number),
            Home::Ram | Home::Disk => true,
        });
        Ok(MemoryBudgets {
            lacking: budgets.lacking(&free).collect(),
            gpus,
            beyond,
            offload_folder,
            budgets,
            sources,
        })
    }
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
        let mut memories = MemoryBudgets {
            budgets: given.over(&Budgets::default()),
            sources: BTreeMap::new(),
            lacking: Vec::new(),
            gpus: MachineGpus::default(),
            beyond: BTreeMap::from([(Home::Ram, found.clone())]),
            offload_folder: None,
        };
        assert_eq!(
            memories.bound(),
            [
                "--max-memory cpu: 64.0 GB (59.6 GiB) is more than the 15.0 GB (14.0 GiB) of RAM that are free \
             (cgroup v2 limit 16.0 GB (14.9 GiB) less usage); 14.5 GB (13.5 GiB) are used at most"
            ]
        );
        assert_eq!(memories.budgets.ram, found.usable);
        assert_eq!(memories.bound(), [""; 0], "it is within now");
    }

    #[test]
    fn what_the_system_does_not_tell_bounds_nothing() {
        let room = ram_of(None, &RamLimits::default());
        let given = Some(Bytes::new(64 * GB));
        assert_eq!(Beyond::of(given, &room, Bytes::ZERO), None);
    }
}
