//! Whole models in 8 and 4 bits: as the reference libraries saved them, and quantized here from the same weights.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use llm_backend::{Backend, Reference};
use llm_checkpoint::Checkpoint;
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_quant::{LoadIn, QuantConfig};
use llm_runtime::{BoundModel, RuntimeError, Session};
use llm_tensor::DType;
use llm_tests::{fixture, quantized_session, relative_error, tensor};

/// The model's folder, the dtype of what is not quantized, the logits to match and how closely.
struct Case {
    name: &'static str,
    logits: &'static str,
    tolerance: f64,
}

/// 4-bit weights are exact, so that only sums differ; with 8-bit weights a rounding in the activations may flip a code,
/// which a change of 1e-6 in the weights does as well, moving the logits by up to 7e-3.
const CASES: [Case; 7] = [
    four_bit("llama-nf4-double"),
    four_bit("phi3-fp4"),
    four_bit("t5-nf4"),
    eight_bit("llama-int8"),
    eight_bit("gpt2-int8"),
    eight_bit("bloom-int8-threshold-skip"),
    // Multipliers beside projections: activations are rounded behind them.
    eight_bit("falcon-h1-int8"),
];

const fn four_bit(name: &'static str) -> Case {
    Case {
        name,
        logits: "dequantized_logits",
        tolerance: 1e-3,
    }
}

const fn eight_bit(name: &'static str) -> Case {
    Case {
        name,
        logits: "float32_logits",
        tolerance: 1e-2,
    }
}

impl Case {
    fn folder(&self) -> PathBuf {
        fixture("quantized").join(self.name)
    }

    fn saved(&self) -> BoundModel {
        BoundModel::open(&self.folder()).unwrap()
    }

    fn dense(&self) -> BoundModel {
        BoundModel::open(&self.folder().join("dense")).unwrap()
    }

    fn check(&self, how: &str, mut session: Session) {
        let expected = Checkpoint::open(&self.folder().join("expected.safetensors")).unwrap();
        let ids = |name: &str| -> Vec<u32> {
            let ids = tensor::<i64>(&expected, name, DType::I64);
            ids.into_iter().map(|id| id as u32).collect()
        };
        let mut ids_to_score = ids("input_ids");
        if expected.get("decoder_input_ids").is_some() {
            session.encode(0, &ids_to_score).unwrap();
            ids_to_score = ids("decoder_input_ids");
        }
        let mut logits = Vec::new();
        let collect = |_, row: &[f32]| -> Result<(), Box<RuntimeError>> {
            logits.extend_from_slice(row);
            Ok(())
        };
        session.score(0, &ids_to_score, collect).unwrap();
        let error = relative_error(&logits, &tensor(&expected, self.logits, DType::F32));
        println!("{} {how}: {error:.1e}", self.name);
        assert!(
            error <= self.tolerance,
            "{} {how} is off by {error:.1e}",
            self.name
        );
    }
}

fn check_all<B: Backend>(backend: impl Fn() -> B) {
    for case in CASES {
        let device = backend().info().name.clone();
        let saved = case.saved();
        let quant = saved.quantization().unwrap();
        // What is not quantized, and keys and values, in f32, as the expected logits were computed.
        let load = |model: &BoundModel, quant: Option<&QuantConfig>| {
            quantized_session(backend(), model, (DType::F32, quant), 1, 64)
        };
        case.check(&format!("as saved, on {device}"), load(&saved, None));
        let quantized = load(&case.dense(), Some(quant));
        case.check(&format!("quantized here, on {device}"), quantized);
    }
}

#[test]
fn reference_computes_what_the_libraries_did() {
    check_all(Reference::new);
}

#[test]
fn the_cpu_computes_what_the_libraries_did() {
    for isa in Isa::ALL {
        for threads in [1, 2] {
            let options = CpuOptions {
                isa: Some(isa),
                threads: NonZeroUsize::new(threads),
                ..CpuOptions::default()
            };
            match Cpu::new(options) {
                Ok(_) => check_all(|| Cpu::new(options).unwrap()),
                Err(error) => println!("skipped: {error}"),
            }
        }
    }
}

#[test]
fn what_is_quantized_already_is_not_quantized_again() {
    let model = CASES[0].saved();
    let quant = QuantConfig::new(LoadIn::EightBit);
    let error = model
        .encodings(llm_plan::WeightDType::Auto, Some(&quant))
        .unwrap_err()
        .to_string();
    assert!(error.contains("already, as nf4 double"), "{error}");
}
