//! Names and texts of errors.
#![expect(unsafe_code, reason = "symbols of the driver API, under its names")]

use std::ffi::{c_char, c_int};

use super::{Done, put};
use crate::driver::Code;

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(error: c_int, name: *mut *const c_char) -> c_int {
    answer(words(error).and_then(|(text, _)| put(name, text)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    answer(words(error).and_then(|(_, words)| put(text, words)))
}

fn words(error: c_int) -> Result<(*const c_char, *const c_char), Code> {
    Code(error)
        .words()
        .map(|(name, text)| (name.as_ptr(), text.as_ptr()))
        .ok_or(Code::INVALID_VALUE)
}

fn answer(done: Done) -> c_int {
    done.map_or_else(|code| code.0, |()| 0)
}
