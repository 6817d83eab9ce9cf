//! PyTorch's format before version 1.6, behind its magic number and version: pickles, then storages.
#![no_main]

use libfuzzer_sys::fuzz_target;

const FRONT: &[u8] = b"\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19.\x80\x02M\xE9\x03.";

fuzz_target!(|bytes: &[u8]| llm_fuzz::open_and_read(llm_fuzz::with_front(FRONT, bytes)));
