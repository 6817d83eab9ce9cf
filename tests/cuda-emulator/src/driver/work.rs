//! Work that is queued, and what doing it means.

use std::sync::Arc;
use std::time::Instant;

use super::{Code, Driver, GemmCall, Graph, Point};
use crate::device::Region;
use crate::fault::{Kind, Located};

/// A kernel with its arguments, as it was launched.
#[derive(Clone)]
pub(crate) struct KernelCall {
    pub(crate) function: usize,
    pub(crate) program: Arc<crate::program::Program>,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) dynamic_shared: usize,
    pub(crate) params: Vec<u8>,
}

/// Source of a copy.
#[derive(Clone)]
pub(crate) enum From {
    /// Memory of a device, or page-locked memory of the host.
    Region(u64),
    /// Pageable memory, read when the copy was asked for.
    Bytes(Vec<u8>),
}

/// Destination of a copy.
#[derive(Clone)]
pub(crate) enum To {
    Region(u64),
    /// Pageable memory of the host; the call that asked for the copy waits for it.
    Host(usize),
}

#[derive(Clone)]
pub(crate) enum Work {
    Kernel(Box<KernelCall>),
    Copy {
        to: To,
        from: From,
        n: u64,
    },
    /// A pattern of 1, 2 or 4 bytes, again and again.
    Fill {
        to: u64,
        pattern: Vec<u8>,
        n: u64,
    },
    Record {
        event: usize,
    },
    Free(u64),
    /// Work of a graph, in an order that its dependencies allow.
    Graph(Arc<Graph>),
    /// A product by cuBLAS.
    Gemm(Box<GemmCall>),
    /// A function of the host, with its argument.
    Call(extern "C" fn(usize), usize),
    /// Nothing, after what it waits for.
    Wait,
}

/// Work with what must be done before it, beside what stands before it in its stream.
pub(crate) struct Task {
    pub(crate) after: Vec<Point>,
    pub(crate) work: Work,
}

impl Driver {
    pub(super) fn perform(&mut self, device: usize, work: Work) {
        let result = match work {
            Work::Kernel(call) => self.run_kernel(device, &call),
            Work::Copy { to, from, n } => self.copy(&to, &from, n),
            Work::Fill { to, pattern, n } => self.fill(to, &pattern, n),
            Work::Gemm(call) => self.gemm(device, &call),
            Work::Record { event } => {
                if let Some(event) = self.events.get_mut(&event) {
                    event.time = Some(Instant::now());
                }
                Ok(())
            }
            Work::Free(address) => {
                self.memory.free(address, false);
                Ok(())
            }
            Work::Call(function, argument) => {
                function(argument);
                Ok(())
            }
            Work::Graph(graph) => {
                self.run_graph(device, &graph);
                Ok(())
            }
            Work::Wait => Ok(()),
        };
        if let Err(fault) = result {
            self.fail(device, &fault);
        }
    }

    /// Region of a copy at the time that it runs.
    pub(super) fn region(&self, address: u64, n: u64) -> Result<Arc<Region>, Located> {
        self.memory
            .find(address, n)
            .cloned()
            .ok_or_else(|| Located {
                kind: Kind::Address,
                text: format!("a copy of {n} bytes: {}", self.memory.describe(address)),
            })
    }

    #[expect(
        unsafe_code,
        reason = "memory of devices and of the host is reached by pointers"
    )]
    fn copy(&mut self, to: &To, from: &From, n: u64) -> Result<(), Located> {
        let (source, source_region) = match from {
            From::Region(address) => {
                let region = self.region(*address, n)?;
                (
                    region.pointer(*address).cast_const(),
                    Some((region, *address)),
                )
            }
            From::Bytes(bytes) => (bytes.as_ptr(), None),
        };
        let dest = match to {
            To::Region(address) => {
                let region = self.region(*address, n)?;
                let at = address - region.base;
                match &source_region {
                    Some((source, address)) => {
                        let from_at = address - source.base;
                        region.written.copy_from(at, &source.written, from_at, n);
                    }
                    None => region.written.mark(at, n),
                }
                region.pointer(*address)
            }
            To::Host(pointer) => *pointer as *mut u8,
        };
        // SAFETY: regions hold all of the bytes, as was just looked up; pageable memory is the caller's word, as it is with
        // the real driver. No kernel runs meanwhile: the driver is locked.
        unsafe { std::ptr::copy(source, dest, n as usize) };
        Ok(())
    }

    #[expect(unsafe_code, reason = "memory of devices is reached by pointers")]
    pub(super) fn fill(&mut self, to: u64, pattern: &[u8], n: u64) -> Result<(), Located> {
        let region = self.region(to, n)?;
        region.written.mark(to - region.base, n);
        // SAFETY: the region holds all of the bytes; no kernel runs meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts_mut(region.pointer(to), n as usize) };
        for chunk in bytes.chunks_mut(pattern.len()) {
            chunk.copy_from_slice(&pattern[..chunk.len()]);
        }
        Ok(())
    }

    /// Writes bytes that the driver itself puts into memory.
    pub(super) fn write_bytes(&mut self, to: u64, bytes: &[u8]) {
        let from = From::Bytes(bytes.to_vec());
        let written = self.copy(&To::Region(to), &from, bytes.len() as u64);
        debug_assert!(written.is_ok(), "a region that was just allocated");
    }

    /// Whether a launch fits the function and the device.
    pub(crate) fn check_launch(&self, call: &KernelCall) -> Result<(), Code> {
        let function = self
            .functions
            .get(&call.function)
            .ok_or(Code::INVALID_HANDLE)?;
        let [x, y, z] = call.threads;
        let n_threads = u64::from(x) * u64::from(y) * u64::from(z);
        let fits = call.grid.iter().all(|n| *n > 0)
            && n_threads > 0
            && n_threads <= u64::from(function.program.max_threads)
            && z <= 64
            && call.grid[0] <= i32::MAX as u32
            && call.grid[1] <= 65535
            && call.grid[2] <= 65535
            && call.dynamic_shared <= function.most_dynamic;
        if fits {
            Ok(())
        } else {
            Err(Code::INVALID_VALUE)
        }
    }
}
