//! GGUF, behind its magic number and version.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| llm_fuzz::open_and_read(llm_fuzz::with_front(
    b"GGUF\x03\0\0\0",
    bytes
)));
