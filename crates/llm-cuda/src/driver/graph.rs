//! Graphs: kernels that one call starts, one after the other.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, Dimensions, Failure, Function, answer};

/// Kernels in a chain, with their arguments.
#[derive(Debug)]
pub(crate) struct Graph {
    context: Arc<Context>,
    pub(super) raw: sys::CUgraphExec,
}

// SAFETY: the driver's graphs may be used by any thread, one at a time: launching takes `&self` of a queue, which is one's.
unsafe impl Send for Graph {}

/// A graph that is being made.
#[derive(Debug)]
pub(crate) struct Chain {
    context: Arc<Context>,
    raw: sys::CUgraph,
    last: Option<sys::CUgraphNode>,
}

impl Chain {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Failure> {
        context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the driver writes a handle, given back when this is dropped.
        let code = unsafe { sys::cuGraphCreate(&raw mut raw, 0) };
        answer(code, || "making a graph".to_owned())?;
        Ok(Chain {
            context: Arc::clone(context),
            raw,
            last: None,
        })
    }

    /// Adds a kernel behind the others; `arguments` point at its arguments.
    ///
    /// # Safety
    /// As of [`Stream::launch`](super::Stream::launch), at every launch of the graph.
    pub(crate) unsafe fn add(
        &mut self,
        function: Function,
        dimensions: &Dimensions,
        arguments: &mut [*mut c_void],
    ) -> Result<(), Failure> {
        let Dimensions {
            grid: [gx, gy, gz],
            block: [bx, by, bz],
            shared,
        } = *dimensions;
        let parameters = sys::CUDA_KERNEL_NODE_PARAMS {
            func: function.raw,
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: shared,
            kernelParams: arguments.as_mut_ptr(),
            extra: ptr::null_mut(),
            kern: ptr::null_mut(),
            ctx: ptr::null_mut(),
        };
        self.context.bind()?;
        let (before, n) = match &self.last {
            Some(last) => (ptr::from_ref(last), 1),
            None => (ptr::null(), 0),
        };
        let mut node = ptr::null_mut();
        // SAFETY: the caller vouches for the arguments, which the driver copies before it returns; what comes before is a
        // node of this graph.
        let code = unsafe {
            sys::cuGraphAddKernelNode_v2(&raw mut node, self.raw, before, n, &raw const parameters)
        };
        answer(code, || "adding a kernel to a graph".to_owned())?;
        self.last = Some(node);
        Ok(())
    }

    /// The graph, to be launched.
    pub(crate) fn finish(self) -> Result<Graph, Failure> {
        self.context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the driver writes a handle, given back when the graph is dropped; it needs this one no more.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut raw, self.raw, 0) };
        answer(code, || "making a graph ready".to_owned())?;
        Ok(Graph {
            context: Arc::clone(&self.context),
            raw,
        })
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // SAFETY: the graph is this one's.
        let _ = unsafe { sys::cuGraphDestroy(self.raw) };
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Launches that are queued may still need it.
        let _ = self.context.synchronize();
        // SAFETY: the graph is this one's, and no launch of it is left.
        let _ = unsafe { sys::cuGraphExecDestroy(self.raw) };
    }
}
