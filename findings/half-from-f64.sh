#!/usr/bin/env bash
# GUESS: bf16::from_f64 and f16::from_f64 of the half crate round to the nearest value, ties to
#   even, so for an f32 widened to f64 they give what from_f32 gives.
# TRUE: bf16::from_f64 loses the lower bits of the double before it rounds. What stands just above
#   a tie becomes a tie and goes down: of 1 + 2^-8 + 2^-23 it gives 1, and from_f32 gives 1 + 2^-7.
#   f16::from_f64 of 1 + 2^-11 + 2^-40 gives 1, and the nearest is 1 + 2^-10.
# Versions: half 2.7.1.
# Seen: 27 November 2026, Rust 1.95, Linux x86-64. Other versions were not tried.
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
[dependencies]
half = "=2.7.1"
TOML
cat >src/main.rs <<'RS'
use half::{bf16, f16};

fn main() {
    let x = 1.0f32 + 1.0 / 256.0 + f32::EPSILON;
    let (narrow, wide) = (bf16::from_f32(x), bf16::from_f64(f64::from(x)));
    println!("bf16 of {x:e}: from_f32 {narrow}, from_f64 {wide}");
    assert_eq!((narrow.to_f32(), wide.to_f32()), (1.0078125, 1.0), "bf16 rounds otherwise now");

    let x = 1.0 + (-11f64).exp2() + (-40f64).exp2();
    let y = f16::from_f64(x);
    println!("f16 of 1 + 2^-11 + 2^-40: {y}, the nearest is {}", f16::from_bits(0x3c01));
    assert_eq!(y.to_f32(), 1.0, "f16 rounds otherwise now");
}
RS
cargo run --quiet
