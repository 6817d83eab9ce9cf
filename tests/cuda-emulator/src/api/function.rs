//! Kernels: their attributes and launches.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_int, c_uint, c_void};

use super::context::most_dynamic_shared;
use super::{Done, in_context, put, stream_of};
use crate::driver::{Code, Driver, Function, KernelCall, Work};

fn function_of(driver: &Driver, device: usize, handle: usize) -> Result<&Function, Code> {
    let function = driver.functions.get(&handle).ok_or(Code::INVALID_HANDLE)?;
    if function.device == device {
        Ok(function)
    } else {
        Err(Code::INVALID_CONTEXT)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> c_int {
    in_context(|driver, device| {
        let most = most_dynamic_shared(driver.settings.compute(device));
        let function = driver
            .functions
            .get_mut(&function)
            .ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            MOST_DYNAMIC_SHARED => {
                let value = usize::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
                if value + function.program.shared_bytes > most {
                    return Err(Code::INVALID_VALUE);
                }
                function.most_dynamic = value;
                Ok(())
            }
            SHARED_CARVEOUT => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: usize) -> c_int {
    in_context(|driver, device| {
        let compute = driver.settings.compute(device) as c_int;
        let function = function_of(driver, device, function)?;
        let program = &function.program;
        put(
            value,
            match attribute {
                0 => program.max_threads as c_int,
                1 => program.shared_bytes as c_int,
                2 => program.constant_bank.len() as c_int,
                3 => program.local_bytes as c_int,
                // Registers: what the assembler would give is not known here.
                4 => 64,
                5 | 6 => compute,
                MOST_DYNAMIC_SHARED => function.most_dynamic as c_int,
                SHARED_CARVEOUT => -1,
                _ => return Err(Code::INVALID_VALUE),
            },
        )
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: usize, _config: c_int) -> c_int {
    in_context(|driver, device| function_of(driver, device, function).map(|_| ()))
}

/// Offset and size of a parameter, as drivers tell it from 12.4 on.
#[unsafe(no_mangle)]
extern "C" fn cuFuncGetParamInfo(
    function: usize,
    index: usize,
    offset: *mut usize,
    bytes: *mut usize,
) -> c_int {
    in_context(|driver, device| {
        let function = function_of(driver, device, function)?;
        let param = function
            .program
            .params
            .get(index)
            .ok_or(Code::INVALID_VALUE)?;
        put(offset, param.offset)?;
        if bytes.is_null() {
            Ok(())
        } else {
            put(bytes, param.bytes)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    n_blocks: *mut c_int,
    function: usize,
    n_threads: c_int,
    dynamic_shared: usize,
) -> c_int {
    in_context(|driver, device| {
        let most = most_dynamic_shared(driver.settings.compute(device));
        let function = function_of(driver, device, function)?;
        let shared = (function.program.shared_bytes + dynamic_shared).max(1);
        let by_threads = 2048 / n_threads.max(1);
        put(n_blocks, by_threads.min((most / shared) as c_int).min(32))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    dynamic_shared: c_uint,
    stream: usize,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            threads: [block_x, block_y, block_z],
            dynamic_shared,
        };
        let arguments = Arguments { params, extra };
        let call = kernel_call(driver, device, function, shape, arguments)?;
        driver.report.kernel_launches += 1;
        driver
            .enqueue(stream, Vec::new(), Work::Kernel(Box::new(call)))
            .map(|_| ())
    })
}

/// Size of a launch.
pub(super) struct Shape {
    pub(super) grid: [c_uint; 3],
    pub(super) threads: [c_uint; 3],
    pub(super) dynamic_shared: c_uint,
}

/// Arguments of a launch, in one of two forms.
pub(super) struct Arguments {
    pub(super) params: *const *const c_void,
    pub(super) extra: *const *const c_void,
}

/// A launch that fits its kernel, with its arguments copied.
pub(super) fn kernel_call(
    driver: &Driver,
    device: usize,
    function: usize,
    shape: Shape,
    arguments: Arguments,
) -> Result<KernelCall, Code> {
    let program = function_of(driver, device, function)?.program.clone();
    let mut params = vec![0; program.param_bytes];
    if arguments.params.is_null() && !arguments.extra.is_null() {
        packed(arguments.extra, &mut params)?;
    } else {
        for (at, param) in program.params.iter().enumerate() {
            let to = &mut params[param.offset..param.offset + param.bytes];
            argument(arguments.params, at, to)?;
        }
    }
    let call = KernelCall {
        function,
        program,
        grid: shape.grid,
        threads: shape.threads,
        dynamic_shared: shape.dynamic_shared as usize,
        params,
    };
    driver.check_launch(&call)?;
    Ok(call)
}

/// Copies one argument by the caller's list of pointers.
fn argument(params: *const *const c_void, at: usize, to: &mut [u8]) -> Done {
    if params.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: as the driver API demands it, there is a pointer for each parameter, to as many bytes as the parameter has.
    unsafe {
        let from = params.add(at).read().cast::<u8>();
        if from.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        to.copy_from_slice(std::slice::from_raw_parts(from, to.len()));
    }
    Ok(())
}

/// Takes all arguments from one buffer, whose length must be the kernel's.
fn packed(extra: *const *const c_void, to: &mut [u8]) -> Done {
    let (mut buffer, mut bytes) = (std::ptr::null::<u8>(), std::ptr::null::<usize>());
    let mut at = extra;
    // SAFETY: as the driver API demands it, `extra` is pairs of a key and a pointer, up to a zero.
    unsafe {
        while !(*at).is_null() {
            match *at as usize {
                1 => buffer = (*at.add(1)).cast(),
                2 => bytes = (*at.add(1)).cast(),
                _ => return Err(Code::INVALID_VALUE),
            }
            at = at.add(2);
        }
        if buffer.is_null() || bytes.is_null() || *bytes != to.len() {
            return Err(Code::INVALID_VALUE);
        }
        to.copy_from_slice(std::slice::from_raw_parts(buffer, to.len()));
    }
    Ok(())
}

const MOST_DYNAMIC_SHARED: c_int = 8;
const SHARED_CARVEOUT: c_int = 9;
