//! Graphs, built by hand or captured from one stream.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;

use super::function::{Arguments, Shape, kernel_call};
use super::{call, in_context, put, stream_of};
use crate::driver::{Capture, Code, Graph, Work};

/// Parameters of a kernel's node, as the driver API lays them out.
#[repr(C)]
struct KernelNode {
    function: usize,
    grid: [c_uint; 3],
    threads: [c_uint; 3],
    dynamic_shared: c_uint,
    params: *const *const c_void,
    extra: *const *const c_void,
    kernel: usize,
    context: usize,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphCreate(graph: *mut usize, _flags: c_uint) -> c_int {
    in_context(|driver, device| {
        let handle = driver.handle();
        let empty = Graph {
            device,
            nodes: Vec::new(),
        };
        driver.graphs.insert(handle, empty);
        put(graph, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddKernelNode_v2(
    node: *mut usize,
    graph: usize,
    dependencies: *const usize,
    n_dependencies: usize,
    params: *const KernelNode,
) -> c_int {
    in_context(|driver, device| {
        if params.is_null() || dependencies.is_null() && n_dependencies > 0 {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: as the driver API demands it, the pointers are to one set of parameters and so many handles.
        let (params, dependencies) = unsafe {
            let dependencies = match n_dependencies {
                0 => &[][..],
                n => std::slice::from_raw_parts(dependencies, n),
            };
            (&*params, dependencies)
        };
        let shape = Shape {
            grid: params.grid,
            threads: params.threads,
            dynamic_shared: params.dynamic_shared,
        };
        let arguments = Arguments {
            params: params.params,
            extra: params.extra,
        };
        let call = kernel_call(driver, device, params.function, shape, arguments)?;
        let work = Work::Kernel(Box::new(call));
        let handle = driver.add_node(graph, dependencies, work)?;
        put(node, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut usize,
    graph: usize,
    _flags: c_ulonglong,
) -> c_int {
    in_context(|driver, _| {
        let graph = driver.graphs.get(&graph).ok_or(Code::INVALID_HANDLE)?;
        let copy = Arc::new(graph.clone());
        let handle = driver.handle();
        driver.executables.insert(handle, copy);
        put(executable, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        stream_of(driver, device, stream)?;
        driver
            .executables
            .get(&executable)
            .map(|_| ())
            .ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        let graph = driver
            .executables
            .get(&executable)
            .cloned()
            .ok_or(Code::INVALID_HANDLE)?;
        if graph.device != device {
            return Err(Code::INVALID_CONTEXT);
        }
        driver.report.graph_launches += 1;
        driver
            .enqueue(stream, Vec::new(), Work::Graph(graph))
            .map(|_| ())
    })
}

/// The graph's work that is queued keeps what it needs.
#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: usize) -> c_int {
    call(|driver| {
        driver
            .executables
            .remove(&executable)
            .map(|_| ())
            .ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: usize) -> c_int {
    call(|driver| {
        driver
            .graphs
            .remove(&graph)
            .map(|_| ())
            .ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) -> c_int {
    in_context(|driver, device| {
        // The default stream cannot be captured.
        if stream <= 2 {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let stream = stream_of(driver, device, stream)?;
        let stream = driver
            .streams
            .get_mut(&stream)
            .ok_or(Code::INVALID_HANDLE)?;
        if stream.capture.is_some() {
            return Err(Code::INVALID_VALUE);
        }
        stream.capture = Some(Capture::default());
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        let capture = driver
            .streams
            .get_mut(&stream)
            .and_then(|stream| stream.capture.take())
            .ok_or(Code::INVALID_VALUE)?;
        if capture.is_invalid {
            put(graph, 0)?;
            return Err(Code::STREAM_CAPTURE_INVALIDATED);
        }
        let chain = driver.chain(device, capture.work);
        let handle = driver.handle();
        driver.graphs.insert(handle, chain);
        put(graph, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut c_int) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        let is_captured = driver.streams[&stream].capture.is_some();
        put(status, c_int::from(is_captured))
    })
}
