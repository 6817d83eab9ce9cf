//! The machine that is emulated, from environment variables that the harness sets.

use std::path::PathBuf;

use crate::pace::Pace;

/// What the emulated driver and its devices are.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) n_devices: usize,
    /// Bytes of memory of each device; the last also of those that follow.
    memory: Vec<u64>,
    /// Whether memory that the host has can be page-locked.
    pub(crate) registers: bool,
    /// Compute capability of each, 80 for 8.0; the last also of those that follow.
    compute: Vec<u32>,
    /// Whether devices can reach each other's memory.
    pub(crate) peers: bool,
    /// Devices that other programs have to themselves.
    pub(crate) busy: Vec<u64>,
    /// Bytes of each process's context on a device.
    pub(crate) context: u64,
    /// Folder in which processes tell each other what they take of devices.
    pub(crate) shared: Option<PathBuf>,
    /// Whether cuBLAS starts.
    pub(crate) blas_starts: bool,
    /// As the driver tells its version: 12020 for 12.2.
    pub(crate) driver: u32,
    /// Chooses among the orders in which work of several streams may run; 0 runs as late as may be.
    pub(crate) seed: u64,
    pub(crate) races: bool,
    pub(crate) unwritten: bool,
    /// Whether bytes moved are counted.
    pub(crate) counts: bool,
    pub(crate) n_threads: usize,
    /// Costs of work, where a timeline is kept.
    pub(crate) pace: Option<Pace>,
    /// File that the report is written to when the process ends.
    pub(crate) report: Option<PathBuf>,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        let report = std::env::var_os(REPORT).map(PathBuf::from);
        Self {
            n_devices: number(DEVICES, 1) as usize,
            memory: numbers(MEMORY, 8 << 30),
            registers: number(REGISTERS, 1) != 0,
            compute: numbers(COMPUTE, 80).iter().map(|&n| n as u32).collect(),
            peers: number(PEERS, 1) != 0,
            busy: numbers(BUSY, u64::MAX),
            context: number(CONTEXT, 0),
            shared: std::env::var_os(SHARED).map(PathBuf::from),
            blas_starts: number(BLAS, 1) != 0,
            driver: number(DRIVER, 12020) as u32,
            seed: number(SEED, 0),
            races: number(RACES, 1) != 0,
            unwritten: number(UNWRITTEN, 1) != 0,
            counts: number(COUNTS, u64::from(report.is_some())) != 0,
            n_threads: (number(THREADS, 2) as usize).max(1),
            pace: std::env::var(PACE)
                .ok()
                .and_then(|text| Pace::from_text(&text)),
            report,
        }
    }
}

impl Settings {
    /// Bytes of memory of a device.
    pub(crate) fn memory(&self, device: usize) -> u64 {
        of_device(&self.memory, device)
    }

    /// Compute capability of a device, 80 for 8.0.
    pub(crate) fn compute(&self, device: usize) -> u32 {
        of_device(&self.compute, device)
    }
}

fn of_device<T: Copy + Default>(all: &[T], device: usize) -> T {
    let own = all.get(device).or(all.last());
    own.copied().unwrap_or_default()
}

/// One number a device, separated by commas.
fn numbers(name: &str, default: u64) -> Vec<u64> {
    let text = std::env::var(name).unwrap_or_default();
    let numbers: Result<_, _> = text.split(',').map(str::parse).collect();
    numbers.unwrap_or_else(|_| vec![default])
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

pub(crate) const DEVICES: &str = "CUDA_EMULATOR_DEVICES";
pub(crate) const MEMORY: &str = "CUDA_EMULATOR_MEMORY";
pub(crate) const REGISTERS: &str = "CUDA_EMULATOR_REGISTERS";
pub(crate) const CONTEXT: &str = "CUDA_EMULATOR_CONTEXT";
pub(crate) const SHARED: &str = "CUDA_EMULATOR_SHARED";
pub(crate) const COMPUTE: &str = "CUDA_EMULATOR_COMPUTE";
pub(crate) const DRIVER: &str = "CUDA_EMULATOR_DRIVER";
pub(crate) const BLAS: &str = "CUDA_EMULATOR_BLAS";
pub(crate) const BUSY: &str = "CUDA_EMULATOR_BUSY";
pub(crate) const PEERS: &str = "CUDA_EMULATOR_PEERS";
pub(crate) const SEED: &str = "CUDA_EMULATOR_SEED";
pub(crate) const RACES: &str = "CUDA_EMULATOR_RACES";
pub(crate) const UNWRITTEN: &str = "CUDA_EMULATOR_UNWRITTEN";
pub(crate) const COUNTS: &str = "CUDA_EMULATOR_COUNTS";
pub(crate) const THREADS: &str = "CUDA_EMULATOR_THREADS";
pub(crate) const PACE: &str = "CUDA_EMULATOR_PACE";
pub(crate) const REPORT: &str = "CUDA_EMULATOR_REPORT";

/// Multiprocessors of a device, small so that grids chosen by it stay small.
pub(crate) const MULTIPROCESSORS: u32 = 8;
