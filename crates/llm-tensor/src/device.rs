//! Sizes of what a device allocates beside weights: a plan counts them, a device makes them.

use crate::{Bytes, DType};

/// Keys and values that one layer's pool holds, in blocks of as many positions as a device likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head's keys.
    pub head_dim: usize,
    /// Values of a head.
    pub values: KvValues,
    /// Positions of a sequence: the last so many are held.
    pub capacity: usize,
    /// Sequences.
    pub n_sequences: usize,
    /// Element type: f32, f16 or bf16.
    pub dtype: DType,
}

/// Values of the heads of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvValues {
    /// Each head has its own, as many elements as its keys have.
    Own,
    /// The first so many elements of its keys are its values too: none are stored beside.
    OfKeys(usize),
}

impl KvShape {
    /// Elements of a head's values.
    pub fn value_dim(&self) -> usize {
        match self.values {
            KvValues::Own => self.head_dim,
            KvValues::OfKeys(n) => n,
        }
    }

    /// Elements of a position's keys.
    pub fn keys_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Elements that are stored of a position: its keys, and its values where they are its own.
    pub fn width(&self) -> usize {
        match self.values {
            KvValues::Own => 2 * self.keys_width(),
            KvValues::OfKeys(_) => self.keys_width(),
        }
    }

    /// Blocks of a sequence, the length of its block table.
    pub fn table_len(&self, block_len: usize) -> usize {
        self.capacity.div_ceil(block_len)
    }
}

/// State that one layer keeps of each sequence, of one size whatever its positions. Elements are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateShape {
    /// Elements of a sequence's state.
    pub n_elements: usize,
    /// Sequences.
    pub n_sequences: usize,
}

impl StateShape {
    /// Elements of all sequences' states, one after the other.
    pub fn total(&self) -> usize {
        self.n_sequences * self.n_elements
    }

    /// Bytes of them.
    pub fn bytes(&self) -> Bytes {
        Bytes::new((self.total() * size_of::<f32>()) as u64)
    }
}

/// Largest calls that a workspace has to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceShape {
    /// Rows of a pass.
    pub n_tokens: usize,
    /// Input features of the widest linear operation.
    pub cols: usize,
    /// Output features, over all parts, of the widest linear operation.
    pub rows: usize,
    /// Positions that a query may see.
    pub context: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Heads that select positions; none where all are attended to.
    pub n_selecting: usize,
}

/// Taps of the longest short convolution that devices have kernels for.
pub const MAX_TAPS: usize = 8;
