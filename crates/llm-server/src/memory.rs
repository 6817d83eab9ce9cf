//! Memory of a model that is served, as it was planned.

use serde::Serialize;

/// Memory that a model was planned to take, and where its parts rest. Sizes are bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryMap {
    /// Memories that hold something of it: GPUs, RAM, disk.
    pub memories: Vec<MemoryUse>,
    /// Parts of the model that rest and compute in the same places.
    pub parts: Vec<ModelPart>,
}

/// Use of one memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// Its name, as `GPU 0`.
    pub name: String,
    /// Bytes that it may hold; none of a disk, whose checkpoint takes nothing beside itself.
    pub budget: Option<u64>,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of keys and values, of all sequences when they are full.
    pub kv_cache: u64,
    /// Bytes of all else: activations, workspace, staging, the program.
    pub other: u64,
    /// Bytes of weights that are brought from it for every token, to where they are computed with.
    pub streamed: u64,
}

/// Part of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelPart {
    /// Its name, as `layers 0 to 11`.
    pub name: String,
    /// The memory that its weights rest in.
    pub rests_in: String,
    /// The device that computes with them.
    pub computes_on: String,
    /// Bytes of its weights.
    pub weights: u64,
}
