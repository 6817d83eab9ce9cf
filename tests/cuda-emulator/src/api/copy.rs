//! Copies and fills.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_int, c_uchar, c_uint, c_ushort};

use super::{Done, device_of, in_context, stream_of};
use crate::device::Home;
use crate::driver::{Code, Driver, From, To, Work, default_stream};

/// Whether the call returns before the work is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Returns {
    AtOnce,
    WhenDone,
}

/// Whether `n` bytes lie in one region of a device.
fn check_device(driver: &Driver, address: u64, n: usize) -> Done {
    match driver.memory.find(address, n as u64) {
        Some(region) if region.home != Home::Host => Ok(()),
        _ => Err(Code::INVALID_VALUE),
    }
}

fn is_pinned(driver: &Driver, address: u64, n: usize) -> bool {
    driver
        .memory
        .find(address, n as u64)
        .is_some_and(|region| region.home == Home::Host)
}

fn submit(driver: &mut Driver, stream: usize, work: Work, returns: Returns) -> Done {
    let device = driver
        .streams
        .get(&stream)
        .ok_or(Code::INVALID_HANDLE)?
        .device;
    let point = driver.enqueue(stream, Vec::new(), work)?;
    if returns == Returns::AtOnce {
        return Ok(());
    }
    driver.report.host_synchronizations += 1;
    driver.run_until(&[point]);
    driver.check(device)
}

fn host_bytes(pointer: u64, n: usize) -> Vec<u8> {
    // SAFETY: as the driver API demands it, the caller's pointer is to `n` bytes that it can read.
    unsafe { std::slice::from_raw_parts(pointer as *const u8, n) }.to_vec()
}

fn to_device(
    driver: &mut Driver,
    stream: usize,
    to: u64,
    from: u64,
    n: usize,
    returns: Returns,
) -> Done {
    if n == 0 {
        return Ok(());
    }
    check_device(driver, to, n)?;
    driver.report.bytes_to_device += n as u64;
    // Page-locked memory is read when the copy runs, pageable memory before the call returns.
    let from = if is_pinned(driver, from, n) {
        From::Region(from)
    } else {
        From::Bytes(host_bytes(from, n))
    };
    let work = Work::Copy {
        to: To::Region(to),
        from,
        n: n as u64,
    };
    submit(driver, stream, work, returns)
}

fn to_host(
    driver: &mut Driver,
    stream: usize,
    to: u64,
    from: u64,
    n: usize,
    returns: Returns,
) -> Done {
    if n == 0 {
        return Ok(());
    }
    check_device(driver, from, n)?;
    driver.report.bytes_to_host += n as u64;
    let (to, returns) = if is_pinned(driver, to, n) {
        (To::Region(to), returns)
    } else {
        // Into pageable memory the driver copies before it returns.
        (To::Host(to as usize), Returns::WhenDone)
    };
    let work = Work::Copy {
        to,
        from: From::Region(from),
        n: n as u64,
    };
    submit(driver, stream, work, returns)
}

fn within_device(driver: &mut Driver, stream: usize, to: u64, from: u64, n: usize) -> Done {
    if n == 0 {
        return Ok(());
    }
    check_device(driver, to, n)?;
    check_device(driver, from, n)?;
    let work = Work::Copy {
        to: To::Region(to),
        from: From::Region(from),
        n: n as u64,
    };
    submit(driver, stream, work, Returns::AtOnce)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: u64, n: usize) -> c_int {
    in_context(|driver, device| {
        to_device(
            driver,
            default_stream(device),
            to,
            from,
            n,
            Returns::WhenDone,
        )
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, n: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        to_device(driver, stream, to, from, n, Returns::AtOnce)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: u64, from: u64, n: usize) -> c_int {
    in_context(|driver, device| {
        to_host(
            driver,
            default_stream(device),
            to,
            from,
            n,
            Returns::WhenDone,
        )
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, n: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        to_host(driver, stream, to, from, n, Returns::AtOnce)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, n: usize) -> c_int {
    in_context(|driver, device| within_device(driver, default_stream(device), to, from, n))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, n: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        within_device(driver, stream, to, from, n)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: usize,
    from: u64,
    from_context: usize,
    n: usize,
    stream: usize,
) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        let to_device = device_of(to_context).ok_or(Code::INVALID_CONTEXT)?;
        let from_device = device_of(from_context).ok_or(Code::INVALID_CONTEXT)?;
        for (address, device) in [(to, to_device), (from, from_device)] {
            let region = driver.memory.find(address, n as u64);
            if n > 0 && region.is_none_or(|region| region.home != Home::Device(device)) {
                return Err(Code::INVALID_VALUE);
            }
        }
        within_device(driver, stream, to, from, n)?;
        if to_device != from_device {
            // Access that either side has to the other's memory will do.
            let way = [(from_device, to_device), (to_device, from_device)];
            let is_straight = way.iter().any(|pair| driver.peers.contains(pair));
            driver.report.bytes_between_devices += n as u64;
            driver.report.bytes_staged += if is_straight { 0 } else { n as u64 };
        }
        Ok(())
    })
}

/// `n` elements of a pattern.
fn fill(driver: &mut Driver, stream: usize, to: u64, pattern: &[u8], n: usize) -> Done {
    if n == 0 {
        return Ok(());
    }
    let bytes = n.checked_mul(pattern.len()).ok_or(Code::INVALID_VALUE)?;
    check_device(driver, to, bytes)?;
    if !to.is_multiple_of(pattern.len() as u64) {
        return Err(Code::INVALID_VALUE);
    }
    let work = Work::Fill {
        to,
        pattern: pattern.to_vec(),
        n: bytes as u64,
    };
    submit(driver, stream, work, Returns::AtOnce)
}

fn fill_in(to: u64, pattern: &[u8], n: usize, stream: usize) -> c_int {
    in_context(|driver, device| {
        let stream = stream_of(driver, device, stream)?;
        fill(driver, stream, to, pattern, n)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, value: c_uchar, n: usize) -> c_int {
    fill_in(to, &[value], n, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, value: c_uchar, n: usize, stream: usize) -> c_int {
    fill_in(to, &[value], n, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(to: u64, value: c_ushort, n: usize, stream: usize) -> c_int {
    fill_in(to, &value.to_le_bytes(), n, stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32_v2(to: u64, value: c_uint, n: usize) -> c_int {
    fill_in(to, &value.to_le_bytes(), n, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(to: u64, value: c_uint, n: usize, stream: usize) -> c_int {
    fill_in(to, &value.to_le_bytes(), n, stream)
}
