//! Speeds of a machine, as far as the time of a pass depends on them.

use std::collections::BTreeMap;

use crate::{Home, Placement, RunOn};

/// Speeds of devices, and of the ways between memories.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use llm_plan::{GpuSpeed, Home, Placement, RunOn, Speeds};
///
/// let gpu = GpuSpeed { memory: 300e9, pcie: 12e9, products: 8e12, launch: 3e-6, hand_over: 30e-6 };
/// let (gpus, links) = (BTreeMap::new(), BTreeMap::new());
/// let speeds = Speeds { gpu, gpus, links, ram: 20e9, cpu_products: 2e11, disk: 1e9 };
/// let streamed = Placement { home: Home::Ram, run_on: RunOn::Gpu(0) };
/// assert_eq!(speeds.of(streamed), 12e9);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Speeds {
    /// A GPU that `gpus` does not name.
    pub gpu: GpuSpeed,
    /// GPUs whose own speeds are known, by number.
    pub gpus: BTreeMap<u32, GpuSpeed>,
    /// Ways from one GPU to another whose speed is known.
    pub links: BTreeMap<(u32, u32), LinkSpeed>,
    /// RAM, all processors together, in bytes a second.
    pub ram: f64,
    /// Products of many rows on the CPU, in multiplications a second.
    pub cpu_products: f64,
    /// Disk to RAM, in bytes a second.
    pub disk: f64,
}

/// Speeds of a GPU and of the way to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuSpeed {
    /// Its memory, in bytes a second.
    pub memory: f64,
    /// The way from RAM and back, in bytes a second.
    pub pcie: f64,
    /// Products of many rows, in multiplications a second.
    pub products: f64,
    /// Start of a kernel, in seconds.
    pub launch: f64,
    /// Handing rows over to the host or taking them from it, the wait for them included, in seconds beside what their bytes
    /// take.
    pub hand_over: f64,
}

/// Speed of the way from one GPU's memory to another's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpeed {
    /// Bytes a second.
    pub rate: f64,
    /// Handing rows over, for which the host does not wait, in seconds beside what their bytes take.
    pub hand_over: f64,
}

impl Speeds {
    /// Speeds of a GPU.
    pub fn of_gpu(&self, number: u32) -> &GpuSpeed {
        self.gpus.get(&number).unwrap_or(&self.gpu)
    }

    /// Bytes a second from where a weight rests through all that lies between there and what computes with it: its
    /// narrowest part.
    pub fn of(&self, placement: Placement) -> f64 {
        let from_disk = match placement.home {
            Home::Disk => self.disk,
            Home::Gpu(_) | Home::Ram => f64::INFINITY,
        };
        let through = match (placement.home, placement.run_on) {
            (Home::Gpu(home), RunOn::Gpu(run_on)) if home == run_on => self.of_gpu(home).memory,
            (_, RunOn::Gpu(run_on)) => self.of_gpu(run_on).memory.min(self.to_gpu(run_on)),
            (_, RunOn::Cpu) => self.ram,
        };
        through.min(from_disk)
    }

    /// Bytes a second from RAM to a GPU.
    pub fn to_gpu(&self, number: u32) -> f64 {
        self.of_gpu(number).pcie.min(self.ram)
    }

    /// Bytes a second of the memory that a device computes in.
    pub(crate) fn memory(&self, run_on: RunOn) -> f64 {
        match run_on {
            RunOn::Gpu(number) => self.of_gpu(number).memory,
            RunOn::Cpu => self.ram,
        }
    }

    /// Multiplications a second of a device.
    pub(crate) fn products(&self, run_on: RunOn) -> f64 {
        match run_on {
            RunOn::Gpu(number) => self.of_gpu(number).products,
            RunOn::Cpu => self.cpu_products,
        }
    }

    /// Seconds in which rows go from one device's memory to another's.
    pub(crate) fn hand_over(&self, from: RunOn, to: RunOn, n_bytes: f64) -> f64 {
        let way = |number| self.of_gpu(number).hand_over + n_bytes / self.to_gpu(number);
        match (from, to) {
            (RunOn::Cpu, RunOn::Cpu) => 0.0,
            (RunOn::Gpu(number), RunOn::Cpu) | (RunOn::Cpu, RunOn::Gpu(number)) => way(number),
            (RunOn::Gpu(from), RunOn::Gpu(to)) => match self.links.get(&(from, to)) {
                Some(link) => link.hand_over + n_bytes / link.rate,
                // At once, where they reach each other's memory.
                None => way(from).max(way(to)),
            },
        }
    }
}
