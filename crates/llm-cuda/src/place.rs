//! Staging places: memory of the GPU that streamed weights are brought to, and the host pages in which they arrive.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Place, Result};
use llm_tensor::PageBuf;

use crate::card::Card;
use crate::driver::{Failure, HostMemory, Stream};
use crate::memory::Memory;
use crate::weight::Piece;

/// Host pages that the GPU copies by itself, and as much of its memory.
#[derive(Debug)]
pub struct CudaPlace {
    pages: HostMemory,
    memory: Arc<Memory>,
}

impl CudaPlace {
    pub(crate) fn new(card: &Arc<Card>, n_bytes: usize) -> Result<Self> {
        let n_bytes = n_bytes.max(1).next_multiple_of(PageBuf::PAGE);
        let pages = HostMemory::new(&card.context, n_bytes, PageBuf::PAGE);
        let purpose = "the host pages of a staging place";
        Ok(CudaPlace {
            pages: pages.map_err(|failure| card.refused(failure, purpose, n_bytes))?,
            memory: Arc::new(Memory::new(card, n_bytes, "staging places")?),
        })
    }

    /// Some of its memory.
    pub(crate) fn piece(&self, range: Range<usize>) -> Piece {
        Piece::of(&self.memory, range)
    }

    /// Copies the first `n_bytes` of the pages to the GPU, behind the work of `stream`.
    pub(crate) fn bring(
        &self,
        stream: &Stream,
        n_bytes: usize,
    ) -> std::result::Result<(), Failure> {
        stream.bring((&self.pages, 0), (self.memory.raw(), 0), n_bytes)
    }
}

impl Place for CudaPlace {
    fn len(&self) -> usize {
        self.memory.n_bytes()
    }

    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        write(self.pages.bytes_mut())
    }
}
