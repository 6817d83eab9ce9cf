//! Allocations, and the costs that a plan is told of.

use std::collections::BTreeMap;

use llm_arch::{ExpertsSpec, Unit};
use llm_backend::Backend;
use llm_plan::{DeviceCosts, Home, Term, TermBytes};
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

/// Allocations of a session, counted from its weights and buffers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocated {
    /// All of it.
    pub terms: TermBytes,
    /// The same by memory.
    pub memories: BTreeMap<Home, TermBytes>,
    /// Allocations of each unit: weights, what they are decoded with, keys and values.
    pub units: BTreeMap<Unit, TermBytes>,
    /// Part of the weights in RAM that a GPU computes with and does not copy by itself, as the system locks no more pages.
    pub pageable: Bytes,
}

impl Allocated {
    pub(crate) fn add(&mut self, home: Home, term: Term, bytes: Bytes) {
        self.terms.extend([(term, bytes)]);
        let memory = self.memories.entry(home).or_default();
        memory.extend([(term, bytes)]);
    }

    pub(crate) fn add_to(&mut self, unit: Unit, home: Home, term: Term, bytes: Bytes) {
        self.add(home, term, bytes);
        self.units.entry(unit).or_default().extend([(term, bytes)]);
    }
}

/// Costs of a backend's devices, as plans ask for them.
#[derive(Debug)]
pub struct CostsOf<'a, B>(pub &'a B);

impl<B: Backend> DeviceCosts for CostsOf<'_, B> {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        self.0.kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        self.0.kv_block_len(shape)
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        self.0.routes_bytes(&experts.routing, n_tokens)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        self.0.workspace_bytes(shape)
    }

    /// Nothing: what computes in host memory is the process itself.
    fn fixed_bytes(&self) -> Bytes {
        Bytes::ZERO
    }
}

/// The memory of all elements that a vector has room for.
pub(crate) fn vec_bytes<T>(vec: &Vec<T>) -> Bytes {
    Bytes::new((vec.capacity() * size_of::<T>()) as u64)
}
