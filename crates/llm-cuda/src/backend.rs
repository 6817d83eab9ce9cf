//! A GPU as a device.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Backend, DeviceInfo, Result, Routing};
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

use crate::{
    Buffer, Cuda, CudaEvent, CudaPages, CudaPlace, CudaQueue, CudaWeight, Index, KvPool, Products,
    Routes, costs, ops,
};

impl Backend for Cuda {
    type Buffer = Buffer;
    type Index = Index;
    type Weight = CudaWeight;
    type KvPool = KvPool;
    type Routes = Routes;
    type HostPages = CudaPages;
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

    fn host_pages(&self, n_bytes: usize) -> Result<CudaPages> {
        CudaPages::new(&self.card, n_bytes)
    }

    fn place(&self, n_bytes: usize) -> Result<CudaPlace> {
        CudaPlace::new(&self.card, n_bytes)
    }

    fn placed(&self, place: &CudaPlace, weight: &StoredWeight<Range<usize>>) -> Result<CudaWeight> {
        let pieces = weight.clone().map(|_, range| place.piece(range));
        CudaWeight::placed(&self.card, pieces)
    }

    fn elements(&self, vector: &CudaWeight, range: Range<usize>) -> CudaWeight {
        vector.elements(range)
    }

    fn in_pages(&self, _: &CudaPages, _: &StoredWeight<Range<usize>>) -> Result<CudaWeight> {
        panic!("{} computes in memory of its own", self.card.name)
    }

    fn queue(self: &Arc<Self>, shape: Option<&WorkspaceShape>) -> Result<CudaQueue> {
        let shape = shape.map(|shape| (shape, ops::scratch_bytes(shape)));
        CudaQueue::new(&self.card, &self.events, shape)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        costs::workspace_bytes(shape, Products::installed())
    }
}
