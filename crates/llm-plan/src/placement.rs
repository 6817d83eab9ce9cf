use std::fmt;
use std::str::FromStr;

use crate::{PlanError, Result};

/// A device that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RunOn {
    /// A GPU, by its number.
    Gpu(u32),
    /// The processor.
    Cpu,
}

impl RunOn {
    /// The memory that it computes in.
    pub const fn memory(self) -> Home {
        match self {
            RunOn::Gpu(number) => Home::Gpu(number),
            RunOn::Cpu => Home::Ram,
        }
    }
}

impl fmt::Display for RunOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunOn::Gpu(number) => f.pad(&format!("GPU {number}")),
            RunOn::Cpu => f.pad("CPU"),
        }
    }
}

/// Memory of a weight, or disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Home {
    /// A GPU's memory.
    Gpu(u32),
    /// The machine's.
    Ram,
    /// A file.
    Disk,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Home::Gpu(number) => f.pad(&format!("GPU {number}")),
            Home::Ram => f.pad("RAM"),
            Home::Disk => f.pad("disk"),
        }
    }
}

/// As device maps and budgets call them: `0`, `cuda:0`, `cpu`, `disk`.
impl FromStr for Home {
    type Err = PlanError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Home::Ram),
            "disk" => Ok(Home::Disk),
            "cuda" => Ok(Home::Gpu(0)),
            _ => {
                let number = name.strip_prefix("cuda:").unwrap_or(name).parse();
                number.map(Home::Gpu).map_err(|_| PlanError::NotADevice {
                    name: name.to_owned(),
                })
            }
        }
    }
}

/// Home of a unit's weights, and the device that computes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Memory, or disk.
    pub home: Home,
    /// Device that computes.
    pub run_on: RunOn,
}

impl Placement {
    /// True if resident where they compute.
    pub fn is_resident(&self) -> bool {
        self.home == self.run_on.memory()
    }
}

/// One way to compute with what no GPU holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// A GPU does, to which it is streamed.
    Streamed,
    /// A GPU does with what reads the prompt alone, an encoder, which is streamed to it once; the CPU with what every token
    /// reads.
    PromptStreamed,
    /// The CPU does.
    OnCpu,
    /// The CPU does with some units, and a GPU with the others.
    Divided(Division),
}

/// Division of units that no GPU holds between a GPU, to which they are streamed, and the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Division {
    /// Number of portions that the CPU computes with: those that are filled in last; of a user's map, of units whose home
    /// is as `in_ram` says.
    pub n_on_cpu: usize,
    /// The part that rests in RAM, as far as there is room, before the other does.
    pub in_ram: DividedPart,
}

/// Part of what no GPU holds, by its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DividedPart {
    /// It is streamed to a GPU.
    Streamed,
    /// The CPU computes with it.
    OnCpu,
}

impl Division {
    /// True of a portion, of `n` in the order of filling, that rests in RAM only after the other part does.
    pub(crate) fn is_second(self, portion: usize, n: usize) -> bool {
        let is_on_cpu = portion + self.n_on_cpu >= n;
        match self.in_ram {
            DividedPart::OnCpu => !is_on_cpu,
            DividedPart::Streamed => is_on_cpu,
        }
    }

    /// Of `n` units whose order is that in which RAM takes them, those of the CPU.
    pub(crate) fn on_cpu(self, n: usize) -> std::ops::Range<usize> {
        let n_on_cpu = self.n_on_cpu.min(n);
        match self.in_ram {
            DividedPart::OnCpu => 0..n_on_cpu,
            DividedPart::Streamed => n - n_on_cpu..n,
        }
    }
}
