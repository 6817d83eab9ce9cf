//! Kernels for NVIDIA GPUs, and a backend over the CUDA driver.
//!
//! [`Cuda`] is a [`Backend`](llm_backend::Backend) on one GPU. The driver is loaded when the program runs; without one, or
//! without a GPU, [`probe`] says so in a sentence, and nothing else is lost. The kernels are embedded as PTX, which the driver
//! compiles for its card: users need the driver, and no toolkit. What a device will allocate is known without one
//! ([`costs`]), so that plans can be made on any machine.
//!
//! Work is put into streams in order; only reading results back, and asking which experts were chosen, waits. Device memory is
//! allocated when a model is loaded and by no operation. Everything that reaches the driver passes a check: lengths and alignment of memory, number and types
//! of a kernel's arguments, limits of a launch.

#![allow(
    unsafe_code,
    reason = "the driver is C, and kernels are told addresses; both are wrapped in two modules"
)]

mod backend;
mod card;
pub mod costs;
mod driver;
mod error;
mod event;
mod kv_pool;
mod launch;
mod measure;
mod memory;
mod module;
mod ops;
mod place;
mod probe;
mod queue;
mod routes;
mod uploads;
mod weight;
mod workspace;

pub use backend::Cuda;
pub use error::NoGpu;
pub use event::CudaEvent;
pub use kv_pool::KvPool;
pub use measure::{GpuRates, HostRates, MeasureExtent};
pub use memory::{Buffer, Index};
pub use place::CudaPlace;
pub use probe::{Driver, GpuFacts, probe};
pub use queue::CudaQueue;
pub use routes::Routes;
pub use weight::CudaWeight;
