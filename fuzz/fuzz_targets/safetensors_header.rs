//! Safetensors: the input is the header and the data; its length is put before it, so that it is always whole.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (header_len, rest) = input;
    let header_len = rest.len().min(header_len.into()) as u64;
    llm_fuzz::open_and_read([&header_len.to_le_bytes()[..], rest].concat());
});
