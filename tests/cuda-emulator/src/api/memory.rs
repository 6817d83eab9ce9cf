//! Memory of devices and page-locked memory of the host.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_int, c_uint};

use super::{call, in_context, put, stream_of};
use crate::device::Home;
use crate::driver::{Code, Driver, Work};

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    in_context(|driver, device| {
        let own = driver.memory.free_bytes(device);
        let free_bytes = own.saturating_sub(driver.neighbours.taken(device));
        put(free, free_bytes as usize)?;
        put(total, driver.settings.memory(device) as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    in_context(|driver, device| put(address, allocate(driver, device, bytes)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        stream_of(driver, device, stream)?;
        put(address, allocate(driver, device, bytes)?)
    })
}

/// Memory, if need be once what is queued to be freed is free.
fn allocate(driver: &mut Driver, device: usize, bytes: usize) -> Result<u64, Code> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let mut allocated = driver.memory.allocate(device, bytes as u64);
    if allocated.is_none() {
        driver.synchronize_device(device)?;
        allocated = driver.memory.allocate(device, bytes as u64);
    }
    driver.tell_neighbours(device);
    allocated.ok_or(Code::OUT_OF_MEMORY)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    in_context(|driver, device| {
        if address == 0 {
            return Ok(());
        }
        // The driver waits for the device before it frees.
        driver.report.host_synchronizations += 1;
        driver.synchronize_device(device)?;
        if driver.memory.free(address, false) {
            driver.tell_neighbours(device);
            Ok(())
        } else {
            Err(Code::INVALID_VALUE)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> c_int {
    in_context(|driver, device| {
        if address == 0 {
            return Ok(());
        }
        let is_start = driver
            .memory
            .find(address, 1)
            .is_some_and(|region| region.base == address && region.home != Home::Host);
        if !is_start {
            return Err(Code::INVALID_VALUE);
        }
        let stream = stream_of(driver, device, stream)?;
        driver
            .enqueue(stream, Vec::new(), Work::Free(address))
            .map(|_| ())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(pointer: *mut u64, bytes: usize, _flags: c_uint) -> c_int {
    in_context(|driver, _| {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let address = driver.memory.allocate_host(bytes as u64);
        put(pointer, address)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(pointer: *mut u64, bytes: usize) -> c_int {
    cuMemHostAlloc(pointer, bytes, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: u64) -> c_int {
    call(|driver| {
        if driver.memory.free(address, true) {
            Ok(())
        } else {
            Err(Code::INVALID_VALUE)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(pointer: u64, bytes: usize, _flags: c_uint) -> c_int {
    in_context(|driver, _| {
        if pointer == 0 || bytes == 0 {
            return Err(Code::INVALID_VALUE);
        }
        if driver.memory.find(pointer, 1).is_some() {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if !driver.settings.registers {
            return Err(Code::NOT_SUPPORTED);
        }
        driver.memory.register_host(pointer, bytes as u64);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(pointer: u64) -> c_int {
    in_context(|driver, _| {
        if driver.memory.free(pointer, true) {
            Ok(())
        } else {
            Err(Code::HOST_MEMORY_NOT_REGISTERED)
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(out: *mut u64, pointer: u64, _flags: c_uint) -> c_int {
    in_context(|driver, _| {
        driver.memory.find(pointer, 1).ok_or(Code::INVALID_VALUE)?;
        put(out, pointer)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut usize, device: c_int) -> c_int {
    call(|_| put(pool, POOL + device.max(0) as usize))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(pool: *mut usize, device: c_int) -> c_int {
    cuDeviceGetDefaultMemPool(pool, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(_pool: usize, _keep: usize) -> c_int {
    call(|_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(_pool: usize, _attribute: c_int, _value: *mut u64) -> c_int {
    call(|_| Ok(()))
}

/// Handle of a device's pool; freed memory is free at once, so that a pool holds nothing.
const POOL: usize = 0xb000;
