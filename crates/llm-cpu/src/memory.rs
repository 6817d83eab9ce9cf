//! Zeroed memory that the operating system commits page by page as it is touched.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;

use llm_backend::Allocation;
use llm_tensor::Bytes;

/// Zeroed f32, the first on a cache line. Unlike a `Vec`, running out of memory is a value, not an abort.
pub struct Buffer {
    allocation: NonNull<u8>,
    layout: Layout,
    /// Bytes from the allocation's start to the first cache line.
    offset: usize,
    n_elements: usize,
}

// SAFETY: the buffer owns its memory, which is plain data.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// # Errors
    /// What was asked for, when the system does not give it.
    pub(crate) fn zeroed(n_elements: usize) -> Result<Self, Bytes> {
        let n_bytes = n_elements.saturating_mul(size_of::<f32>());
        let refused = Bytes::new(n_bytes as u64);
        // The allocator zeroes by writing where it is asked for more than its natural alignment, which would commit
        // every page; so the aligned start is found inside a slightly larger allocation.
        let layout = Layout::from_size_align(n_bytes.saturating_add(CACHE_LINE), align_of::<f32>())
            .map_err(|_| refused)?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        let address = allocation.as_ptr() as usize;
        Ok(Buffer {
            allocation,
            layout,
            offset: address.next_multiple_of(CACHE_LINE) - address,
            n_elements,
        })
    }

    /// All elements.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `n_elements` initialised (zeroed) f32 lie from the aligned start on, within the allocation.
        unsafe { std::slice::from_raw_parts(self.start(), self.n_elements) }
    }

    /// All elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as for `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.n_elements) }
    }

    fn start(&self) -> *mut f32 {
        // SAFETY: the allocation is longer than the elements by a cache line, and the offset shorter than one.
        unsafe { self.allocation.as_ptr().add(self.offset).cast() }
    }
}

impl Allocation for Buffer {
    fn bytes(&self) -> Bytes {
        Bytes::new((self.n_elements * size_of::<f32>()) as u64)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and dropped once.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} f32)", self.n_elements)
    }
}

/// A slice that several threads write, each to elements of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: whoever makes references or pointers from it promises that they do not overlap another thread's.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Shared {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            lifetime: std::marker::PhantomData,
        }
    }

    /// The first element; what is written through it must not overlap what another thread touches.
    pub(crate) fn as_mut_ptr(self) -> *mut f32 {
        self.start
    }

    /// # Panics
    /// When the range leaves the slice.
    ///
    /// # Safety
    /// No other reference to, or access of, these elements exists while this one lives.
    pub(crate) unsafe fn range(self, range: std::ops::Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// The alignment of a buffer's first element, in bytes.
const CACHE_LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_aligned_and_as_long_as_asked() {
        for n in [0, 1, 15, 16, 17, 4096] {
            let mut buffer = Buffer::zeroed(n).unwrap();
            assert_eq!(buffer.as_slice(), vec![0.0; n]);
            assert_eq!(buffer.as_slice().as_ptr() as usize % CACHE_LINE, 0);
            buffer.as_mut_slice().fill(1.0);
        }
    }

    #[test]
    fn refuses_more_than_there_can_be() {
        assert!(Buffer::zeroed(usize::MAX).is_err());
        assert!(Buffer::zeroed(1 << 56).is_err());
    }
}
