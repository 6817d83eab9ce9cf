//! Memory of the device, and of the host where the device reads it.

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys;
use llm_tensor::PageBuf;

use super::{Context, Failure, answer};

/// Device memory of its own; given back when this is dropped, after all work that may use it.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    context: Arc<Context>,
    address: u64,
    n_bytes: usize,
}

impl DeviceMemory {
    /// Memory with whatever was left there; none at all where `n_bytes` is zero.
    pub(crate) fn new(context: &Arc<Context>, n_bytes: usize) -> Result<Self, Failure> {
        let mut address = 0;
        if n_bytes > 0 {
            context.bind()?;
            // SAFETY: the thread has a context; the driver writes an address, given back when this is dropped.
            let code = unsafe { sys::cuMemAlloc_v2(&raw mut address, n_bytes) };
            answer(code, || format!("allocating {n_bytes} bytes"))?;
        }
        Ok(DeviceMemory {
            context: Arc::clone(context),
            address,
            n_bytes,
        })
    }

    /// The first byte's address on the device; zero where there is none.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.n_bytes == 0 {
            return;
        }
        // Work that is still queued may use it. A failure was told, or will be, where its work is waited for.
        let _ = self.context.synchronize();
        // SAFETY: the memory is this one's, and no work that uses it is left.
        let _ = unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// Host memory that is given back only after all work of the device.
pub(crate) trait Lasting {
    fn bytes(&self) -> &[u8];
}

/// Host memory that stays where it is, so that the device copies it by itself. It is zeroed.
#[derive(Debug)]
pub(crate) struct HostMemory {
    context: Arc<Context>,
    raw: NonNull<u8>,
    n_bytes: usize,
    /// Bytes before the first that is used.
    skipped: usize,
}

// SAFETY: it is plain memory, of one owner.
unsafe impl Send for HostMemory {}
// SAFETY: it is plain memory; `&self` only reads it.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `n_bytes`, the first on a border of `align`, a power of two.
    pub(crate) fn new(
        context: &Arc<Context>,
        n_bytes: usize,
        align: usize,
    ) -> Result<Self, Failure> {
        context.bind()?;
        let mut raw = ptr::null_mut();
        // The driver packs small allocations; it promises no border.
        let all = n_bytes.max(1).saturating_add(align - 1);
        // SAFETY: the thread has a context; the driver writes an address, given back when this is dropped.
        let code = unsafe { sys::cuMemHostAlloc(&raw mut raw, all, 0) };
        let operation = || format!("allocating {n_bytes} bytes of host memory");
        answer(code, operation)?;
        let raw = NonNull::new(raw.cast::<u8>()).ok_or_else(|| Failure {
            operation: operation(),
            code: 0,
            name: "no address".to_owned(),
        })?;
        // SAFETY: the memory is as long as was asked for, and nobody else's.
        unsafe { raw.write_bytes(0, all) };
        Ok(HostMemory {
            context: Arc::clone(context),
            raw,
            n_bytes,
            skipped: raw.align_offset(align),
        })
    }

    /// The bytes, to be written once no copy of them is under way.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as of `bytes`, and this is the only reference.
        unsafe { slice::from_raw_parts_mut(self.raw.add(self.skipped).as_ptr(), self.n_bytes) }
    }
}

impl Lasting for HostMemory {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `skipped` is below `align`, so that `n_bytes` follow; they were zeroed.
        unsafe { slice::from_raw_parts(self.raw.add(self.skipped).as_ptr(), self.n_bytes) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // Copies that are still queued may read it.
        let _ = self.context.synchronize();
        // SAFETY: the memory is this one's, and no work that reads it is left.
        let _ = unsafe { sys::cuMemFreeHost(self.raw.as_ptr().cast()) };
    }
}

/// Whole pages of the host, zeroed. The driver locks them where it can: then the device copies them by itself.
#[derive(Debug)]
pub(crate) struct Pages {
    context: Arc<Context>,
    pages: PageBuf,
    is_locked: bool,
}

impl Pages {
    /// Pages that hold `n_bytes`.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn new(context: &Arc<Context>, n_bytes: usize) -> io::Result<Self> {
        let mut pages = PageBuf::zeroed(n_bytes)?;
        let (first, n) = (pages.as_mut_ptr(), pages.len());
        // SAFETY: so many bytes are there, and stay where they are until they are unlocked, when this is dropped.
        let lock = || unsafe { sys::cuMemHostRegister_v2(first.cast(), n, 0) };
        let is_locked = context.bind().is_ok() && lock() == sys::CUresult::CUDA_SUCCESS;
        Ok(Pages {
            context: Arc::clone(context),
            pages,
            is_locked,
        })
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// The bytes, to be written once no copy of them is under way.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages
    }
}

impl Lasting for Pages {
    fn bytes(&self) -> &[u8] {
        &self.pages
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // Copies that are still queued may read them.
        let _ = self.context.synchronize();
        if self.is_locked {
            // SAFETY: these pages were locked by this, and no work that reads them is left.
            let _ = unsafe { sys::cuMemHostUnregister(self.pages.as_mut_ptr().cast()) };
        }
    }
}
