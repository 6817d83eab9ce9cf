//! A GPU as a device.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Backend, DeviceInfo, Result, Routing};
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

use crate::card::Card;
use crate::event::Events;
use crate::{
    Buffer, CudaEvent, CudaPlace, CudaQueue, CudaWeight, GpuFacts, Index, KvPool, NoGpu, Routes,
    costs,
};

/// A GPU: its memory, and the queues that compute in it.
#[derive(Debug)]
pub struct Cuda {
    info: DeviceInfo,
    card: Arc<Card>,
    events: Events,
}

impl Cuda {
    /// Opens the driver's GPU of that number, and has the driver compile the kernels for it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(number: usize) -> std::result::Result<Self, NoGpu> {
        let card = Card::open(number)?;
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
    pub fn memory(&self) -> Result<(Bytes, Bytes)> {
        let memory = self.card.context.memory();
        let (free, total) = memory.map_err(|failure| self.card.failed(failure))?;
        Ok((Bytes::new(free), Bytes::new(total)))
    }

    /// Bytes that are allocated, by what they are for.
    pub fn usage(&self) -> BTreeMap<&'static str, Bytes> {
        self.card.usage()
    }
}

impl Backend for Cuda {
    type Buffer = Buffer;
    type Index = Index;
    type Weight = CudaWeight;
    type KvPool = KvPool;
    type Routes = Routes;
    type Place = CudaPlace;
    type Event = CudaEvent;
    type Queue = CudaQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, n_elements: usize) -> Result<Buffer> {
        Buffer::zeroed(&self.card, n_elements)
    }

    fn alloc_index(&self, n_elements: usize) -> Result<Index> {
        Index::zeroed(&self.card, n_elements)
    }

    fn load(&self, weight: StoredWeight) -> Result<CudaWeight> {
        CudaWeight::load(&self.card, weight)
    }

    fn kv_pool(&self, shape: &KvShape) -> Result<KvPool> {
        KvPool::new(&self.card, shape)
    }

    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        costs::kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        costs::kv_block_len(shape)
    }

    fn routes(&self, routing: &Routing, n_tokens: usize) -> Result<Routes> {
        Routes::new(&self.card, routing, n_tokens)
    }

    fn routes_bytes(&self, routing: &Routing, n_tokens: usize) -> Bytes {
        costs::routes_bytes(routing, n_tokens)
    }

    fn place(&self, n_bytes: usize) -> Result<CudaPlace> {
        CudaPlace::new(&self.card, n_bytes)
    }

    fn placed(&self, place: &CudaPlace, weight: &StoredWeight<Range<usize>>) -> Result<CudaWeight> {
        let pieces = weight.clone().map(|_, range| place.piece(range));
        CudaWeight::placed(&self.card, pieces)
    }

    fn queue(self: &Arc<Self>, shape: Option<&WorkspaceShape>) -> Result<CudaQueue> {
        let n_bytes = shape.map_or(0, |shape| costs::workspace_bytes(shape).get() as usize);
        CudaQueue::new(&self.card, &self.events, n_bytes)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        costs::workspace_bytes(shape)
    }
}
