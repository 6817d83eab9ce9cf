//! Staging places, and the host memory from which weights are brought there.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Allocation, BackendError, HostPages, Result};
use llm_tensor::{Bytes, PageBuf};

use crate::card::Card;
use crate::driver::{Failure, Lasting, Pages, Stream};
use crate::memory::Memory;
use crate::weight::Piece;

/// Host pages that the GPU copies by itself, where the driver locks them.
#[derive(Debug)]
pub struct CudaPages(Pages);

/// Memory of the GPU that streamed weights are brought to.
#[derive(Debug)]
pub struct CudaPlace(Arc<Memory>);

impl CudaPages {
    pub(crate) fn new(card: &Arc<Card>, n_bytes: usize) -> Result<Self> {
        let pages = Pages::new(&card.context, n_bytes);
        let pages = pages.map_err(|_| BackendError::OutOfMemory {
            device: card.name.clone(),
            purpose: "host pages",
            requested: Bytes::new(n_bytes as u64),
            free: None,
        });
        pages.map(CudaPages)
    }
}

impl Allocation for CudaPages {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.0.bytes().len() as u64)
    }
}

impl HostPages for CudaPages {
    fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(self.0.bytes())
    }

    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        write(self.0.bytes_mut())
    }

    fn is_pageable(&self) -> bool {
        !self.0.is_locked()
    }
}

impl CudaPlace {
    pub(crate) fn new(card: &Arc<Card>, n_bytes: usize) -> Result<Self> {
        let n_bytes = n_bytes.max(1).next_multiple_of(PageBuf::PAGE);
        let memory = Memory::new(card, n_bytes, "staging places")?;
        Ok(CudaPlace(Arc::new(memory)))
    }

    /// Some of its memory.
    pub(crate) fn piece(&self, range: Range<usize>) -> Piece {
        Piece::of(&self.0, range)
    }

    /// Copies bytes of host pages to byte `at` of it, behind the work of `stream`.
    pub(crate) fn bring(
        &self,
        stream: &Stream,
        (pages, range): (&CudaPages, Range<usize>),
        at: usize,
    ) -> std::result::Result<(), Failure> {
        stream.bring((&pages.0, range.start), (self.0.raw(), at), range.len())
    }
}

impl Allocation for CudaPlace {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.0.n_bytes() as u64)
    }
}
