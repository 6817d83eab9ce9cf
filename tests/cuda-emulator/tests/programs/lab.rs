//! A device with the tests' kernels, and launches of them with any arguments.
#![expect(
    unsafe_code,
    reason = "launches with arguments that no wrapper has checked are what is tested"
)]

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, DriverError, result, sys};

/// Kernels that do what they should.
pub(crate) const BASICS: &str = include_str!("../kernels/basics.ptx");
/// Kernels with a planted fault each.
pub(crate) const FAULTS: &str = include_str!("../kernels/faults.ptx");

pub(crate) struct Lab {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    module: sys::CUmodule,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg {
    Pointer(u64),
    Int(i32),
    Float(f32),
}

impl Lab {
    pub(crate) fn new(ptx: &str) -> Self {
        let context = CudaContext::new(0).expect("a device");
        Self {
            // The tests order streams themselves.
            stream: {
                // SAFETY: no slice is used on two streams without an event or a wait, but where that is the test.
                unsafe { context.disable_event_tracking() };
                context.new_stream().expect("a stream")
            },
            module: load(&context, ptx).expect("the kernels"),
            context,
        }
    }

    pub(crate) fn put<T: DeviceRepr + Clone>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).expect("a buffer")
    }

    /// A buffer that nothing is written to.
    pub(crate) fn room(&self, n: usize) -> CudaSlice<f32> {
        // SAFETY: that its values are not there yet is the point.
        unsafe { self.stream.alloc(n) }.expect("a buffer")
    }

    pub(crate) fn get<T: DeviceRepr + Clone>(&self, buffer: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(buffer).expect("a copy")
    }

    /// Launches on the lab's own stream.
    pub(crate) fn launch(
        &self,
        name: &str,
        blocks: u32,
        threads: u32,
        args: &[Arg],
    ) -> Result<(), DriverError> {
        self.launch_on(&self.stream, name, blocks, threads, args)
    }

    pub(crate) fn launch_on(
        &self,
        stream: &CudaStream,
        name: &str,
        blocks: u32,
        threads: u32,
        args: &[Arg],
    ) -> Result<(), DriverError> {
        let name = CString::new(name).expect("a name without zeros");
        // SAFETY: the module is never unloaded.
        let function = unsafe { result::module::get_function(self.module, name) }?;
        let mut pointers: Vec<*mut c_void> = args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Arg::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
            })
            .collect();
        // SAFETY: each pointer is to an argument that lives through the call.
        unsafe {
            result::launch_kernel(
                function,
                (blocks, 1, 1),
                (threads, 1, 1),
                0,
                stream.cu_stream(),
                &mut pointers,
            )
        }
    }
}

/// Address of a buffer.
pub(crate) fn at<T>(buffer: &CudaSlice<T>) -> Arg {
    use cudarc::driver::DevicePtr as _;
    let stream = buffer.stream().clone();
    Arg::Pointer(buffer.device_ptr(&stream).0)
}

/// What a call should return.
pub(crate) fn error(code: sys::CUresult) -> DriverError {
    DriverError(code)
}

/// Loads a module into a context.
pub(crate) fn load(context: &CudaContext, ptx: &str) -> Result<sys::CUmodule, DriverError> {
    context.bind_to_thread()?;
    let text = CString::new(ptx).expect("text without zeros");
    // SAFETY: the text ends with a zero.
    unsafe { result::module::load_data(text.as_ptr().cast()) }
}
