//! Modules of kernels, which the driver compiles for its device.

use std::ffi::{CStr, c_int};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, Failure, answer};

/// Blocks of a launch, threads of a block, and bytes of shared memory beyond what the kernel has of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dimensions {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) shared: u32,
}

/// Compiled kernels of a file.
#[derive(Debug)]
pub(crate) struct Module {
    context: Arc<Context>,
    raw: sys::CUmodule,
    file: &'static str,
}

// SAFETY: the driver's modules may be used by any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module that lives as long as the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Function {
    pub(super) raw: sys::CUfunction,
}

// SAFETY: the driver's functions may be used by any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Module {
    /// Has the driver compile a file of PTX, or take it from where it keeps what it compiled.
    pub(crate) fn new(
        context: &Arc<Context>,
        file: &'static str,
        ptx: &CStr,
    ) -> Result<Self, Failure> {
        context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the thread has a context; the text ends with a zero. The driver writes a handle.
        let code = unsafe { sys::cuModuleLoadData(&raw mut raw, ptx.as_ptr().cast()) };
        answer(code, || format!("compiling {file}"))?;
        Ok(Module {
            context: Arc::clone(context),
            raw,
            file,
        })
    }

    /// The name of its file.
    pub(crate) fn file(&self) -> &'static str {
        self.file
    }

    pub(crate) fn function(&self, name: &CStr) -> Result<Function, Failure> {
        self.context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the module is loaded while this lives; the driver writes a handle.
        let code = unsafe { sys::cuModuleGetFunction(&raw mut raw, self.raw, name.as_ptr()) };
        answer(code, || format!("looking up {name:?} in {}", self.file))?;
        Ok(Function { raw })
    }
}

impl Function {
    /// Allows launches with up to so many bytes of shared memory that is given at the launch.
    pub(crate) fn allow_shared(self, context: &Context, n_bytes: u32) -> Result<(), Failure> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        context.bind()?;
        let attribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function's module is loaded.
        let code = unsafe { sys::cuFuncSetAttribute(self.raw, attribute, n_bytes as c_int) };
        answer(code, || format!("taking {n_bytes} bytes of shared memory"))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.synchronize();
        // SAFETY: the module is this one's, and no kernel of it runs.
        let _ = unsafe { sys::cuModuleUnload(self.raw) };
    }
}
