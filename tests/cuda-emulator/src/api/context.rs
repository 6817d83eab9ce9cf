//! Initialization, devices and contexts.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_char, c_int, c_uint};

use super::{CONTEXTS, MOST_DEVICES, call, context_of, current, device_of, in_context, put};
use crate::driver::{Code, Driver, lock};
use crate::settings::{MULTIPROCESSORS, Settings};

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> c_int {
    let mut driver = lock();
    if driver.is_none() {
        let mut settings = Settings::from_environment();
        if settings.n_devices == 0 {
            return Code::NO_DEVICE.0;
        }
        if settings.report.is_some() {
            // SAFETY: the function takes and returns nothing, and is there until the process ends.
            unsafe { atexit(write_report) };
        }
        settings.n_devices = settings.n_devices.min(MOST_DEVICES);
        *driver = Some(Driver::new(settings));
    }
    0
}

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

extern "C" fn write_report() {
    let mut driver = lock();
    let Some(driver) = driver.as_mut() else {
        return;
    };
    if let Some(timeline) = &mut driver.timeline {
        timeline.finish();
    }
    if let Some(path) = &driver.settings.report
        && let Ok(text) = serde_json::to_vec(&driver.report())
    {
        // There is nobody to tell of a failure; the test finds no file.
        let _ = std::fs::write(path, text);
    }
}

/// The report as JSON, at most `capacity` bytes of it; returns its length. Not of the driver API: for the harness.
#[unsafe(no_mangle)]
extern "C" fn cuda_emulator_report(out: *mut u8, capacity: usize) -> usize {
    let text = match &*lock() {
        Some(driver) => serde_json::to_vec(&driver.report()).unwrap_or_default(),
        None => Vec::new(),
    };
    if !out.is_null() {
        // SAFETY: the caller has memory for `capacity` bytes.
        unsafe { out.copy_from_nonoverlapping(text.as_ptr(), text.len().min(capacity)) };
    }
    text.len()
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    let value = Settings::from_environment().driver;
    put(version, value as c_int).map_or_else(|code| code.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    call(|driver| put(count, driver.settings.n_devices as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    call(|driver| {
        known(driver, ordinal)?;
        put(device, ordinal)
    })
}

fn known(driver: &Driver, device: c_int) -> Result<usize, Code> {
    usize::try_from(device)
        .ok()
        .filter(|device| *device < driver.settings.n_devices)
        .ok_or(Code::INVALID_DEVICE)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> c_int {
    call(|driver| {
        let compute = driver.settings.compute(known(driver, device)?);
        let text = format!("Emulated device (sm_{compute})\0");
        let n = text.len().min(len.max(0) as usize);
        for (at, byte) in text.bytes().take(n).enumerate() {
            let byte = if at + 1 == n { 0 } else { byte };
            put(name.wrapping_add(at), byte as c_char)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> c_int {
    cuDeviceGetUuid_v2(uuid, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    call(|driver| put(uuid, [0xe0 + known(driver, device)? as u8; 16]))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    call(|driver| {
        let bytes_there = driver.settings.memory(known(driver, device)?);
        put(bytes, bytes_there as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    call(|driver| {
        let device = known(driver, device)?;
        let compute = driver.settings.compute(device) as c_int;
        put(
            value,
            match attribute {
                1..=3 => 1024,
                4 => 64,
                5 => c_int::MAX,
                6 | 7 => 65535,
                8 => 48 << 10,
                9 => 64 << 10,
                10 => 32,
                // Registers of a block and of a multiprocessor.
                12 | 82 => 64 << 10,
                // Clocks of the cores and of the memory, in kHz.
                13 => 1_410_000,
                36 => 1_215_000,
                16 => MULTIPROCESSORS as c_int,
                // Bits of the memory's bus.
                37 => 5120,
                // Bytes of the second cache.
                38 => 40 << 20,
                33 => device as c_int + 1,
                39 => 2048,
                40 => 2,
                // Copies beside kernels, mapped host memory, kernels side by side, one address space, managed memory,
                // cooperative launches, registered host memory, pools.
                15 | 19 | 31 | 41 | 83 | 95 | 99 | 115 => 1,
                75 => compute / 10,
                76 => compute % 10,
                81 => (most_dynamic_shared(driver.settings.compute(device)) + (1 << 10)) as c_int,
                97 => most_dynamic_shared(driver.settings.compute(device)) as c_int,
                ..150 => 0,
                _ => return Err(Code::INVALID_VALUE),
            },
        )
    })
}

/// Bytes of shared memory of a block where it is asked for by attribute.
pub(super) fn most_dynamic_shared(compute: u32) -> usize {
    match compute {
        ..75 => 96 << 10,
        75 => 64 << 10,
        80 | 87 => 163 << 10,
        86 | 89 | 120.. => 99 << 10,
        _ => 227 << 10,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: *mut c_int, a: c_int, b: c_int) -> c_int {
    call(|driver| {
        let is_other = known(driver, a)? != known(driver, b)?;
        put(can, c_int::from(is_other && driver.settings.peers))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(peer: usize, flags: c_uint) -> c_int {
    in_context(|driver, device| {
        let peer = device_of(peer).ok_or(Code::INVALID_CONTEXT)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if peer == device || !driver.settings.peers {
            return Err(Code::PEER_ACCESS_UNSUPPORTED);
        }
        match driver.peers.insert((device, peer)) {
            true => Ok(()),
            false => Err(Code::PEER_ACCESS_ALREADY_ENABLED),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> c_int {
    call(|driver| {
        let device = known(driver, device)?;
        if driver.settings.busy.contains(&(device as u64)) {
            return Err(Code::DEVICE_UNAVAILABLE);
        }
        driver.neighbours.retain(device);
        driver.tell_neighbours(device);
        put(context, context_of(device))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    call(|driver| known(driver, device).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: *mut usize) -> c_int {
    let top = CONTEXTS.with_borrow(|contexts| contexts.last().copied().unwrap_or(0));
    put(context, top).map_or_else(|code| code.0, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> c_int {
    call(|_| {
        if context != 0 && device_of(context).is_none() {
            return Err(Code::INVALID_CONTEXT);
        }
        CONTEXTS.with_borrow_mut(|contexts| {
            contexts.pop();
            if context != 0 {
                contexts.push(context);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: usize) -> c_int {
    call(|_| {
        device_of(context).ok_or(Code::INVALID_CONTEXT)?;
        CONTEXTS.with_borrow_mut(|contexts| contexts.push(context));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: *mut usize) -> c_int {
    call(|_| {
        let top = CONTEXTS
            .with_borrow_mut(Vec::pop)
            .ok_or(Code::INVALID_CONTEXT)?;
        if context.is_null() {
            Ok(())
        } else {
            put(context, top)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: *mut c_int) -> c_int {
    call(|_| put(device, current().ok_or(Code::INVALID_CONTEXT)? as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> c_int {
    in_context(|_, _| {
        put(least, 0)?;
        put(greatest, -5)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_flags: c_uint) -> c_int {
    in_context(|_, _| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> c_int {
    in_context(|driver, device| {
        driver.report.host_synchronizations += 1;
        driver.synchronize_device(device)
    })
}
