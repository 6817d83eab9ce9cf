//! PyTorch's zip archives: directory, entries and pickle.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| llm_fuzz::open_and_read(llm_fuzz::with_front(b"PK\x03\x04", bytes)));
