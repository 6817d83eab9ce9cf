//! A queue that has nothing to wait for.

use std::sync::{Arc, PoisonError, RwLock};

use llm_tensor::PageBuf;

use super::Reference;
use crate::{Place, Queue, Result};

/// Work that is done when it is put there.
#[derive(Debug)]
pub struct ReferenceQueue;

/// Host pages, which placed weights read in place.
#[derive(Debug)]
pub struct ReferencePlace {
    pub(super) pages: Arc<RwLock<PageBuf>>,
    n_bytes: usize,
}

impl ReferencePlace {
    pub(super) fn new(pages: PageBuf) -> Self {
        ReferencePlace {
            n_bytes: pages.len(),
            pages: Arc::new(RwLock::new(pages)),
        }
    }
}

impl Place for ReferencePlace {
    fn len(&self) -> usize {
        self.n_bytes
    }

    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        // Whatever a writer left is bytes.
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        write(&mut pages)
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

    fn bring(&mut self, place: &mut ReferencePlace, n_bytes: usize) -> Result<()> {
        assert!(
            n_bytes <= place.len(),
            "{n_bytes} bytes of a place of {}",
            place.len()
        );
        Ok(())
    }
}
