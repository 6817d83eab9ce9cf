//! Sizes of what a device allocates beside weights: a plan counts them, a device makes them.

use crate::DType;

/// Keys and values that one sequence's cache holds in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions: the last so many are held.
    pub capacity: usize,
    /// Element type: f32, f16 or bf16.
    pub dtype: DType,
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
}
