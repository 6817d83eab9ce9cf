//! Has the linker compress the line tables, which only the trace of a panic reads: half of the program.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|found| found == value);
    // Linking while developing is to be quick.
    if is("CARGO_CFG_TARGET_OS", "linux") && is("PROFILE", "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
        // With more effort than linkers take of themselves: two megabytes less.
        println!("cargo::rustc-link-arg-bins=-Wl,-O2");
        // The tables have the names of this workspace's functions.
        println!("cargo::rustc-link-arg-bins=-Wl,--discard-all");
    }
}
