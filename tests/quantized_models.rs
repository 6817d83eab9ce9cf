//! Whole models in 8 and 4 bits: as the reference libraries saved them, and quantized here from the same weights.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::num::NonZeroUsize;

use llm_backend::Reference;
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_quant::{LoadIn, QuantConfig};
use llm_runtime::BoundModel;
use llm_tests::{check_quantized, device, fixture};

#[test]
fn reference_computes_what_the_libraries_did() {
    check_quantized(&|| device(Reference::new()));
}

#[test]
fn the_cpu_computes_what_the_libraries_did() {
    for isa in Isa::ALL {
        for threads in [1, 2] {
            let options = CpuOptions {
                isa: Some(isa),
                threads: NonZeroUsize::new(threads),
            };
            match Cpu::new(options) {
                Ok(_) => check_quantized(&|| device(Cpu::new(options).unwrap())),
                Err(error) => println!("skipped: {error}"),
            }
        }
    }
}

#[test]
fn what_is_quantized_already_is_not_quantized_again() {
    let model = BoundModel::open(&fixture("quantized/llama-nf4-double")).unwrap();
    let quant = QuantConfig::new(LoadIn::EightBit);
    let error = model
        .encodings(llm_plan::WeightDType::Auto, Some(&quant))
        .unwrap_err()
        .to_string();
    assert!(error.contains("already, as nf4 double"), "{error}");
}
