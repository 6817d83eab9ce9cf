//! Parameters of the operations.

use llm_tensor::{Activation, Norm, Pairing};

use crate::Backend;

/// Description of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name that people know it by, as `cpu (avx512, 2 threads)`.
    pub name: String,
}

/// A normalisation and its learned vectors.
#[derive(Debug)]
pub struct NormOp<'a, B: Backend> {
    /// Statistic that is divided by.
    pub norm: Norm,
    /// Added to the variance or the mean square before the root.
    pub eps: f32,
    /// Added to the gain: 1 where a checkpoint stores its distance from 1.
    pub gain_offset: f32,
    /// `[width]`.
    pub gain: &'a B::Weight,
    /// `[width]`.
    pub bias: Option<&'a B::Weight>,
}

/// One of the matrices that a linear operation applies to the same rows.
#[derive(Debug)]
pub struct LinearPart<'a, B: Backend> {
    /// `[rows, cols]`.
    pub weight: &'a B::Weight,
    /// `[rows]`.
    pub bias: Option<&'a B::Weight>,
}

impl<B: Backend> Clone for LinearPart<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for LinearPart<'_, B> {}

/// Use of a linear operation's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Replaces it.
    Write,
    /// Adds to it: the residual connection.
    Add,
}

/// Rotation of the leading heads of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotary {
    /// Heads from the start of the row: the queries' and then the keys'.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements, from the head's start, that are turned; even.
    pub rotary_dim: usize,
    /// Pairs that are turned together.
    pub pairing: Pairing,
    /// Elements of a row, the values included.
    pub row_width: usize,
}

/// Some heads of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// The first head.
    pub first: usize,
    /// Heads that follow each other.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a row.
    pub row_width: usize,
}

/// A row whose heads lie in groups: `n_queries` heads of queries, one of keys and one of values, `n_groups` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadGroups {
    /// Groups, which is heads of keys.
    pub n_groups: usize,
    /// Heads of queries in a group.
    pub n_queries: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// Columns of keys and values in a row: the pool's number of heads each, values right after keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvColumns {
    /// The first element of the keys.
    pub first: usize,
    /// Elements of a row.
    pub row_width: usize,
}

/// Attention of queries to the keys and values of a pool.
pub struct Attention<'a, B: Backend> {
    /// Query heads; a multiple of `n_kv_heads`, consecutive ones sharing a key head.
    pub n_heads: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a row that begins with the queries.
    pub row_width: usize,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Bounds them: `cap · tanh(product / cap)`.
    pub soft_cap: Option<f32>,
    /// Positions that a query sees.
    pub mask: Mask,
    /// Added to them.
    pub bias: Option<RelativeBias<'a, B>>,
}

/// Positions of its sequence that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Its own and all before it, of these the last `window`.
    Causal {
        /// Its own position included; none bounds it.
        window: Option<usize>,
    },
    /// All that the sequence has ([`Rows::n_positions`]), wherever it stands itself.
    Full,
}

/// Numbers that are added to the product of a query and a key, by head and by distance.
pub struct RelativeBias<'a, B: Backend> {
    /// `[n_heads, row]`: element `zero + key's position − query's position` of the head's row.
    pub table: &'a B::Buffer,
    /// Elements of a row; distances beyond its ends take its first or last element.
    pub row: usize,
    /// The element of distance zero.
    pub zero: usize,
}

impl<B: Backend> Clone for RelativeBias<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for RelativeBias<'_, B> {}

/// Rows of a pass that belong to one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first row in the pass's buffers.
    pub first: usize,
    /// Rows that follow each other.
    pub n_tokens: usize,
    /// Position of the first row in its sequence.
    pub start: usize,
    /// Positions that the pool holds of the sequence when its rows attend.
    pub n_positions: usize,
}

impl Rows {
    /// Elements of [`Rows::words`].
    pub const N_WORDS: usize = 4;

    /// The rows as a device's index has them.
    pub fn words(&self) -> [u32; Rows::N_WORDS] {
        [self.first, self.n_tokens, self.start, self.n_positions].map(|n| n as u32)
    }
}

/// Sequences of a pass, as the operations on keys and values are told of them.
#[derive(Debug)]
pub struct Batch<'a, B: Backend> {
    /// Their rows, for the host to share out the work.
    pub rows: &'a [Rows],
    /// The same on the device, `[n_sequences, Rows::N_WORDS]`.
    pub rows_index: &'a B::Index,
    /// Block tables `[n_sequences, table_len]`: position p lies in block `table[p / block_len % table_len]`.
    pub tables: &'a B::Index,
    /// Blocks of a table.
    pub table_len: usize,
}

impl<B: Backend> Clone for Batch<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Batch<'_, B> {}

/// A gated feed-forward of which only chosen rows are sent through.
pub struct Expert<'a, B: Backend> {
    /// Number among the layer's experts.
    pub expert: usize,
    /// Gate and up, `[width, hidden]` each.
    pub gate_up: &'a [LinearPart<'a, B>],
    /// `[hidden, width]`.
    pub down: LinearPart<'a, B>,
    /// The non-linearity.
    pub activation: Activation,
    /// Features between the projections.
    pub width: usize,
    /// Elements of a row.
    pub hidden: usize,
}

/// Buffers of a pass that experts compute in.
pub struct ExpertBuffers<'a, B: Backend> {
    /// `[n_tokens, hidden]`.
    pub gathered: &'a mut B::Buffer,
    /// `[n_tokens, 2 · width]`.
    pub up: &'a mut B::Buffer,
    /// `[n_tokens, width]`.
    pub gated: &'a mut B::Buffer,
    /// `[n_tokens, hidden]`.
    pub delta: &'a mut B::Buffer,
}
