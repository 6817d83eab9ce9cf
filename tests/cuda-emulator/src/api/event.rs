//! Events.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_int, c_uint};

use super::{call, in_context, put, stream_of};
use crate::driver::{Code, Event, Work};

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: *mut usize, flags: c_uint) -> c_int {
    in_context(|driver, device| {
        let handle = driver.handle();
        driver.events.insert(
            handle,
            Event {
                device,
                has_time: flags & DISABLE_TIMING == 0,
                ..Event::default()
            },
        );
        put(event, handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> c_int {
    call(|driver| {
        driver
            .events
            .remove(&event)
            .map(|_| ())
            .ok_or(Code::INVALID_HANDLE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        // A stream records events of its own device; any may wait for them.
        if driver
            .events
            .get(&event)
            .is_none_or(|event| event.device != device)
        {
            return Err(Code::INVALID_HANDLE);
        }
        let point = driver.enqueue(stream, Vec::new(), Work::Record { event })?;
        if let Some(event) = driver.events.get_mut(&event) {
            event.point = Some(point);
            event.time = None;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> c_int {
    in_context(|driver, device| {
        driver.report.host_synchronizations += 1;
        let point = driver.events.get(&event).ok_or(Code::INVALID_HANDLE)?.point;
        if let Some(point) = point {
            driver.run_until(&[point]);
        }
        driver.check(device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> c_int {
    in_context(|driver, device| {
        let point = driver.events.get(&event).ok_or(Code::INVALID_HANDLE)?.point;
        let Some(point) = point else { return Ok(()) };
        if !driver.is_done(point) {
            driver.run_one();
            driver.check(device)?;
        }
        if driver.is_done(point) {
            Ok(())
        } else {
            Err(Code::NOT_READY)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: usize, end: usize) -> c_int {
    in_context(|driver, _| {
        let time = |event| {
            let event = driver.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
            if !event.has_time || event.point.is_none() {
                return Err(Code::INVALID_HANDLE);
            }
            event.time.ok_or(Code::NOT_READY)
        };
        let (start, end) = (time(start)?, time(end)?);
        let seconds = end.saturating_duration_since(start).as_secs_f32();
        put(milliseconds, seconds * 1e3)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) -> c_int {
    cuEventElapsedTime(milliseconds, start, end)
}

const DISABLE_TIMING: c_uint = 2;
