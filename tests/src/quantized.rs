//! Quantized models: as the reference libraries saved them, and quantized here, on any device.

use std::path::PathBuf;

use llm_checkpoint::Checkpoint;
use llm_quant::QuantConfig;
use llm_runtime::{BoundModel, Device, RuntimeError, Session};
use llm_tensor::DType;

use crate::{fixture, relative_error, session_on, tensor};

/// The model's folder, the dtype of what is not quantized, the logits to match and how closely.
struct Case {
    name: &'static str,
    logits: &'static str,
    tolerance: f64,
}

/// 4-bit weights are exact, so that only sums differ; with 8-bit weights a rounding in the activations may flip a code,
/// which a change of 1e-6 in the weights does as well, moving the logits by up to 7e-3.
const CASES: [Case; 6] = [
    four_bit("llama-nf4-double"),
    four_bit("phi3-fp4"),
    four_bit("t5-nf4"),
    eight_bit("llama-int8"),
    eight_bit("gpt2-int8"),
    eight_bit("bloom-int8-threshold-skip"),
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
        BoundModel::open(&self.folder()).expect(WORKS)
    }

    fn dense(&self) -> BoundModel {
        BoundModel::open(&self.folder().join("dense")).expect(WORKS)
    }

    fn check(&self, how: &str, mut session: Session) {
        let expected = Checkpoint::open(&self.folder().join("expected.safetensors")).expect(WORKS);
        let ids = |name: &str| -> Vec<u32> {
            let ids = tensor::<i64>(&expected, name, DType::I64);
            ids.into_iter().map(|id| id as u32).collect()
        };
        let mut ids_to_score = ids("input_ids");
        if expected.get("decoder_input_ids").is_some() {
            session.encode(0, &ids_to_score).expect(WORKS);
            ids_to_score = ids("decoder_input_ids");
        }
        let mut logits = Vec::new();
        let collect = |_, row: &[f32]| -> Result<(), Box<RuntimeError>> {
            logits.extend_from_slice(row);
            Ok(())
        };
        session.score(0, &ids_to_score, collect).expect(WORKS);
        let error = relative_error(&logits, &tensor(&expected, self.logits, DType::F32));
        assert!(
            error <= self.tolerance,
            "{} {how} is off by {error:.1e}",
            self.name
        );
    }
}

/// Holds every quantized model on devices that `device` makes to what the reference libraries computed.
///
/// # Panics
/// Where one is off.
pub fn check_quantized(device: &dyn Fn() -> Box<dyn Device>) {
    for case in CASES {
        let name = device().info().name.clone();
        let saved = case.saved();
        let quant = saved.quantization().expect(WORKS);
        // What is not quantized, and keys and values, in f32, as the expected logits were computed.
        let load = |model: &BoundModel, quant: Option<&QuantConfig>| {
            session_on(&*device(), model, (DType::F32, quant), 1, 64)
        };
        case.check(&format!("as saved, on {name}"), load(&saved, None));
        let quantized = load(&case.dense(), Some(quant));
        case.check(&format!("quantized here, on {name}"), quantized);
    }
}

const WORKS: &str = "a fixture loads and computes";
