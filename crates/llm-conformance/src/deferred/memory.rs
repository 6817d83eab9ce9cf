use std::sync::{Arc, Mutex};

use llm_backend::{Allocation, Backend, BackendError, Place, Result};
use llm_tensor::{Bytes, PageBuf};

use super::schedule::lock;

/// Memory of the backend that computes, for what is recorded to refer to.
#[derive(Debug)]
pub struct Shared<T> {
    memory: Arc<Mutex<T>>,
    bytes: Bytes,
}

impl<T: Allocation> Shared<T> {
    pub(super) fn new(memory: T) -> Self {
        Shared {
            bytes: memory.bytes(),
            memory: Arc::new(Mutex::new(memory)),
        }
    }

    pub(super) fn handle(&self) -> Arc<Mutex<T>> {
        Arc::clone(&self.memory)
    }
}

impl<T> Allocation for Shared<T> {
    fn bytes(&self) -> Bytes {
        self.bytes
    }
}

/// Host pages, and a place of the backend that computes, which they are copied to when they are brought.
pub struct DeferredPlace<B: Backend> {
    pub(super) host: Arc<Mutex<PageBuf>>,
    pub(super) device: Arc<Mutex<B::Place>>,
    n_bytes: usize,
}

impl<B: Backend> DeferredPlace<B> {
    pub(super) fn new(inner: &B, n_bytes: usize) -> Result<Self> {
        let device = inner.place(n_bytes)?;
        let host = PageBuf::zeroed(n_bytes).map_err(|_| BackendError::OutOfMemory {
            device: inner.info().name.clone(),
            purpose: "a staging place",
            requested: Bytes::new(n_bytes as u64),
            free: None,
        })?;
        Ok(DeferredPlace {
            n_bytes: host.len(),
            host: Arc::new(Mutex::new(host)),
            device: Arc::new(Mutex::new(device)),
        })
    }
}

impl<B: Backend> Place for DeferredPlace<B> {
    fn len(&self) -> usize {
        self.n_bytes
    }

    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        write(&mut lock(&self.host))
    }
}
