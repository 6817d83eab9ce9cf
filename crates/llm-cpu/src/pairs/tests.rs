use llm_conformance::check_rounded_linear;
use std::sync::Arc;

use super::*;
use crate::{Cpu, CpuOptions, Isa};

/// Both factors are rounded to eight bits, and smallest numbers to zero.
const PRODUCT_ERROR: f64 = 2.0 / 256.0;

#[test]
fn products_of_many_tokens_err_by_the_rounding_of_their_factors() {
    let options = |compute| CpuOptions {
        compute,
        ..CpuOptions::default()
    };
    let rounded = Cpu::new(options(Compute::Bf16)).unwrap();
    assert!(
        Cpu::new(options(Compute::F32))
            .unwrap()
            .pair_level
            .is_none()
    );
    if rounded.pair_level.is_none() {
        println!("skipped: this machine has no products of bf16");
        return;
    }
    check_rounded_linear(&Arc::new(rounded), PRODUCT_ERROR);
}

#[test]
fn an_instruction_set_without_them_computes_in_f32() {
    for isa in [Isa::Portable, Isa::Avx2] {
        if let Some(level) = Level::new(isa) {
            assert!(PairLevel::of(level, Compute::Bf16).is_none(), "{isa}");
        }
    }
}
