//! Element types, shapes, checked byte sizes and host buffers.
//!
//! The lowest layer: it knows nothing of files, devices or models. Everything above measures memory with
//! [`Bytes`], names element types with [`DType`] and passes weight bytes around as [`HostBytes`], which do not
//! say, and need not say, whether they live in the heap or in a mapped file.

mod bytes;
mod convert;
mod device;
mod dtype;
mod error;
mod float8;
mod host;
mod math;
mod pages;
mod routing;
mod shape;

pub use bytes::Bytes;
pub use convert::{convert_elements, f32_to_le_bytes, le_bytes_to_f32};
pub use device::{KvShape, KvValues, MAX_TAPS, StateShape, WorkspaceShape};
pub use dtype::DType;
pub use error::TensorError;
pub use host::{AlignedBuf, HostBytes};
pub use math::{Activation, ClampedGate, Gate, GateOrder, Norm, Pairing, Weighting};
pub use pages::PageBuf;
pub use routing::{ExpertGroups, GroupRank, Routing, Scoring};
pub use shape::Shape;
