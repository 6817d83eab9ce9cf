//! A device of the driver, and the context in which all of this process works on it.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use cudarc::driver::sys;

use super::{Failure, answer};

/// The primary context of a device: kept while this lives.
#[derive(Debug)]
pub(crate) struct Context {
    device: sys::CUdevice,
    pub(super) raw: sys::CUcontext,
}

// SAFETY: the driver's contexts are made to be shared by threads; each call makes it current to its thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A number that the driver tells of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attribute {
    ComputeMajor,
    ComputeMinor,
    Multiprocessors,
    SharedPerBlock,
}

impl Context {
    /// The context of device `ordinal` of a driver that was started.
    pub(crate) fn retain(ordinal: usize) -> Result<Self, Failure> {
        let mut device = 0;
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        // SAFETY: the driver writes a device's handle.
        let code = unsafe { sys::cuDeviceGet(&raw mut device, number) };
        answer(code, || format!("looking up device {ordinal}"))?;
        let mut raw = ptr::null_mut();
        // SAFETY: the device is one of the driver's; it writes a handle, given back when this is dropped.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) };
        answer(code, || format!("opening device {ordinal}"))?;
        let context = Context { device, raw };
        context.bind()?;
        Ok(context)
    }

    /// Makes it the calling thread's.
    pub(crate) fn bind(&self) -> Result<(), Failure> {
        // SAFETY: the context is kept while this lives.
        let code = unsafe { sys::cuCtxSetCurrent(self.raw) };
        answer(code, || "taking the device up in a thread".to_owned())
    }

    /// Has copies to another device go straight to its memory, where both allow it: true then. Else the driver takes them
    /// through the host's, and only they are slower.
    pub(crate) fn reach(&self, other: &Context) -> Result<bool, Failure> {
        use sys::CUresult::{CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, CUDA_SUCCESS};
        let mut can: c_int = 0;
        // SAFETY: both devices are the driver's; it writes a number.
        let code = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, self.device, other.device) };
        answer(code, || {
            "asking whether a device reaches another".to_owned()
        })?;
        if can == 0 {
            return Ok(false);
        }
        self.bind()?;
        // Another part of this program may have asked before, and many GPUs may have used up their connections.
        // SAFETY: both contexts are kept while these live.
        let code = unsafe { sys::cuCtxEnablePeerAccess(other.raw, 0) };
        Ok([CUDA_SUCCESS, CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED].contains(&code))
    }

    /// Waits until the device has done all work of this process.
    pub(crate) fn synchronize(&self) -> Result<(), Failure> {
        self.bind()?;
        // SAFETY: the thread has a context.
        let code = unsafe { sys::cuCtxSynchronize() };
        answer(code, || "waiting for the device".to_owned())
    }

    /// Bytes that are free, and bytes in all.
    pub(crate) fn memory(&self) -> Result<(u64, u64), Failure> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the thread has a context; the driver writes two numbers.
        let code = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        answer(code, || "asking for free memory".to_owned())?;
        Ok((free as u64, total as u64))
    }

    pub(crate) fn name(&self) -> Result<String, Failure> {
        let mut text: [c_char; 128] = [0; 128];
        // SAFETY: the driver writes a text of at most so many bytes, its final zero included.
        let code = unsafe {
            sys::cuDeviceGetName(text.as_mut_ptr(), text.len() as c_int - 1, self.device)
        };
        answer(code, || "asking for the device's name".to_owned())?;
        // SAFETY: the last element is zero whatever was written.
        let name = unsafe { CStr::from_ptr(text.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    }

    /// The device's own number, as 32 hexadecimal digits.
    pub(crate) fn uuid(&self) -> Result<String, Failure> {
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: the driver writes sixteen bytes.
        let code = unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, self.device) };
        answer(code, || "asking for the device's own number".to_owned())?;
        let digits = uuid.bytes.map(|byte| format!("{:02x}", byte as u8));
        Ok(digits.concat())
    }

    pub(crate) fn attribute(&self, attribute: Attribute) -> Result<u32, Failure> {
        use sys::CUdevice_attribute as Of;
        let of = match attribute {
            Attribute::ComputeMajor => Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            Attribute::ComputeMinor => Of::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            Attribute::Multiprocessors => Of::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            Attribute::SharedPerBlock => Of::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        };
        let mut value: c_int = 0;
        // SAFETY: the device is one of the driver's; it writes a number.
        let code = unsafe { sys::cuDeviceGetAttribute(&raw mut value, of, self.device) };
        answer(code, || format!("asking for the device's {attribute:?}"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // A driver that fails here is left as it is: nobody could be told.
        // SAFETY: it was retained once, by this.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
