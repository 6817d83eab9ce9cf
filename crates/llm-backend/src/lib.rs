//! The operations a device offers, and a slow, obvious reference for them.
//!
//! [`Backend`] is a device's memory; a [`Queue`] is work on it, done in order, and [`Ops`] are the operations that are put
//! there: about two dozen, on typed device memory. None of them waits for its result. Activations are f32; weights and keys
//! and values keep the encoding they were given. [`Reference`] implements it all in the plainest way, with f64 accumulation.
//!
//! ```
//! use std::sync::Arc;
//!
//! use llm_backend::{Backend, LinearPart, Ops, Output, Queue, Reference};
//! use llm_quant::StoredWeight;
//! use llm_tensor::{DType, HostBytes, WorkspaceShape};
//!
//! # fn main() -> llm_backend::Result<()> {
//! let device = Arc::new(Reference::new());
//! let bytes: Vec<u8> = [1f32, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect();
//! let weight = device.load(StoredWeight::dense(DType::F32, (2, 2), HostBytes::new(bytes)))?;
//! let (mut x, mut out) = (device.alloc(2)?, device.alloc(2)?);
//!
//! let largest = WorkspaceShape { n_tokens: 1, cols: 2, rows: 2, context: 1, n_heads: 1, n_kv_heads: 1, head_dim: 1, n_selecting: 0 };
//! let mut queue = device.queue(Some(&largest))?;
//! queue.upload(&[1.0, 10.0], &mut x)?;
//! let part = LinearPart { weight: &weight, bias: None };
//! queue.linear(&[part], &x, Output::Write, &mut out, 1)?;
//!
//! let mut results = [0.0; 2];
//! queue.download(&out, &mut results)?;
//! assert_eq!(results, [21.0, 43.0]);
//! # Ok(())
//! # }
//! ```

mod compress;
mod cut_off;
mod delta;
mod error;
mod heads;
mod hyper;
mod largest;
mod ops;
mod queue;
mod reference;
mod select;
mod state_space;
mod streams;
mod xielu;

pub use compress::{Beside, Compression};
pub use cut_off::CutOff;
pub use delta::{Decays, DeltaGates, DeltaRule, GateFunction, HeadGates, HeadNorm, NormOrder};
pub use error::BackendError;
pub use heads::{HeadProducts, MatrixSide};
pub use hyper::StreamWeights;
pub use largest::first_of_largest;
pub use llm_tensor::Routing;
pub use ops::{
    Attention, Batch, ConvRows, DeviceInfo, Expert, ExpertBuffers, GroupPart, Groups, Heads,
    KvColumns, LinearPart, Mask, NormOp, OutColumns, Output, RelativeBias, Rotary, RouterVectors,
    Rows, Run, ShortConv, StateBatch,
};
pub use queue::{Event, HostPages, Ops, Queue};
pub use reference::Reference;
pub use select::{Selected, Selection, score_order};
pub use state_space::{StateSpace, Steps};
pub use streams::{Added, StreamMix, StreamSum, Streams};
pub use xielu::Xielu;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use llm_quant::StoredWeight;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

/// Outcome of what a device is asked for: a processor cannot fail, a device behind a driver can.
pub type Result<T> = std::result::Result<T, BackendError>;

/// Memory that a device gave.
pub trait Allocation {
    /// Size of it.
    fn bytes(&self) -> Bytes;
}

/// A device: its memory, and the queues that compute in it.
///
/// Handles are cheap; what they stand for is allocated once, when a stage is built, so that what a plan promised is what is
/// used. Matrices are row-major.
pub trait Backend: Debug + Send + Sync + Sized + 'static {
    /// f32 activations.
    type Buffer: Allocation + Send + Sync;
    /// u32 lists: token ids, positions, rows, block tables.
    type Index: Allocation + Send + Sync;
    /// A weight in its encoding.
    type Weight: Send + Sync;
    /// Keys and values of all sequences in one layer, in blocks.
    type KvPool: Allocation + Send;
    /// Rows of a pass by the expert that a router chose for them.
    type Routes: Allocation + Send;
    /// Host memory that the device copies by itself.
    type HostPages: HostPages;
    /// Staging place: memory of the device that streamed weights are brought to, again and again.
    type Place: Allocation + Send;
    /// A point in a queue.
    type Event: Event;
    /// Work in order.
    type Queue: Ops<Self>;

    /// Description of the device.
    fn info(&self) -> &DeviceInfo;

    /// A zeroed buffer of `n_elements`.
    fn alloc(&self, n_elements: usize) -> Result<Self::Buffer>;

    /// A zeroed list of `n_elements`.
    fn alloc_index(&self, n_elements: usize) -> Result<Self::Index>;

    /// A weight on the device. Where the device computes in host memory the bytes are shared, not copied. It may wait.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedWeight`] for a scheme that the device does not compute with.
    fn load(&self, weight: StoredWeight) -> Result<Self::Weight>;

    /// Some elements of a vector that is not quantized, as a bias of some rows of a matrix: a handle, no copy.
    ///
    /// # Panics
    /// When it has not so many, or is quantized.
    fn elements(&self, vector: &Self::Weight, range: Range<usize>) -> Self::Weight;

    /// Blocks for the keys and values of a layer.
    fn kv_pool(&self, shape: &KvShape) -> Result<Self::KvPool>;

    /// Bytes that [`Backend::kv_pool`] allocates.
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes;

    /// Positions of a block of such a pool.
    fn kv_block_len(&self, shape: &KvShape) -> usize;

    /// Room for a router's choice in passes of `n_tokens`.
    fn routes(&self, routing: &Routing, n_tokens: usize) -> Result<Self::Routes>;

    /// Bytes that [`Backend::routes`] allocates.
    fn routes_bytes(&self, routing: &Routing, n_tokens: usize) -> Bytes;

    /// Zeroed host memory of `n_bytes`, rounded up to whole pages.
    fn host_pages(&self, n_bytes: usize) -> Result<Self::HostPages>;

    /// A staging place of `n_bytes`, rounded up to whole pages.
    fn place(&self, n_bytes: usize) -> Result<Self::Place>;

    /// A weight whose parts lie in a place: a few handles, no copy. It may be put to use before its bytes are brought, and
    /// is dropped before the place is filled anew.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedWeight`].
    fn placed(
        &self,
        place: &Self::Place,
        weight: &StoredWeight<Range<usize>>,
    ) -> Result<Self::Weight>;

    /// The same of a weight that lies in host pages, on a device that computes in host memory: there nothing is brought.
    ///
    /// # Errors
    /// [`BackendError::UnsupportedWeight`].
    ///
    /// # Panics
    /// On a device that has memory of its own.
    fn in_pages(
        &self,
        pages: &Self::HostPages,
        weight: &StoredWeight<Range<usize>>,
    ) -> Result<Self::Weight>;

    /// A queue with scratch memory that suffices for every operation within `shape`; none for a queue that only brings.
    fn queue(self: &Arc<Self>, shape: Option<&WorkspaceShape>) -> Result<Self::Queue>;

    /// Bytes of scratch memory of such a queue.
    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes;
}
