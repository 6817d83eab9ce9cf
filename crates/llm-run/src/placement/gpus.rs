//! GPUs that a model may use: as asked for, of those that the machine has.

use anyhow::Result;
use llm_plan::{MaxMemory, Strategy};

use crate::cli::{DeviceArg, PlaceArgs};
use crate::failure::refuse;
use crate::system::{self, Gpu, LeftOut, NoGpu, ShownGpus};

/// GPUs of this machine, and those that may be used.
#[derive(Debug, Default)]
pub(crate) struct MachineGpus {
    /// All that can be computed on.
    pub(crate) found: Vec<Gpu>,
    /// Those that cannot, though the driver shows them.
    pub(crate) left_out: Vec<LeftOut>,
    /// Numbers of those that compute, in the order in which they are filled. One that has a budget need not be there.
    pub(crate) used: Vec<u32>,
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
        let device = &args.device;
        let other = match device {
            DeviceArg::Auto => None,
            DeviceArg::Cpu => given.keys().next(),
            DeviceArg::Gpus(numbers) => given.keys().find(|of| !numbers.contains(of)),
        };
        if let Some(other) = other {
            return refuse(format!(
                "--device {device} does not use GPU {other}, for which --max-memory has a budget; leave out one of them"
            ));
        }
        let wants_cpu = *device == DeviceArg::Cpu || args.device_map == Strategy::Cpu;
        match device {
            DeviceArg::Gpus(_) if wants_cpu => refuse(format!(
                "--device {device} and --device-map cpu exclude each other; leave out one of them"
            )),
            DeviceArg::Auto | DeviceArg::Cpu if wants_cpu => Ok(MachineGpus::default()),
            DeviceArg::Auto | DeviceArg::Cpu | DeviceArg::Gpus(_) => {
                let given: Vec<u32> = given.keys().copied().collect();
                Self::choose(device, &given, system::gpus())
            }
        }
    }

    /// `given` have budgets.
    fn choose(device: &DeviceArg, given: &[u32], shown: Result<ShownGpus, NoGpu>) -> Result<Self> {
        let (shown, none_because) = match shown {
            Ok(shown) => (shown, None),
            Err(reason) => (ShownGpus::default(), Some(reason)),
        };
        let mut gpus = MachineGpus {
            found: shown.gpus,
            left_out: shown.left_out,
            used: Vec::new(),
            none_because,
        };
        gpus.used = match device {
            DeviceArg::Auto if given.is_empty() => {
                gpus.found.iter().map(|gpu| gpu.number).collect()
            }
            DeviceArg::Auto => given.to_vec(),
            DeviceArg::Cpu => Vec::new(),
            DeviceArg::Gpus(numbers) => {
                let mut without_budget = numbers.iter().filter(|number| !given.contains(number));
                let lacking = without_budget.find(|&&number| gpus.numbered(number).is_none());
                if let Some(&lacking) = lacking {
                    return refuse(gpus.absent(lacking));
                }
                numbers.clone()
            }
        };
        Ok(gpus)
    }

    /// The first of this machine's that computes.
    pub(crate) fn first(&self) -> Option<&Gpu> {
        self.used.iter().find_map(|&number| self.numbered(number))
    }

    /// The GPU of a number, if this machine has it.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Gpu> {
        self.found.iter().find(|gpu| gpu.number == number)
    }

    /// Sentence about a GPU that this machine lacks: `this machine has no GPU 1, only GPU 0`, or why it has none at all.
    pub(crate) fn absent(&self, number: u32) -> String {
        if let Some(left_out) = self.left_out.iter().find(|gpu| gpu.number == number) {
            return left_out.to_string();
        }
        let there = match (self.found.as_slice(), &self.none_because) {
            ([], None) => String::new(),
            ([], Some(because)) => format!(": {because}"),
            ([only], _) => format!(", only GPU {}", only.number),
            (several @ [first, .., last], _)
                if last.number - first.number == several.len() as u32 - 1 =>
            {
                format!(", only GPU {} to {}", first.number, last.number)
            }
            (several, _) => {
                let numbers: Vec<_> = several.iter().map(|gpu| gpu.number.to_string()).collect();
                format!(", only GPU {}", numbers.join(", "))
            }
        };
        format!("this machine has no GPU {number}{there}")
    }
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
    fn all_are_used_unless_some_are_asked_for() {
        struct Case {
            device: &'static str,
            given: &'static [u32],
            found: Result<Vec<u32>, NoGpu>,
            used: Result<&'static [u32], &'static str>,
        }
        let case = |device, found: &[u32], used| Case {
            device,
            given: &[],
            found: Ok(found.to_vec()),
            used,
        };
        let cases = [
            case("auto", &[0, 1, 2], Ok(&[0, 1, 2])),
            case("cpu", &[0, 1], Ok(&[])),
            case("cuda:1", &[0, 1], Ok(&[1])),
            case("cuda:2,cuda:0", &[0, 1, 2], Ok(&[2, 0])),
            case(
                "cuda:2",
                &[0, 1],
                Err("this machine has no GPU 2, only GPU 0 to 1"),
            ),
            case(
                "cuda:0,cuda:9",
                &[0],
                Err("GPU 9 is left out: another program has it"),
            ),
            case(
                "cuda:0,cuda:1",
                &[0],
                Err("this machine has no GPU 1, only GPU 0"),
            ),
            // One in between is too old.
            case(
                "cuda:1",
                &[0, 2],
                Err("this machine has no GPU 1, only GPU 0, 2"),
            ),
            Case {
                device: "auto",
                given: &[],
                found: Err(broken()),
                used: Ok(&[]),
            },
            Case {
                device: "cuda:0",
                given: &[],
                found: Err(broken()),
                used: Err("this machine has no GPU 0: the driver fails"),
            },
            Case {
                device: "auto",
                given: &[1],
                found: Ok(vec![0, 1]),
                used: Ok(&[1]),
            },
            Case {
                device: "cuda:1,cuda:0",
                given: &[0],
                found: Ok(vec![0, 1]),
                used: Ok(&[1, 0]),
            },
            // Plans for another machine.
            Case {
                device: "cuda:7",
                given: &[7],
                found: Err(broken()),
                used: Ok(&[7]),
            },
            Case {
                device: "auto",
                given: &[6, 7],
                found: Ok(vec![0]),
                used: Ok(&[6, 7]),
            },
        ];
        for (i, case) in cases.into_iter().enumerate() {
            let found = case.found.map(|found| ShownGpus {
                left_out: vec![LeftOut {
                    number: 9,
                    reason: "another program has it".to_owned(),
                    is_broken: true,
                }],
                gpus: found.into_iter().map(gpu).collect(),
            });
            let device = case.device.parse().unwrap();
            let found = MachineGpus::choose(&device, case.given, found);
            let found = found
                .map(|gpus| gpus.used)
                .map_err(|error| error.to_string());
            let used = case.used.map(<[u32]>::to_vec).map_err(str::to_owned);
            assert_eq!(found, used, "case {i}");
        }
    }
}
