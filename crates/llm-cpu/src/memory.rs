//! Zeroed memory that the operating system commits page by page as it is touched.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use bytemuck::Pod;
use llm_backend::Allocation;
use llm_tensor::Bytes;

/// Zeroed elements, f32 or u32, the first on a cache line. Unlike a `Vec`, running out of memory is a value, not an abort.
pub struct Buffer<T = f32> {
    allocation: NonNull<u8>,
    layout: Layout,
    /// Bytes from the allocation's start to the first cache line.
    offset: usize,
    n_elements: usize,
    elements: PhantomData<T>,
}

// SAFETY: the buffer owns its memory, which is plain data.
unsafe impl<T: Pod + Send> Send for Buffer<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Pod + Sync> Sync for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// # Errors
    /// What was asked for, when the system does not give it.
    pub(crate) fn zeroed(n_elements: usize) -> Result<Self, Bytes> {
        let n_bytes = n_elements.saturating_mul(size_of::<T>());
        let refused = Bytes::new(n_bytes as u64);
        // The allocator zeroes by writing where it is asked for more than its natural alignment, which would commit
        // every page; so the aligned start is found inside a slightly larger allocation.
        let layout = Layout::from_size_align(n_bytes.saturating_add(CACHE_LINE), align_of::<T>())
            .map_err(|_| refused)?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(refused)?;
        let address = allocation.as_ptr() as usize;
        Ok(Buffer {
            allocation,
            layout,
            offset: address.next_multiple_of(CACHE_LINE) - address,
            n_elements,
            elements: PhantomData,
        })
    }

    /// All elements.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `n_elements` initialised (zeroed) elements of plain data lie from the aligned start on, within the allocation.
        unsafe { std::slice::from_raw_parts(self.start(), self.n_elements) }
    }

    /// All elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as for `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.n_elements) }
    }

    fn start(&self) -> *mut T {
        // SAFETY: the allocation is longer than the elements by a cache line, and the offset shorter than one.
        unsafe { self.allocation.as_ptr().add(self.offset).cast() }
    }
}

impl<T: Pod> Allocation for Buffer<T> {
    fn bytes(&self) -> Bytes {
        Bytes::new((self.n_elements * size_of::<T>()) as u64)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and dropped once.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = std::any::type_name::<T>();
        write!(f, "Buffer({} {element})", self.n_elements)
    }
}

/// Scratch memory of the operations, which use it one after the other.
#[derive(Debug)]
pub(crate) struct Workspace {
    memory: Buffer,
}

impl Workspace {
    /// # Errors
    /// What was asked for, when the system does not give it.
    pub(crate) fn new(n_elements: usize) -> Result<Self, Bytes> {
        Ok(Workspace {
            memory: Buffer::zeroed(n_elements)?,
        })
    }

    /// The first `n` elements.
    ///
    /// # Panics
    /// When the workspace was made for smaller calls.
    pub(crate) fn take(&mut self, n: usize) -> &mut [f32] {
        &mut self.all(n)[..n]
    }

    /// All elements, `n` at least.
    ///
    /// # Panics
    /// When the workspace was made for smaller calls.
    pub(crate) fn all(&mut self, n: usize) -> &mut [f32] {
        let memory = self.memory.as_mut_slice();
        assert!(
            n <= memory.len(),
            "a workspace of {} elements serves no call that needs {n}",
            memory.len()
        );
        memory
    }
}

impl Allocation for Workspace {
    fn bytes(&self) -> Bytes {
        self.memory.bytes()
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
            let mut buffer = Buffer::<f32>::zeroed(n).unwrap();
            assert_eq!(buffer.as_slice(), vec![0.0; n]);
            assert_eq!(buffer.as_slice().as_ptr() as usize % CACHE_LINE, 0);
            buffer.as_mut_slice().fill(1.0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri ends where it has no memory")]
    fn refuses_more_than_there_can_be() {
        assert!(Buffer::<f32>::zeroed(usize::MAX).is_err());
        assert!(Buffer::<u32>::zeroed(1 << 56).is_err());
    }
}
