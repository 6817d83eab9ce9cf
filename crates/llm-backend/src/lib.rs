//! The operations a device offers, and a slow, obvious reference for them.
//!
//! [`Backend`] is about a dozen block-level operations over typed device memory. Activations are f32; weights and
//! the KV cache keep the encoding they were given. [`Reference`] implements it in the plainest way, with f64
//! accumulation, and [`conformance`] holds any other backend against it.

pub mod conformance;
mod error;
mod ops;
mod reference;

pub use error::BackendError;
pub use ops::{
    Attention, DeviceInfo, HeadGroups, Heads, KvColumns, LinearPart, NormOp, Output, RelativeBias,
    Rotary, Rows, Seen,
};
pub use reference::Reference;

use std::fmt::Debug;

use llm_quant::StoredWeight;
use llm_tensor::{Activation, Bytes, KvShape, WorkspaceShape};

/// What every operation returns: a processor cannot fail, a device behind a driver can.
pub type Result<T> = std::result::Result<T, BackendError>;

/// Memory that a device gave.
pub trait Allocation {
    /// How much it is.
    fn bytes(&self) -> Bytes;
}

/// A device: its memory and the operations that models are made of.
///
/// Every operation writes into outputs that the caller owns and none allocates, so that what a plan promised is
/// what is used. Matrices are row-major; `n_tokens` rows are read and written even if a buffer holds more.
///
/// # Panics
/// The operations panic when a buffer, weight, cache or workspace is too small or misshapen for the call: sizes
/// follow from the model's descriptor, so that is the caller's mistake and never the data's.
pub trait Backend: Debug + Send + Sync + 'static {
    /// f32 activations on the device.
    type Buffer: Allocation + Send + Sync;
    /// A weight in its encoding on the device.
    type Weight: Send + Sync;
    /// Keys and values of one sequence in one layer.
    type KvCache: Allocation + Send;
    /// Scratch memory of the operations.
    type Workspace: Allocation + Send;

    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// A zeroed buffer of `n_elements`.
    fn alloc(&self, n_elements: usize) -> Result<Self::Buffer>;

    /// Copies `src` to the start of `dst`.
    fn upload(&self, src: &[f32], dst: &mut Self::Buffer) -> Result<()>;

    /// Copies the start of `src` to `dst`.
    fn download(&self, src: &Self::Buffer, dst: &mut [f32]) -> Result<()>;

    /// Takes a weight to the device. Where the device computes in host memory the bytes are shared, not copied.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedWeight`] for a scheme that the device does not compute with.
    fn load(&self, weight: StoredWeight) -> Result<Self::Weight>;

    /// An empty cache.
    fn kv_cache(&self, shape: &KvShape) -> Result<Self::KvCache>;

    /// What a cache of `shape` will take.
    fn kv_cache_bytes(&self, shape: &KvShape) -> Bytes;

    /// Scratch memory that suffices for every operation within `shape`.
    fn workspace(&self, shape: &WorkspaceShape) -> Result<Self::Workspace>;

    /// What scratch memory for `shape` will take.
    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes;

    /// Rows `ids` of `table` `[vocab, width]`, times `scale`, into `out` `[ids, width]`.
    fn embed(
        &self,
        table: &Self::Weight,
        ids: &[u32],
        scale: f32,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Adds rows `positions` of `table` `[max, width]` to `x` `[positions, width]`.
    fn add_positions(
        &self,
        table: &Self::Weight,
        positions: &[u32],
        x: &mut Self::Buffer,
    ) -> Result<()>;

    /// Rows `rows` of `x` `[_, width]` into `out` `[rows, width]`.
    fn gather_rows(
        &self,
        x: &Self::Buffer,
        rows: &[usize],
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// Normalises each row of `x` `[n_tokens, width]` into `out`, `width` being the gain's.
    fn norm(
        &self,
        op: &NormOp<'_, Self>,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// `x` `[n_tokens, cols]` times every part's weight `[rows, cols]` transposed, plus its bias; the parts' results
    /// side by side in `out` `[n_tokens, Σ rows]`.
    fn linear(
        &self,
        parts: &[LinearPart<'_, Self>],
        x: &Self::Buffer,
        output: Output,
        out: &mut Self::Buffer,
        n_tokens: usize,
        workspace: &mut Self::Workspace,
    ) -> Result<()>;

    /// Turns the leading heads of each row of `x` `[n_tokens, row_width]` by `angles`
    /// `[n_tokens, cos of rotary_dim / 2 | sin of rotary_dim / 2]`.
    fn rotate(
        &self,
        op: &Rotary,
        angles: &Self::Buffer,
        x: &mut Self::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Normalises some heads of each row of `x` `[n_tokens, row_width]` in place, each on its own, the gain being
    /// `[head_dim]`.
    fn norm_heads(
        &self,
        op: &NormOp<'_, Self>,
        heads: &Heads,
        x: &mut Self::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Brings rows of `grouped` `[n_tokens, heads in groups]` into the order `[queries | keys | values]` in `out`.
    fn ungroup(
        &self,
        groups: &HeadGroups,
        grouped: &Self::Buffer,
        out: &mut Self::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Takes the keys and values of `rows` of `kv` to their positions in `cache`, rounded to its element type.
    ///
    /// A position beyond the capacity takes the place of the one a capacity before it.
    fn append(
        &self,
        kv: &Self::Buffer,
        columns: &KvColumns,
        rows: Rows,
        cache: &mut Self::KvCache,
    ) -> Result<()>;

    /// Makes `to` what `from` is, a cache of the same shape that has taken the positions below `n_positions`.
    fn copy_cache(
        &self,
        from: &Self::KvCache,
        n_positions: usize,
        to: &mut Self::KvCache,
    ) -> Result<()>;

    /// Each of `rows`' queries, the leading heads of rows `[_, row_width]` of `q`, attends to the positions of `cache`
    /// that it may see; the result goes to the same row of `out` `[_, n_heads · head_dim]`.
    fn attention(
        &self,
        op: &Attention<'_, Self>,
        q: &Self::Buffer,
        rows: Rows,
        cache: &Self::KvCache,
        out: &mut Self::Buffer,
        workspace: &mut Self::Workspace,
    ) -> Result<()>;

    /// Adds `y` to `x`, both `[n_tokens, width]`.
    fn add(
        &self,
        y: &Self::Buffer,
        x: &mut Self::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Adds each row of `y` `[rows, width]`, times its weight, to row `rows[i]` of `x`.
    fn scatter_add(
        &self,
        y: &Self::Buffer,
        rows: &[usize],
        weights: &[f32],
        width: usize,
        x: &mut Self::Buffer,
    ) -> Result<()>;

    /// Applies `activation` to `x` `[n_tokens, width]` in place.
    fn activate(
        &self,
        activation: Activation,
        x: &mut Self::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// `activation(gate) · up` of rows `[gate | up]` of `gate_up` `[n_tokens, 2 · width]` into `out`
    /// `[n_tokens, width]`.
    fn gate(
        &self,
        activation: Activation,
        gate_up: &Self::Buffer,
        out: &mut Self::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;
}
