//! Streams: work in order.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use super::{Context, DeviceMemory, Dimensions, Event, Failure, Function, Graph, Lasting, answer};

/// Work of the device in order; independent of other streams, and of the device's default one.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: the driver's streams may be used by any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, Failure> {
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING;
        context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the thread has a context; the driver writes a handle, given back when this is dropped.
        let code = unsafe { sys::cuStreamCreate(&raw mut raw, flags as u32) };
        answer(code, || "making a stream".to_owned())?;
        Ok(Stream {
            context: Arc::clone(context),
            raw,
        })
    }

    pub(super) fn raw(&self) -> sys::CUstream {
        self.raw
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Waits on the host until all its work is done.
    pub(crate) fn synchronize(&self) -> Result<(), Failure> {
        self.context.bind()?;
        // SAFETY: the stream is there while this lives.
        let code = unsafe { sys::cuStreamSynchronize(self.raw) };
        answer(code, || "waiting for a stream".to_owned())
    }

    /// Has `event` be reached when all work so far is done.
    pub(crate) fn record(&self, event: &Event) -> Result<(), Failure> {
        self.context.bind()?;
        // SAFETY: both are there while these live.
        let code = unsafe { sys::cuEventRecord(event.raw, self.raw) };
        answer(code, || "recording an event".to_owned())
    }

    /// Has later work begin after `event` is reached.
    pub(crate) fn wait(&self, event: &Event) -> Result<(), Failure> {
        self.context.bind()?;
        // SAFETY: both are there while these live; the driver keeps the event for the work that waits.
        let code = unsafe { sys::cuStreamWaitEvent(self.raw, event.raw, 0) };
        answer(code, || "waiting for another stream".to_owned())
    }

    /// Sets bytes of `memory` to zero.
    pub(crate) fn zero(&self, memory: &DeviceMemory) -> Result<(), Failure> {
        let n = memory.n_bytes();
        if n == 0 {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: so many bytes are there, and stay until the stream has done this.
        let code = unsafe { sys::cuMemsetD8Async(memory.address(), 0, n, self.raw) };
        answer(code, || format!("zeroing {n} bytes"))
    }

    /// Copies `src` to byte `at` of `dst`, and waits for it.
    pub(crate) fn write(&self, src: &[u8], dst: &DeviceMemory, at: usize) -> Result<(), Failure> {
        let n = src.len();
        if n == 0 {
            return Ok(());
        }
        let to = within(dst, at, n);
        self.context.bind()?;
        // SAFETY: both have so many bytes, and stay until the copy was waited for.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, src.as_ptr().cast(), n, self.raw) };
        answer(code, || format!("copying {n} bytes to the device"))?;
        self.synchronize()
    }

    /// Copies `n` bytes from byte `from` of `src` to byte `at` of `dst`. The source is not written to before this is done.
    pub(crate) fn bring(
        &self,
        (src, from): (&impl Lasting, usize),
        (dst, at): (&DeviceMemory, usize),
        n: usize,
    ) -> Result<(), Failure> {
        let src = &src.bytes()[from..][..n];
        if n == 0 {
            return Ok(());
        }
        let to = within(dst, at, n);
        self.context.bind()?;
        // SAFETY: both have so many bytes, and are given back only after all work.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, src.as_ptr().cast(), n, self.raw) };
        answer(code, || format!("copying {n} bytes to the device"))
    }

    /// Copies the bytes from `at` of `src` to `dst`, and waits for them.
    pub(crate) fn read(
        &self,
        src: &DeviceMemory,
        at: usize,
        dst: &mut [u8],
    ) -> Result<(), Failure> {
        let n = dst.len();
        if n > 0 {
            let from = within(src, at, n);
            self.context.bind()?;
            // SAFETY: both have so many bytes, and stay until the copy was waited for.
            let code =
                unsafe { sys::cuMemcpyDtoHAsync_v2(dst.as_mut_ptr().cast(), from, n, self.raw) };
            answer(code, || format!("copying {n} bytes from the device"))?;
        }
        self.synchronize()
    }

    /// Copies `n` bytes from byte `from` of `memory` to byte `to` of `into`; they do not overlap.
    pub(crate) fn copy(
        &self,
        (src, from): (&DeviceMemory, usize),
        (dst, to): (&DeviceMemory, usize),
        n: usize,
    ) -> Result<(), Failure> {
        if n == 0 {
            return Ok(());
        }
        let (from, to) = (within(src, from, n), within(dst, to, n));
        assert!(
            from.abs_diff(to) >= n as u64,
            "copies of bytes to themselves"
        );
        self.context.bind()?;
        // SAFETY: both have so many bytes, and are given back only after all work.
        let code = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, n, self.raw) };
        answer(code, || format!("copying {n} bytes on the device"))
    }

    /// Copies the first `n` bytes of `src`, memory of this stream's device, to the start of `dst`, memory of that of `other`, which
    /// goes on when they are there; `done` is an event of this device. Both are memory of their own.
    pub(crate) fn push(
        &self,
        src: &DeviceMemory,
        (dst, other): (&DeviceMemory, &Stream),
        n: usize,
        done: &Event,
    ) -> Result<(), Failure> {
        if n == 0 {
            return Ok(());
        }
        let (from, to) = (within(src, 0, n), within(dst, 0, n));
        assert!(
            from.abs_diff(to) >= n as u64,
            "copies of bytes to themselves"
        );
        self.context.bind()?;
        let (own, others) = (self.context.raw, other.context.raw);
        // SAFETY: both have so many bytes. The source is given back only after all work of this device; the destination after
        // all of its own, with which the end of this copy is below, or has been waited for.
        let code = unsafe { sys::cuMemcpyPeerAsync(to, others, from, own, n, self.raw) };
        answer(code, || format!("copying {n} bytes to another device"))?;
        let awaited = self.record(done).and_then(|()| other.wait(done));
        if awaited.is_err() {
            self.synchronize()?;
        }
        awaited
    }

    /// Starts a kernel; `arguments` point at its arguments.
    ///
    /// # Safety
    /// There are as many arguments as the kernel takes, each as long as it takes it; memory that they point at is as large as the
    /// kernel expects and stays until all work is done.
    pub(crate) unsafe fn launch(
        &self,
        function: Function,
        dimensions: &Dimensions,
        arguments: &mut [*mut c_void],
        name: &str,
    ) -> Result<(), Failure> {
        let Dimensions {
            grid: [gx, gy, gz],
            block: [bx, by, bz],
            shared,
        } = *dimensions;
        self.context.bind()?;
        // SAFETY: the caller vouches for the arguments, which the driver copies before it returns.
        let code = unsafe {
            sys::cuLaunchKernel(
                function.raw,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shared,
                self.raw,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        answer(code, || {
            format!(
                "starting {name} in {gx} × {gy} × {gz} blocks of {bx} × {by} × {bz} threads with {shared} bytes of \
                 shared memory"
            )
        })
    }

    /// Starts all kernels of a graph.
    ///
    /// # Safety
    /// As of [`Stream::launch`], for each of them.
    pub(crate) unsafe fn launch_graph(&self, graph: &Graph) -> Result<(), Failure> {
        self.context.bind()?;
        // SAFETY: both are there while these live; the caller vouches for the arguments.
        let code = unsafe { sys::cuGraphLaunch(graph.raw, self.raw) };
        answer(code, || "starting a graph".to_owned())
    }
}

/// The address of `n` bytes of `memory` from `at` on.
fn within(memory: &DeviceMemory, at: usize, n: usize) -> u64 {
    let end = at.checked_add(n);
    assert!(
        end.is_some_and(|end| end <= memory.n_bytes()),
        "{n} bytes from {at} on of {}",
        memory.n_bytes()
    );
    memory.address() + at as u64
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is this one's; the driver lets its work end.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
    }
}
