//! Keys and values of a layer, in blocks.

use std::sync::Arc;

use llm_backend::{Allocation, Result};
use llm_tensor::{Bytes, KvShape, KvValues};

use crate::card::Card;
use crate::memory::{Memory, Span};

/// Keys and values `[n_blocks][keys, values][n_kv_heads][BLOCK][head_dim]` in the pool's element type, or keys alone where
/// values are elements of those. Zero until
/// it is written, so that blocks are copied whole.
#[derive(Debug)]
pub struct KvPool {
    pub(crate) shape: KvShape,
    pub(crate) memory: Memory,
}

/// Positions of a block.
pub(crate) const BLOCK: usize = 32;

impl KvPool {
    pub(crate) fn new(card: &Arc<Card>, shape: &KvShape) -> Result<Self> {
        assert!(
            shape.dtype.is_weight(),
            "keys and values of {}",
            shape.dtype
        );
        let n_bytes = bytes(shape).get() as usize;
        let memory = Memory::zeroed(card, (n_bytes, 1), "keys and values")?;
        Ok(KvPool {
            shape: *shape,
            memory,
        })
    }

    /// All of it.
    pub(crate) fn span(&self) -> Span<'_> {
        self.memory.span(0..self.memory.n_bytes())
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.shape.width() * BLOCK * self.shape.dtype.size()
    }

    /// Keys and values, or keys alone.
    pub(crate) fn n_planes(&self) -> usize {
        match self.shape.values {
            KvValues::Own => 2,
            KvValues::OfKeys(_) => 1,
        }
    }

    /// Blocks.
    pub(crate) fn n_blocks(&self) -> usize {
        n_blocks(&self.shape)
    }
}

impl Allocation for KvPool {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.memory.n_bytes() as u64)
    }
}

pub(crate) fn bytes(shape: &KvShape) -> Bytes {
    let n_elements = n_blocks(shape) * shape.width() * BLOCK;
    Bytes::new((n_elements * shape.dtype.size()) as u64)
}

fn n_blocks(shape: &KvShape) -> usize {
    shape.n_sequences * shape.table_len(BLOCK)
}
