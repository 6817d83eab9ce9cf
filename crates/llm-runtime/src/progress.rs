//! Progress of loading.

use llm_arch::Unit;
use llm_tensor::Bytes;

/// Phase of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Another run writes what this one needs too, which waits until that is done.
    Waiting,
    /// Units on disk are written as they are computed with.
    Offloading(Progress),
    /// Units in memory are loaded; bytes are counted as the checkpoint stores them.
    Loading(Progress),
}

/// Progress of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: Bytes,
    /// Bytes of all.
    pub total: Bytes,
    /// The unit that the last of them are of.
    pub unit: Unit,
    /// Units that were begun, that one among them.
    pub n_units: usize,
    /// Units of all.
    pub total_units: usize,
}
