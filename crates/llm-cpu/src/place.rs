//! Staging places in host memory.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::Place;
use llm_tensor::{HostBytes, PageBuf};

/// Pages that streamed weights are brought to, and computed with where they are.
#[derive(Debug)]
pub struct CpuPlace(Arc<PageBuf>);

impl CpuPlace {
    pub(crate) fn new(pages: PageBuf) -> Self {
        CpuPlace(Arc::new(pages))
    }

    /// Some of its bytes; it is not filled while they live.
    pub(crate) fn bytes(&self, range: Range<usize>) -> HostBytes {
        HostBytes::of_shared(Arc::<PageBuf>::clone(&self.0), range)
    }
}

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
