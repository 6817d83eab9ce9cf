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
    /// An entry of the list that points nowhere.
    None,
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
        let function = self.function(name)?;
        let mut pointers = pointers_to(args);
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

impl Lab {
    pub(crate) fn function(&self, name: &str) -> Result<sys::CUfunction, DriverError> {
        let name = CString::new(name).expect("a name without zeros");
        // SAFETY: the module is never unloaded.
        unsafe { result::module::get_function(self.module, name) }
    }

    /// A graph of kernels, of one warp each, in a chain or beside each other, ready to launch.
    pub(crate) fn graph(&self, kernels: &[(&str, &[Arg])], is_chain: bool) -> sys::CUgraphExec {
        let mut graph = std::ptr::null_mut();
        let mut executable = std::ptr::null_mut();
        let mut last = Vec::new();
        // SAFETY: all pointers are to values that live through their call.
        unsafe {
            sys::cuGraphCreate(&mut graph, 0).result().expect("a graph");
            for (name, args) in kernels {
                let mut params: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
                let mut pointers = pointers_to(args);
                params.func = self.function(name).expect("a kernel of that name");
                (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
                (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
                params.kernelParams = pointers.as_mut_ptr();
                let mut node = std::ptr::null_mut();
                sys::cuGraphAddKernelNode_v2(&mut node, graph, last.as_ptr(), last.len(), &params)
                    .result()
                    .expect("a node");
                if is_chain {
                    last = vec![node];
                }
            }
            sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0)
                .result()
                .expect("an executable graph");
            sys::cuGraphDestroy(graph)
                .result()
                .expect("the graph's end");
        }
        executable
    }

    /// Launches a graph on the lab's stream, and gives up its handle.
    pub(crate) fn launch_graph(&self, graph: sys::CUgraphExec) {
        // SAFETY: the graph was just made; what is queued of it keeps it.
        unsafe {
            sys::cuGraphLaunch(graph, self.stream.cu_stream())
                .result()
                .expect("a launch");
            sys::cuGraphExecDestroy(graph)
                .result()
                .expect("the graph's end");
        }
    }
}

fn pointers_to(args: &[Arg]) -> Vec<*mut c_void> {
    args.iter()
        .map(|arg| match arg {
            Arg::Pointer(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Arg::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Arg::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Arg::None => std::ptr::null_mut(),
        })
        .collect()
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
