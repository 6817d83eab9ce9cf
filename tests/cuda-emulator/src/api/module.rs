//! Modules.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::{Done, in_context, put};
use crate::driver::{Code, Driver, LoadError};

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_char) -> c_int {
    in_context(|driver, device| load(driver, device, module, image).map_err(|error| error.code))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    module: *mut usize,
    image: *const c_char,
    n_options: c_uint,
    options: *const c_int,
    values: *const *mut c_void,
) -> c_int {
    in_context(|driver, device| {
        load(driver, device, module, image).map_err(|error| {
            let value_of = |wanted| {
                (0..n_options as usize).find_map(|at| {
                    // SAFETY: as the driver API demands it, there are `n_options` options and values.
                    unsafe { (*options.add(at) == wanted).then(|| *values.add(at)) }
                })
            };
            if let (Some(buffer), Some(len)) = (value_of(ERROR_LOG), value_of(ERROR_LOG_BYTES)) {
                log(buffer.cast(), len as usize, &error.message);
            }
            error.code
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoad(module: *mut usize, path: *const c_char) -> c_int {
    in_context(|driver, device| {
        let path = text_of(path)?;
        let bytes = std::fs::read(path).map_err(|_| Code::FILE_NOT_FOUND)?;
        let text = String::from_utf8(bytes).map_err(|_| Code::INVALID_IMAGE)?;
        load_text(driver, device, module, &text).map_err(|error| error.code)
    })
}

/// Text behind a pointer of the caller.
pub(super) fn text_of<'a>(pointer: *const c_char) -> Result<&'a str, Code> {
    if pointer.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: as the driver API demands it, the pointer is to text that ends with a zero.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Code::INVALID_IMAGE)
}

fn load(
    driver: &mut Driver,
    device: usize,
    module: *mut usize,
    image: *const c_char,
) -> Result<(), LoadError> {
    let text = text_of(image).map_err(|code| LoadError {
        code,
        message: "an image that is no PTX".into(),
    })?;
    load_text(driver, device, module, text)
}

fn load_text(
    driver: &mut Driver,
    device: usize,
    module: *mut usize,
    text: &str,
) -> Result<(), LoadError> {
    let result = driver.load(device, text);
    match result {
        Ok(handle) => put(module, handle).map_err(|code| LoadError {
            code,
            message: "no place for the module".into(),
        }),
        Err(error) => {
            driver.tell(&format!("module not loaded: {}", error.message));
            Err(error)
        }
    }
}

fn log(buffer: *mut u8, len: usize, message: &str) {
    for (at, byte) in message.bytes().chain([0]).take(len).enumerate() {
        let byte = if at + 1 == len { 0 } else { byte };
        let _ = put(buffer.wrapping_add(at), byte);
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> c_int {
    in_context(|driver, device| {
        // Kernels that are queued still need it.
        driver.synchronize_device(device)?;
        driver.unload(module)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(
    function: *mut usize,
    module: usize,
    name: *const c_char,
) -> c_int {
    in_context(|driver, device| {
        let module = driver.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        if module.device != device {
            return Err(Code::INVALID_CONTEXT);
        }
        let found = module
            .functions
            .get(text_of(name)?)
            .ok_or(Code::NOT_FOUND)?;
        put(function, *found)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(
    address: *mut u64,
    bytes: *mut usize,
    module: usize,
    name: *const c_char,
) -> c_int {
    in_context(|driver, _| {
        let module = driver.modules.get(&module).ok_or(Code::INVALID_HANDLE)?;
        let (at, len) = module.globals.get(text_of(name)?).ok_or(Code::NOT_FOUND)?;
        optional(address, *at)?;
        optional(bytes, *len as usize)
    })
}

fn optional<T>(to: *mut T, value: T) -> Done {
    if to.is_null() { Ok(()) } else { put(to, value) }
}

const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;
