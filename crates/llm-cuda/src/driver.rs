//! Calls of the driver: the one place that knows its functions. Each returns what was asked of it when it fails.
//!
//! A driver's call works in the context that the calling thread has; every wrapper makes its own current first.

mod blas;
mod context;
mod event;
mod graph;
mod library;
mod memory;
mod module;
mod stream;

pub(crate) use blas::{Blas, BlasLibrary, Gemm};
pub(crate) use context::{Attribute, Context};
pub(crate) use event::{Event, Timing};
pub(crate) use graph::{Chain, Graph};
pub(crate) use library::{device_count, open};
pub(crate) use memory::{DeviceMemory, HostMemory, Lasting, Pages};
pub(crate) use module::{Dimensions, Function, Module};
pub(crate) use stream::Stream;

use std::ffi::CStr;
use std::ptr;

use cudarc::driver::sys;

/// A call that the driver refused, or work that failed before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What was asked, with its sizes, as "copying 4096 bytes to the device".
    pub(crate) operation: String,
    /// The driver's code.
    pub(crate) code: u32,
    /// The driver's name of the code.
    pub(crate) name: String,
}

impl Failure {
    /// True when what was asked for has no room.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32
    }
}

/// The driver's answer; `operation` is put into words only where it is refused.
fn answer(code: sys::CUresult, operation: impl FnOnce() -> String) -> Result<(), Failure> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(Failure {
        operation: operation(),
        code: code as u32,
        name: name(code),
    })
}

fn name(code: sys::CUresult) -> String {
    let mut name = ptr::null();
    // SAFETY: the driver is there, since it answered; it writes a pointer to a text that it keeps, or null.
    let found = unsafe { sys::cuGetErrorName(code, &raw mut name) };
    if found != sys::CUresult::CUDA_SUCCESS || name.is_null() {
        return "an error without a name".to_owned();
    }
    // SAFETY: a text of the driver's, which ends with a zero and is never changed.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_string_lossy().into_owned()
}
