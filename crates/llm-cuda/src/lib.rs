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

mod backend;
mod blas;
mod card;
mod choose;
mod compute;
pub mod costs;
#[allow(unsafe_code, reason = "the driver is C")]
mod driver;
mod error;
mod event;
mod formats;
mod kv_pool;
mod launch;
mod loaded;
mod measure;
mod memory;
mod module;
mod ops;
mod place;
mod probe;
mod products;
mod queue;
mod routes;
#[allow(unsafe_code, reason = "kernels are told addresses")]
mod steps;
mod uploads;
mod weight;
mod workspace;

pub use compute::Compute;
pub use error::NoGpu;
pub use event::CudaEvent;
pub use kv_pool::KvPool;
pub use loaded::LoadedCublas;
pub use measure::{GpuLink, GpuRates, GpuTimes, HostRates, MeasureExtent};
pub use memory::{Buffer, Index};
pub use place::{CudaPages, CudaPlace};
pub use probe::{Driver, GpuFacts, device_name, probe};
pub use products::Products;
pub use queue::CudaQueue;
pub use routes::Routes;
pub use weight::{CudaWeight, computes_with};

use std::collections::BTreeMap;
use std::sync::Arc;

use llm_backend::DeviceInfo;
use llm_tensor::Bytes;

use crate::card::Card;
use crate::event::Events;

/// A GPU: its memory, and the queues that compute in it.
#[derive(Debug)]
pub struct Cuda {
    info: DeviceInfo,
    card: Arc<Card>,
    events: Events,
}

impl Cuda {
    /// Opens the driver's GPU of that number, for products as exact as f32.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(number: usize) -> Result<Self, NoGpu> {
        Self::computing_in(number, Compute::default())
    }

    /// Opens the driver's GPU of that number, for products of that exactness.
    ///
    /// # Errors
    /// Why there is none.
    pub fn computing_in(number: usize, compute: Compute) -> Result<Self, NoGpu> {
        let card = Card::open(number, compute)?;
        Ok(Cuda {
            info: DeviceInfo {
                name: card.name.clone(),
            },
            card: Arc::new(card),
            events: Events::default(),
        })
    }

    pub(crate) fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// Facts of the GPU, from when it was opened.
    pub fn facts(&self) -> &GpuFacts {
        &self.card.facts
    }

    /// Memory that no program has taken, and memory in all.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn memory(&self) -> llm_backend::Result<(Bytes, Bytes)> {
        let memory = self.card.context.memory();
        let (free, total) = memory.map_err(|failure| self.card.failed(failure))?;
        Ok((Bytes::new(free), Bytes::new(total)))
    }

    /// Loads every kernel that the GPU runs, where a model has those loaded that it needs.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn load_all_kernels(&self) -> llm_backend::Result<()> {
        let loaded = self.card.kernels.load_all();
        loaded.map_err(|failure| self.card.failed(failure))
    }

    /// Starts cuBLAS where it is installed and works, and loads what products need of it.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn load_cublas(&self) -> llm_backend::Result<Option<LoadedCublas>> {
        LoadedCublas::of(&self.card)
    }

    /// Account of products with many rows, for people: `224 by cuBLAS 12.4.5, 32 by own kernels`; nothing where there were
    /// none.
    pub fn products(&self) -> Option<String> {
        self.card.products.text()
    }

    /// Bytes that are allocated, by what they are for.
    pub fn usage(&self) -> BTreeMap<&'static str, Bytes> {
        self.card.usage()
    }
}
