//! Allocations of memory by a thread, counted: for tests of what must not allocate. The driver's own are not among them, since
//! a shared library has an allocator of its own.
//!
//! ```no_run
//! use cuda_emulator::allocations::{Counting, during};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! assert_eq!(during(|| drop(vec![1, 2, 3])), 1);
//! ```
#![expect(unsafe_code, reason = "the trait of allocators is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which counts.
#[derive(Debug)]
pub struct Counting;

/// Allocations of this thread while `act` runs, those that grow one among them. None is seen unless [`Counting`] is the
/// program's allocator.
pub fn during(act: impl FnOnce()) -> u64 {
    let before = N.get();
    act();
    N.get() - before
}

thread_local! {
    static N: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    N.set(N.get() + 1);
}

// SAFETY: all is done by the system's allocator; the count is a number of the thread's, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller has seen to.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller has seen to.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, n_bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller has seen to.
        unsafe { System.realloc(memory, layout, n_bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller has seen to.
        unsafe { System.dealloc(memory, layout) }
    }
}
