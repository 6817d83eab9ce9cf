//! What the operations are called with.

use llm_tensor::{DType, HostBytes, Norm, Pairing};

use crate::Backend;

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As people know it, as `cpu (avx512, 2 threads)`.
    pub name: String,
}

/// A weight in host memory on its way to a device: a matrix `[rows, cols]`, row-major, or a vector as one row.
///
/// The bytes have the alignment that a file gave them, which may be none.
#[derive(Debug, Clone)]
pub struct HostWeight {
    /// How each element is stored.
    pub dtype: DType,
    /// Output features; 1 for a vector.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows · cols` elements, little-endian.
    pub bytes: HostBytes,
}

/// What a cache holds: keys and values of up to `capacity` positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions.
    pub capacity: usize,
    /// How an element is stored: f32, f16 or bf16.
    pub dtype: DType,
}

/// The largest calls that a workspace has to serve.
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
}

/// A normalisation and its learned vectors.
#[derive(Debug)]
pub struct NormOp<'a, B: Backend + ?Sized> {
    /// Which statistic.
    pub norm: Norm,
    /// Added to the variance or the mean square before the root.
    pub eps: f32,
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

/// The shape of a self-attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads; a multiple of `n_kv_heads`, consecutive ones sharing a key head.
    pub n_heads: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
}

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
