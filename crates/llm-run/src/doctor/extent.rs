//! Extent of a measurement.

use std::time::Duration;

use llm_tensor::Bytes;

/// Extent of a measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Bytes that are read of RAM in one round: more than caches hold.
    pub(super) ram: Bytes,
    /// Time for which rounds are repeated.
    pub(super) ram_time: Duration,
    /// Bytes that are written to disk and read from there.
    pub(super) disk: Bytes,
    /// Time after which writing ends, and reading likewise.
    pub(super) disk_time: Duration,
    /// Bytes that are copied inside a GPU at a time.
    pub(super) gpu: Bytes,
    /// Bytes that are copied to and from a GPU at a time.
    pub(super) pcie: Bytes,
    /// Copies of each kind, and rounds of launches and of products.
    pub(super) gpu_rounds: usize,
    /// Kernels that are started in a round.
    pub(super) launches: usize,
}

pub(super) const THOROUGH: Extent = Extent {
    ram: Bytes::mib(1024),
    ram_time: Duration::from_secs(2),
    disk: Bytes::mib(1024),
    disk_time: Duration::from_secs(4),
    gpu: Bytes::mib(1024),
    pcie: Bytes::mib(256),
    gpu_rounds: 9,
    launches: 512,
};
pub(super) const QUICK: Extent = Extent {
    ram: Bytes::mib(128),
    ram_time: Duration::from_millis(100),
    disk: Bytes::mib(32),
    disk_time: Duration::from_secs(1),
    gpu: Bytes::mib(256),
    pcie: Bytes::mib(32),
    gpu_rounds: 3,
    launches: 64,
};
