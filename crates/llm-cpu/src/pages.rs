//! Pages in host memory for streamed weights.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Allocation, HostPages};
use llm_tensor::{Bytes, HostBytes, PageBuf};

/// Pages that weights arrive in, and are computed with where they are.
#[derive(Debug)]
pub struct CpuPages(Arc<PageBuf>);

impl CpuPages {
    pub(crate) fn new(pages: PageBuf) -> Self {
        CpuPages(Arc::new(pages))
    }

    /// Some of the bytes; they are not filled while these live.
    pub(crate) fn slice(&self, range: Range<usize>) -> HostBytes {
        HostBytes::of_shared(Arc::<PageBuf>::clone(&self.0), range)
    }
}

impl Allocation for CpuPages {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.0.len() as u64)
    }
}

impl HostPages for CpuPages {
    fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.0)
    }

    /// # Panics
    /// When a weight that lies in them is still there.
    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let pages = Arc::get_mut(&mut self.0);
        write(pages.expect("weights in pages are dropped before these are filled anew"))
    }
}
