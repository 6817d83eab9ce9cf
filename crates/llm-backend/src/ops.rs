//! What the operations are called with.

use llm_tensor::{Norm, Pairing};

use crate::Backend;

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As people know it, as `cpu (avx512, 2 threads)`.
    pub name: String,
}

/// A normalisation and its learned vectors.
#[derive(Debug)]
pub struct NormOp<'a, B: Backend + ?Sized> {
    /// Which statistic.
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
pub struct LinearPart<'a, B: Backend + ?Sized> {
    /// `[rows, cols]`.
    pub weight: &'a B::Weight,
    /// `[rows]`.
    pub bias: Option<&'a B::Weight>,
}

impl<B: Backend + ?Sized> Clone for LinearPart<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for LinearPart<'_, B> {}

/// What a linear operation does to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Replaces it.
    Write,
    /// Adds to it: the residual connection.
    Add,
}

/// Which heads of a row are turned, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotary {
    /// Heads from the start of the row: the queries' and then the keys'.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// How many of them, from the head's start, are turned; even.
    pub rotary_dim: usize,
    /// Which two belong together.
    pub pairing: Pairing,
    /// Elements of a row, the values included.
    pub row_width: usize,
}

/// Some heads of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// The first head.
    pub first: usize,
    /// How many follow each other.
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

/// Where a row holds keys and values: the cache's number of heads each, values right after keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvColumns {
    /// The first element of the keys.
    pub first: usize,
    /// Elements of a row.
    pub row_width: usize,
}

/// How queries attend to a cache.
pub struct Attention<'a, B: Backend + ?Sized> {
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
    /// Which positions a query sees.
    pub seen: Seen,
    /// Added to them.
    pub bias: Option<RelativeBias<'a, B>>,
}

/// Which positions of a cache a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Its own and all before it, of these the last `window`.
    Past {
        /// Its own position included; none bounds it.
        window: Option<usize>,
    },
    /// The first `n_positions`, wherever it stands itself.
    All {
        /// Positions that the cache holds.
        n_positions: usize,
    },
}

/// What is added to the product of a query and a key, by head and by distance.
pub struct RelativeBias<'a, B: Backend + ?Sized> {
    /// `[n_heads, row]`: element `zero + key's position − query's position` of the head's row.
    pub table: &'a B::Buffer,
    /// Elements of a row; distances beyond its ends take its first or last element.
    pub row: usize,
    /// The element of distance zero.
    pub zero: usize,
}

impl<B: Backend + ?Sized> Clone for RelativeBias<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for RelativeBias<'_, B> {}

/// The rows of a pass that belong to one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first row in the pass's buffers.
    pub first: usize,
    /// How many follow each other.
    pub n_tokens: usize,
    /// The position of the first row in its sequence.
    pub start: usize,
}
