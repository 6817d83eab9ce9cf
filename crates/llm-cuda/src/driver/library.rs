//! Presence of the driver, asked without a panic whatever is missing.

use std::ffi::c_int;

use cudarc::driver::sys;

use super::answer;
use crate::NoGpu;

/// Version of the driver, which is loaded for it, as 12040 for 12.4.
///
/// # Errors
/// When there is no driver, or none that tells.
pub(super) fn version() -> Result<u32, NoGpu> {
    // SAFETY: loading the driver runs its initialisers, as any program that uses it does.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoGpu::NoDriver);
    }
    check_symbol("cuDriverGetVersion")?;
    let mut version: c_int = 0;
    // SAFETY: the function is there, and writes a number.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if code != sys::CUresult::CUDA_SUCCESS {
        // Without a context of its own, an error may have no name to look up.
        return Err(NoGpu::Broken {
            operation: "asking for its version".to_owned(),
            code: code as u32,
            name: "an error before it was started".to_owned(),
        });
    }
    Ok(u32::try_from(version).unwrap_or(0))
}

/// Loads the driver and starts it; its version, as 12040 for 12.4.
///
/// cudarc panics at the first call of a function that the library lacks; so every one that this crate calls is looked up
/// here, before any is called.
///
/// # Errors
/// When there is no driver, or none that will do.
pub(crate) fn open() -> Result<u32, NoGpu> {
    // What tells the version comes first: an old driver is old, rather than without some function.
    let version = version()?;
    if version < OLDEST {
        return Err(NoGpu::OldDriver {
            found: version,
            oldest: OLDEST,
        });
    }
    SYMBOLS.into_iter().try_for_each(check_symbol)?;
    // SAFETY: the function is there; it may be called any number of times.
    let started = unsafe { sys::cuInit(0) };
    match started {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(NoGpu::NoDevice),
        code => answer(code, || "starting it".to_owned())?,
    }
    Ok(version)
}

/// GPUs that the started driver offers.
pub(crate) fn device_count() -> Result<usize, NoGpu> {
    let mut n: c_int = 0;
    // SAFETY: the driver was started; it writes a number.
    let code = unsafe { sys::cuDeviceGetCount(&raw mut n) };
    answer(code, || "counting its devices".to_owned())?;
    match usize::try_from(n) {
        Ok(0) | Err(_) => Err(NoGpu::NoDevice),
        Ok(n) => Ok(n),
    }
}

fn check_symbol(name: &'static str) -> Result<(), NoGpu> {
    // SAFETY: the library is there, so that this does not panic; the address is not called here.
    let found = unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) };
    match found {
        Ok(_) => Ok(()),
        Err(_) => Err(NoGpu::LacksFunction { name }),
    }
}

/// The version whose PTX the kernels are: 12.0.
const OLDEST: u32 = 12000;

/// Functions of the driver that this crate calls.
const SYMBOLS: [&str; 47] = [
    "cuInit",
    "cuGetErrorName",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetUuid_v2",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyPeerAsync",
    "cuDeviceCanAccessPeer",
    "cuCtxEnablePeerAccess",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGraphCreate",
    "cuGraphAddKernelNode_v2",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuDriverGetVersion",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A function that is called but not looked up would panic on a driver that lacks it.
    #[test]
    fn every_function_that_is_called_is_looked_up() {
        let sources = [
            include_str!("../driver.rs"),
            include_str!("blas.rs"),
            include_str!("context.rs"),
            include_str!("event.rs"),
            include_str!("graph.rs"),
            include_str!("library.rs"),
            include_str!("memory.rs"),
            include_str!("module.rs"),
            include_str!("stream.rs"),
        ];
        let called: std::collections::BTreeSet<&str> = sources
            .iter()
            .flat_map(|source| source.split("sys::cu").skip(1))
            .map(|rest| rest.split('(').next().unwrap_or(rest))
            .filter(|name| name.chars().next().is_some_and(char::is_uppercase))
            .collect();
        assert!(called.contains("LaunchKernel"));
        for name in called {
            let name = format!("cu{name}");
            assert!(SYMBOLS.contains(&name.as_str()), "{name}");
        }
    }
}
