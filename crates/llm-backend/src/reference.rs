//! The plainest implementation: one loop an operation, f64 accumulation, weights widened to f32.

mod conv;
mod delta;
mod heads;
mod hyper;
mod norm;
mod ops;
mod pool;
mod queue;
mod routes;
mod scalar;
mod state_space;
mod streams;
mod weight;

use std::ops::Range;
use std::sync::Arc;

use llm_quant::{Activations, StoredWeight};
use llm_tensor::{Bytes, KvShape, PageBuf, WorkspaceShape};

use self::pool::{BLOCK, ReferencePool};
use self::queue::{ReferencePages, ReferenceQueue};
use self::routes::ReferenceRoutes;
use self::weight::{Decoded, ReferenceWeight};
use crate::{Allocation, Backend, BackendError, DeviceInfo, Result, Routing, Rows, StateBatch};

/// A backend to hold others against; far too slow for real models, and it keeps a widened copy of the weights.
#[derive(Debug)]
pub struct Reference {
    info: DeviceInfo,
    activations: Activations,
}

impl Reference {
    /// The reference of exact products.
    pub fn new() -> Self {
        Self::with_activations(Activations::F32)
    }

    /// The reference of products with packed weights that take activations so.
    pub fn with_activations(activations: Activations) -> Self {
        Reference {
            info: DeviceInfo {
                name: "reference".to_owned(),
            },
            activations,
        }
    }

    fn check<T>(&self, weight: &StoredWeight<T>) -> Result<()> {
        if weight::is_supported(weight.scheme) {
            return Ok(());
        }
        Err(BackendError::UnsupportedWeight {
            device: self.info.name.clone(),
            scheme: weight.scheme,
            rows: weight.rows,
            cols: weight.cols,
        })
    }
}

impl Default for Reference {
    fn default() -> Self {
        Self::new()
    }
}

impl Allocation for Vec<f32> {
    fn bytes(&self) -> Bytes {
        Bytes::new(size_of_val(self.as_slice()) as u64)
    }
}

impl Allocation for Vec<u32> {
    fn bytes(&self) -> Bytes {
        Bytes::new(size_of_val(self.as_slice()) as u64)
    }
}

impl Backend for Reference {
    type Buffer = Vec<f32>;
    type Index = Vec<u32>;
    type Weight = ReferenceWeight;
    type KvPool = ReferencePool;
    type Routes = ReferenceRoutes;
    type HostPages = ReferencePages;
    type Place = ReferencePages;
    type Event = ();
    type Queue = ReferenceQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, n_elements: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; n_elements])
    }

    fn alloc_index(&self, n_elements: usize) -> Result<Vec<u32>> {
        Ok(vec![0; n_elements])
    }

    fn load(&self, weight: StoredWeight) -> Result<ReferenceWeight> {
        self.check(&weight)?;
        Ok(ReferenceWeight::Loaded(Decoded::new(
            &weight,
            self.activations,
        )))
    }

    fn kv_pool(&self, shape: &KvShape) -> Result<ReferencePool> {
        Ok(ReferencePool::new(shape))
    }

    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        ReferencePool::planned_bytes(shape)
    }

    fn kv_block_len(&self, _: &KvShape) -> usize {
        BLOCK
    }

    fn routes(&self, routing: &Routing, n_tokens: usize) -> Result<ReferenceRoutes> {
        Ok(ReferenceRoutes::new(routing, n_tokens))
    }

    fn routes_bytes(&self, routing: &Routing, n_tokens: usize) -> Bytes {
        ReferenceRoutes::planned_bytes(routing, n_tokens)
    }

    fn host_pages(&self, n_bytes: usize) -> Result<ReferencePages> {
        let pages = PageBuf::zeroed(n_bytes).map_err(|_| BackendError::OutOfMemory {
            device: self.info.name.clone(),
            purpose: "host pages",
            requested: Bytes::new(n_bytes as u64),
            free: None,
        })?;
        Ok(ReferencePages::new(pages))
    }

    fn place(&self, n_bytes: usize) -> Result<ReferencePages> {
        self.host_pages(n_bytes)
    }

    fn placed(
        &self,
        place: &ReferencePages,
        weight: &StoredWeight<Range<usize>>,
    ) -> Result<ReferenceWeight> {
        self.in_pages(place, weight)
    }

    fn elements(&self, vector: &ReferenceWeight, range: Range<usize>) -> ReferenceWeight {
        vector.elements(range)
    }

    fn in_pages(
        &self,
        pages: &ReferencePages,
        weight: &StoredWeight<Range<usize>>,
    ) -> Result<ReferenceWeight> {
        self.check(weight)?;
        Ok(ReferenceWeight::Placed {
            pages: Arc::clone(&pages.pages),
            weight: weight.clone(),
            activations: self.activations,
        })
    }

    fn queue(self: &Arc<Self>, _: Option<&WorkspaceShape>) -> Result<ReferenceQueue> {
        Ok(ReferenceQueue)
    }

    fn workspace_bytes(&self, _: &WorkspaceShape) -> Bytes {
        Bytes::ZERO
    }
}

/// # Panics
/// When a device was told of other rows than the host has.
fn assert_told(rows: &[Rows], index: &[u32]) {
    let words = rows.iter().flat_map(Rows::words);
    assert!(
        words.eq(index[..rows.len() * Rows::N_WORDS].iter().copied()),
        "a device is told of the rows that the host has: {rows:?}"
    );
}

/// Rows of each sequence, with the slot of its states.
fn slots(batch: &StateBatch<'_, Reference>) -> impl Iterator<Item = (Rows, usize)> {
    assert_told(batch.rows, batch.rows_index);
    let slots = batch.slots.iter().map(|&slot| slot as usize);
    batch.rows.iter().copied().zip(slots)
}
