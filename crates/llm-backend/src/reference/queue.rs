//! A queue that has nothing to wait for.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use llm_tensor::{Bytes, PageBuf};

use super::Reference;
use crate::{Allocation, HostPages, Queue, Result};

/// Work that is done when it is put there.
#[derive(Debug)]
pub struct ReferenceQueue;

/// Pages in host memory, which weights that lie in them read in place.
#[derive(Debug)]
pub struct ReferencePages {
    pub(super) pages: Arc<RwLock<PageBuf>>,
    n_bytes: usize,
}

impl ReferencePages {
    pub(super) fn new(pages: PageBuf) -> Self {
        ReferencePages {
            n_bytes: pages.len(),
            pages: Arc::new(RwLock::new(pages)),
        }
    }
}

impl Allocation for ReferencePages {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.n_bytes as u64)
    }
}

// Whatever a writer that panicked has left is bytes.
impl HostPages for ReferencePages {
    fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.pages.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        write(&mut self.pages.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Queue<Reference> for ReferenceQueue {
    fn record(&mut self) -> Result<()> {
        Ok(())
    }

    fn wait(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, src: &[f32], dst: &mut Vec<f32>) -> Result<()> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn upload_index(&mut self, src: &[u32], dst: &mut Vec<u32>) -> Result<()> {
        dst[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn download(&mut self, src: &Vec<f32>, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(&src[..dst.len()]);
        Ok(())
    }

    fn copy_from(
        &mut self,
        _: &mut ReferenceQueue,
        src: &Vec<f32>,
        dst: &mut Vec<f32>,
        n_elements: usize,
    ) -> Result<()> {
        dst[..n_elements].copy_from_slice(&src[..n_elements]);
        Ok(())
    }

    fn bring(
        &mut self,
        pages: &ReferencePages,
        range: Range<usize>,
        place: &mut ReferencePages,
        at: usize,
    ) -> Result<()> {
        pages.read(|from| {
            let from = &from[range];
            place.fill(|to| to[at..at + from.len()].copy_from_slice(from));
        });
        Ok(())
    }
}
