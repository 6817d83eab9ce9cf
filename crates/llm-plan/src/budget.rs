use std::collections::BTreeMap;
use std::str::FromStr;

use indexmap::IndexMap;
use llm_tensor::Bytes;

use crate::{Home, PlanError, Result};

/// Bytes of each memory that a plan may use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Budgets {
    /// GPUs' memories, by number, in the order in which they are filled. One that is not named is not used.
    pub gpus: IndexMap<u32, Bytes>,
    /// The machine's memory.
    pub ram: Bytes,
    /// Bytes of the offload folder; `None` where nothing may be offloaded to disk.
    pub disk: Option<Bytes>,
}

impl Budgets {
    /// The budget of one memory; nothing where it may not be used.
    pub fn of(&self, home: Home) -> Bytes {
        match home {
            Home::Gpu(number) => self.gpus.get(&number).copied().unwrap_or(Bytes::ZERO),
            Home::Ram => self.ram,
            Home::Disk => self.disk.unwrap_or(Bytes::ZERO),
        }
    }

    /// The same with another budget for one memory.
    pub fn with(&self, home: Home, budget: Bytes) -> Budgets {
        let mut budgets = self.clone();
        match home {
            Home::Gpu(number) => {
                budgets.gpus.insert(number, budget);
            }
            Home::Ram => budgets.ram = budget,
            Home::Disk => budgets.disk = Some(budget),
        }
        budgets
    }

    /// GPUs that are budgeted for and that a machine with `free` memory lacks: a plan with them is hypothetical.
    pub fn lacking<'a>(&'a self, free: &'a Budgets) -> impl Iterator<Item = u32> + 'a {
        let gpus = self.gpus.keys().copied();
        gpus.filter(|number| !free.gpus.contains_key(number))
    }
}

/// Budgets as a user gives them: `0=15GB,cpu=12.7GB,disk=100GB`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MaxMemory {
    /// GPUs' memories.
    pub gpus: BTreeMap<u32, Bytes>,
    /// The machine's memory.
    pub ram: Option<Bytes>,
    /// The offload folder.
    pub disk: Option<Bytes>,
}

impl MaxMemory {
    /// Budgets, those of `free` where not named; but once a GPU is named, others are not used.
    pub fn over(self, free: &Budgets) -> Budgets {
        Budgets {
            gpus: if self.gpus.is_empty() {
                free.gpus.clone()
            } else {
                self.gpus.into_iter().collect()
            },
            ram: self.ram.unwrap_or(free.ram),
            disk: self.disk.or(free.disk),
        }
    }
}

impl FromStr for MaxMemory {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self> {
        let mut budgets = MaxMemory::default();
        for part in text.split(',') {
            let (device, size) = part.split_once('=').ok_or_else(|| PlanError::NotABudget {
                text: part.trim().to_owned(),
            })?;
            let device = device.trim();
            let size = size.parse::<Bytes>().map_err(|flaw| PlanError::Size {
                device: device.to_owned(),
                flaw,
            })?;
            let replaced = match device.parse::<Home>()? {
                Home::Gpu(number) => budgets.gpus.insert(number, size),
                Home::Ram => budgets.ram.replace(size),
                Home::Disk => budgets.disk.replace(size),
            };
            if replaced.is_some() {
                return Err(PlanError::BudgetTwice {
                    device: device.to_owned(),
                });
            }
        }
        Ok(budgets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn reads_what_people_write() {
        let budgets: MaxMemory = "0=15GB, 1 = 8GiB,cpu=12.7GB,disk=100GB".parse().unwrap();
        let expected = MaxMemory {
            gpus: [(0, Bytes::new(15 * GB)), (1, Bytes::new(8 << 30))].into(),
            ram: Some(Bytes::new(12_700_000_000)),
            disk: Some(Bytes::new(100 * GB)),
        };
        assert_eq!(budgets, expected);
        assert_eq!("cuda:3=1GB".parse::<MaxMemory>().unwrap().gpus.len(), 1);
    }

    #[test]
    fn says_what_to_write_instead() {
        let cases = [
            ("0=15 gigs", "the budget of `0`: `15 gigs` is not a size"),
            ("gpu=15GB", "`gpu` is no device"),
            ("-1=15GB", "`-1` is no device"),
            ("15GB", "`15GB` is not a budget; write a device and a size"),
            ("", "`` is not a budget"),
            ("cpu=1GB,cpu=2GB", "`cpu` has two budgets"),
        ];
        for (text, expected) in cases {
            let message = text.parse::<MaxMemory>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_named_replaces_what_is_free() {
        let free = Budgets {
            gpus: [(0, Bytes::new(80 * GB))].into(),
            ram: Bytes::new(64 * GB),
            disk: None,
        };
        let over = |text: &str| text.parse::<MaxMemory>().unwrap().over(&free);
        assert_eq!(over("cpu=1GB"), free.with(Home::Ram, Bytes::new(GB)));
        let other = over("1=15GB,disk=1GB");
        assert_eq!(other.gpus, [(1, Bytes::new(15 * GB))].into());
        assert_eq!(other.disk, Some(Bytes::new(GB)));
        assert_eq!(other.lacking(&free).collect::<Vec<_>>(), [1]);
    }
}
