//! Streams.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_int, c_uint};

use super::{call, in_context, put, stream_of};
use crate::driver::{Code, Stream, Work};

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: *mut usize, flags: c_uint) -> c_int {
    in_context(|driver, device| {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = driver.handle();
        driver
            .streams
            .insert(handle, Stream::new(device, flags & NON_BLOCKING == 0));
        put(stream, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(
    stream: *mut usize,
    flags: c_uint,
    _priority: c_int,
) -> c_int {
    cuStreamCreate(stream, flags)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> c_int {
    call(|driver| driver.destroy_stream(stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> c_int {
    in_context(|driver, device| {
        driver.report.host_synchronizations += 1;
        let stream = stream_of(driver, device, stream)?;
        driver.synchronize(stream)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        if !driver.is_idle(stream)? {
            driver.run_one();
            driver.check(device)?;
        }
        if driver.is_idle(stream)? {
            Ok(())
        } else {
            Err(Code::NOT_READY)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        let point = driver.events.get(&event).ok_or(Code::INVALID_HANDLE)?.point;
        // What was never recorded is not waited for.
        match point {
            Some(point) => driver.enqueue(stream, vec![point], Work::Wait).map(|_| ()),
            None => Ok(()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<extern "C" fn(usize)>,
    argument: usize,
) -> c_int {
    in_context(|driver, device| {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        let stream = stream_of(driver, device, stream)?;
        driver
            .enqueue(stream, Vec::new(), Work::Call(function, argument))
            .map(|_| ())
    })
}

const NON_BLOCKING: c_uint = 1;
