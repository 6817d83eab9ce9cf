//! Memory of the processor.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Backend, BackendError, DeviceInfo, Place, Result, Routing};
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, HostBytes, KvShape, PageBuf, WorkspaceShape};

use crate::weight::{Operand, Weight};
use crate::workspace::Workspace;
use crate::{Buffer, Cpu, CpuQueue, KvPool, Routes, kv_pool, routes, workspace};

impl Backend for Cpu {
    type Buffer = Buffer;
    type Index = Buffer<u32>;
    type Weight = Weight;
    type KvPool = KvPool;
    type Routes = Routes;
    type Place = CpuPlace;
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
        let operand = Operand::of(&weight);
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

    fn place(&self, n_bytes: usize) -> Result<CpuPlace> {
        let pages = PageBuf::zeroed(n_bytes);
        let pages =
            pages.map_err(|_| self.out_of_memory("a staging place", Bytes::new(n_bytes as u64)))?;
        Ok(CpuPlace(Arc::new(pages)))
    }

    fn placed(&self, place: &CpuPlace, weight: &StoredWeight<Range<usize>>) -> Result<Weight> {
        self.load(
            weight
                .clone()
                .map(|_, range| HostBytes::of_shared(Arc::<PageBuf>::clone(&place.0), range)),
        )
    }

    fn queue(self: &Arc<Self>, shape: Option<&WorkspaceShape>) -> Result<CpuQueue> {
        let workspace = Workspace::new(shape, self.level.geometry(), self.n_threads());
        Ok(CpuQueue {
            cpu: Arc::clone(self),
            workspace: workspace.map_err(|n| self.out_of_memory("scratch memory", n))?,
        })
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        workspace::bytes(shape, self.level.geometry(), self.n_threads())
    }
}

impl Cpu {
    fn out_of_memory(&self, purpose: &'static str, requested: Bytes) -> BackendError {
        BackendError::OutOfMemory {
            device: self.info.name.clone(),
            purpose,
            requested,
        }
    }
}

/// Pages that streamed weights are brought to, and computed with where they are.
#[derive(Debug)]
pub struct CpuPlace(Arc<PageBuf>);

impl Place for CpuPlace {
    fn len(&self) -> usize {
        self.0.len()
    }

    /// # Panics
    /// When a weight that lies in the place is still there.
    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let pages = Arc::get_mut(&mut self.0);
        write(pages.expect("weights of a place are dropped before it is filled anew"))
    }
}
