//! The functions of the driver API, a room for each of its subjects. They hold the driver's lock, check handles and the
//! current context, and leave the rest to the driver.

mod blas;
mod context;
mod copy;
mod error;
mod event;
mod function;
mod graph;
mod memory;
mod module;
mod stream;

use std::cell::RefCell;

use crate::driver::{Code, Driver, default_stream, lock};

type Done = Result<(), Code>;

thread_local! {
    /// Contexts of the thread, the current one last.
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Runs a call that needs an initialized driver.
fn call(f: impl FnOnce(&mut Driver) -> Done) -> i32 {
    let mut driver = lock();
    let result = driver.as_mut().ok_or(Code::NOT_INITIALIZED).and_then(f);
    result.map_or_else(|code| code.0, |()| 0)
}

/// Runs a call that needs a current context which no fault has ended; it is given the context's device.
fn in_context(f: impl FnOnce(&mut Driver, usize) -> Done) -> i32 {
    call(|driver| {
        let device = current().ok_or(Code::INVALID_CONTEXT)?;
        driver.check(device)?;
        f(driver, device)
    })
}

/// Device of the current context.
fn current() -> Option<usize> {
    CONTEXTS.with_borrow(|contexts| contexts.last().copied().and_then(device_of))
}

/// Handle of a device's primary context.
fn context_of(device: usize) -> usize {
    FIRST_CONTEXT + device * 16
}

fn device_of(context: usize) -> Option<usize> {
    let offset = context.checked_sub(FIRST_CONTEXT)?;
    (offset % 16 == 0 && offset / 16 < MOST_DEVICES).then_some(offset / 16)
}

/// A stream by its handle: 0 to 2 are default streams of the current context.
fn stream_of(driver: &Driver, device: usize, handle: usize) -> Result<usize, Code> {
    let handle = if handle <= 2 {
        default_stream(device)
    } else {
        handle
    };
    let stream = driver.streams.get(&handle).ok_or(Code::INVALID_HANDLE)?;
    if stream.device == device {
        Ok(handle)
    } else {
        Err(Code::INVALID_CONTEXT)
    }
}

/// Writes a result where the caller wants it.
#[expect(unsafe_code, reason = "the caller gives a pointer to its result")]
fn put<T>(to: *mut T, value: T) -> Done {
    if to.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: as the driver API demands it, the pointer is to memory for one such value.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

const FIRST_CONTEXT: usize = 0xc000;
const MOST_DEVICES: usize = 64;
