//! GPUs that a model may use: as asked for, of those that the machine has.

use anyhow::Result;
use llm_plan::{MaxMemory, Strategy};

use crate::cli::{DeviceArg, PlaceArgs};
use crate::failure::refuse;
use crate::system::{self, Gpu, NoGpu};

/// GPUs of this machine, and the one of them that may be used.
#[derive(Debug, Default)]
pub(crate) struct MachineGpus {
    /// All that the driver shows.
    pub(crate) found: Vec<Gpu>,
    /// The one that computes unless budgets name another.
    pub(crate) used: Option<Gpu>,
    /// Reason why there is none; nothing where nobody looked.
    pub(crate) none_because: Option<NoGpu>,
}

impl MachineGpus {
    /// GPUs as the flags ask for them. The driver is left alone where they ask for none.
    ///
    /// # Errors
    /// When the flags contradict each other, or ask for a GPU that is not there and that has no budget either.
    pub(crate) fn of(args: &PlaceArgs) -> Result<Self> {
        let none = MaxMemory::default();
        let given = &args.max_memory.as_ref().unwrap_or(&none).gpus;
        let other = match args.device {
            DeviceArg::Auto => None,
            DeviceArg::Cpu => given.keys().next(),
            DeviceArg::Gpu(number) => given.keys().find(|&&of| of != number),
        };
        if let Some(other) = other {
            return refuse(format!(
                "--device {} does not use GPU {other}, for which --max-memory has a budget; leave out one of them",
                args.device
            ));
        }
        let wants_cpu = args.device == DeviceArg::Cpu || args.device_map == Strategy::Cpu;
        match args.device {
            DeviceArg::Gpu(_) if wants_cpu => refuse(format!(
                "--device {} and --device-map cpu exclude each other; leave out one of them",
                args.device
            )),
            DeviceArg::Auto | DeviceArg::Cpu if wants_cpu => Ok(MachineGpus::default()),
            DeviceArg::Auto | DeviceArg::Cpu | DeviceArg::Gpu(_) => {
                let is_given = |number| given.contains_key(&number);
                Self::choose(args.device, is_given, system::gpus())
            }
        }
    }

    fn choose(
        device: DeviceArg,
        is_given: impl Fn(u32) -> bool,
        found: Result<Vec<Gpu>, NoGpu>,
    ) -> Result<Self> {
        let (found, none_because) = match found {
            Ok(found) => (found, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let used = match device {
            DeviceArg::Auto => found.first(),
            DeviceArg::Cpu => None,
            DeviceArg::Gpu(number) => {
                let used = found.iter().find(|gpu| gpu.number == number);
                if used.is_none() && !is_given(number) {
                    return refuse(absent(number, &found, none_because.as_ref()));
                }
                used
            }
        };
        Ok(MachineGpus {
            used: used.cloned(),
            none_because,
            found,
        })
    }

    /// Sentence about a GPU that this machine lacks.
    pub(crate) fn absent(&self, number: u32) -> String {
        absent(number, &self.found, self.none_because.as_ref())
    }
}

/// `this machine has no GPU 1, only GPU 0`, or why it has none at all.
fn absent(number: u32, found: &[Gpu], none_because: Option<&NoGpu>) -> String {
    let there = match (found, none_because) {
        ([], None) => String::new(),
        ([], Some(because)) => format!(": {because}"),
        ([only], _) => format!(", only GPU {}", only.number),
        ([first, .., last], _) => format!(", only GPU {} to {}", first.number, last.number),
    };
    format!("this machine has no GPU {number}{there}")
}

#[cfg(test)]
mod tests {
    use llm_tensor::Bytes;

    use super::*;

    fn gpu(number: u32) -> Gpu {
        Gpu {
            number,
            name: "a card".to_owned(),
            uuid: "e0".to_owned(),
            compute_capability: (8, 0),
            cuda_version: "12.4".to_owned(),
            total: Bytes::mib(1024),
            free: Bytes::mib(1000),
            measured: None,
        }
    }

    fn broken() -> NoGpu {
        NoGpu {
            reason: "the driver fails".to_owned(),
            is_broken: true,
        }
    }

    #[test]
    fn the_first_is_used_unless_another_is_asked_for() {
        struct Case {
            device: DeviceArg,
            found: Result<Vec<Gpu>, NoGpu>,
            used: Result<Option<u32>, &'static str>,
        }
        let auto = DeviceArg::Auto;
        let cases = [
            Case {
                device: auto,
                found: Ok(vec![gpu(0), gpu(1)]),
                used: Ok(Some(0)),
            },
            Case {
                device: auto,
                found: Err(broken()),
                used: Ok(None),
            },
            Case {
                device: DeviceArg::Gpu(1),
                found: Ok(vec![gpu(0), gpu(1)]),
                used: Ok(Some(1)),
            },
            Case {
                device: DeviceArg::Gpu(2),
                found: Ok(vec![gpu(0), gpu(1)]),
                used: Err("this machine has no GPU 2, only GPU 0 to 1"),
            },
            Case {
                device: DeviceArg::Gpu(1),
                found: Ok(vec![gpu(0)]),
                used: Err("this machine has no GPU 1, only GPU 0"),
            },
            Case {
                device: DeviceArg::Gpu(0),
                found: Err(broken()),
                used: Err("this machine has no GPU 0: the driver fails"),
            },
            // A plan for another machine.
            Case {
                device: DeviceArg::Gpu(7),
                found: Err(broken()),
                used: Ok(None),
            },
        ];
        for (i, case) in cases.into_iter().enumerate() {
            let is_given = |number| number == 7;
            let found = MachineGpus::choose(case.device, is_given, case.found);
            let found = found.map(|gpus| gpus.used.map(|gpu| gpu.number));
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found, case.used.map_err(str::to_owned), "case {i}");
        }
    }
}
