#!/usr/bin/env bash
# GUESS: cudarc with a loading feature finds the driver at run time, so where there is none,
#   CudaContext::device_count and CudaContext::new return an error, and a program goes on without.
# TRUE: Both panic. The library is loaded by the first call, and a loader that finds nothing
#   panics before there is a result to return. sys::is_culib_present asks without a panic.
# Versions: cudarc 0.19.10 with features driver, cuda-12000 and fallback-dynamic-loading.
# Seen: 27 November 2026, Rust 1.95, Linux x86-64, no driver. On a machine with one there is
#   nothing to see, and the script says so. Other versions were not tried.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "probe"
version = "0.1.0"
edition = "2021"
[dependencies.cudarc]
version = "=0.19.10"
default-features = false
features = ["std", "driver", "cuda-12000", "fallback-dynamic-loading"]
TOML
cat >src/main.rs <<'RS'
use cudarc::driver::{sys, CudaContext};
use std::panic::catch_unwind;

fn outcome(call: impl FnOnce() -> bool + std::panic::UnwindSafe) -> &'static str {
    match catch_unwind(call) {
        Ok(true) => "returns a value",
        Ok(false) => "returns an error",
        Err(_) => "panics",
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| ()));
    // SAFETY: it only looks for the library.
    if unsafe { sys::is_culib_present() } {
        println!("skipped: this machine has a driver");
        return;
    }
    let count = outcome(|| CudaContext::device_count().is_ok());
    let new = outcome(|| CudaContext::new(0).is_ok());
    println!("is_culib_present: false; device_count {count}; new {new}");
    assert_eq!((count, new), ("panics", "panics"), "it is otherwise now");
}
RS
cargo run --quiet
