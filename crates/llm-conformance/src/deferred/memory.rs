use std::sync::{Arc, Mutex};

use llm_backend::{Allocation, HostPages};
use llm_tensor::Bytes;

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

impl<T: HostPages> HostPages for Shared<T> {
    fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        lock(&self.memory).read(look)
    }

    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        lock(&self.memory).fill(write)
    }

    fn is_pageable(&self) -> bool {
        lock(&self.memory).is_pageable()
    }
}
