//! Memory of the processor.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Backend, BackendError, DeviceInfo, Result, Routing};
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, KvShape, PageBuf, WorkspaceShape};

use crate::memory::Workspace;
use crate::weight::{Operand, Weight};
use crate::{Buffer, Cpu, CpuPages, CpuQueue, KvPool, Routes, kv_pool, routes, workspace};

impl Backend for Cpu {
    type Buffer = Buffer;
    type Index = Buffer<u32>;
    type Weight = Weight;
    type KvPool = KvPool;
    type Routes = Routes;
    type HostPages = CpuPages;
    type Place = CpuPages;
    type Event = ();
    type Queue = CpuQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, n_elements: usize) -> Result<Buffer> {
        Buffer::zeroed(n_elements).map_err(|n| self.out_of_memory("activations", n))
    }

    fn alloc_index(&self, n_elements: usize) -> Result<Buffer<u32>> {
        Buffer::zeroed(n_elements).map_err(|n| self.out_of_memory("lists", n))
    }

    fn load(&self, weight: StoredWeight) -> Result<Weight> {
        let operand = Operand::of(&weight, self.activations);
        operand
            .map(Weight)
            .ok_or_else(|| BackendError::UnsupportedWeight {
                device: self.info.name.clone(),
                scheme: weight.scheme,
                rows: weight.rows,
                cols: weight.cols,
            })
    }

    fn kv_pool(&self, shape: &KvShape) -> Result<KvPool> {
        KvPool::new(shape, self.level.geometry())
            .map_err(|n| self.out_of_memory("keys and values", n))
    }

    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        kv_pool::bytes(shape, self.level.geometry())
    }

    fn kv_block_len(&self, _: &KvShape) -> usize {
        self.level.geometry().panel
    }

    fn routes(&self, routing: &Routing, n_tokens: usize) -> Result<Routes> {
        Routes::new(routing, n_tokens).map_err(|n| self.out_of_memory("routes", n))
    }

    fn routes_bytes(&self, routing: &Routing, n_tokens: usize) -> Bytes {
        routes::bytes(routing, n_tokens)
    }

    fn host_pages(&self, n_bytes: usize) -> Result<CpuPages> {
        let pages = PageBuf::zeroed(n_bytes);
        let pages =
            pages.map_err(|_| self.out_of_memory("host pages", Bytes::new(n_bytes as u64)))?;
        Ok(CpuPages::new(pages))
    }

    fn place(&self, n_bytes: usize) -> Result<CpuPages> {
        self.host_pages(n_bytes)
    }

    fn placed(&self, place: &CpuPages, weight: &StoredWeight<Range<usize>>) -> Result<Weight> {
        self.in_pages(place, weight)
    }

    fn elements(&self, vector: &Weight, range: Range<usize>) -> Weight {
        vector.elements(range)
    }

    fn in_pages(&self, pages: &CpuPages, weight: &StoredWeight<Range<usize>>) -> Result<Weight> {
        self.load(weight.clone().map(|_, range| pages.slice(range)))
    }

    fn queue(self: &Arc<Self>, shape: Option<&WorkspaceShape>) -> Result<CpuQueue> {
        let (geometry, n_threads) = (self.level.geometry(), self.n_threads());
        let activations = self.activations;
        let n_elements = |shape| workspace::n_elements(shape, geometry, n_threads, activations);
        let workspace = Workspace::new(shape.map_or(0, n_elements));
        Ok(CpuQueue {
            cpu: Arc::clone(self),
            workspace: workspace.map_err(|n| self.out_of_memory("scratch memory", n))?,
        })
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        let (geometry, n_threads) = (self.level.geometry(), self.n_threads());
        workspace::bytes(shape, geometry, n_threads, self.activations)
    }
}

impl Cpu {
    fn out_of_memory(&self, purpose: &'static str, requested: Bytes) -> BackendError {
        BackendError::OutOfMemory {
            device: self.info.name.clone(),
            purpose,
            requested,
            free: None,
        }
    }
}
