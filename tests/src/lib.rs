//! Helpers for tests across the crates: fixtures, and how they are read.

mod gguf;
mod goldens;
mod packed;
mod placing;
mod variant;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_backend::Backend;
use llm_checkpoint::Checkpoint;
use llm_plan::WeightDType;
use llm_quant::{QuantConfig, Scalar};
use llm_runtime::{BoundModel, Device, Limits, LoadOptions, Session, load};
use llm_tensor::DType;

pub use gguf::{Written, in_q8_0};
pub use goldens::{
    GOLDEN_TOLERANCE, GOLDENS, check_golden, check_goldens, continue_by_ids, score, take_back,
};
pub use packed::Packed;
pub use placing::{outermost, placing, short_passes};
pub use variant::Variant;

/// A file or folder of `tests/fixtures`, or of the folder that the environment variable [`FIXTURES`] names: a program that
/// was taken to another machine has them elsewhere.
pub fn fixture(name: &str) -> PathBuf {
    let there = env::var_os(FIXTURES).map(PathBuf::from);
    // What cargo says when it runs a test: copies of the workspace that share a target folder share the test, too.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let here = || Path::new(&package).join("fixtures");
    there.unwrap_or_else(here).join(name)
}

/// Folders of tiny models in the formats of published checkpoints.
///
/// # Panics
/// When there are none.
pub fn published() -> Vec<PathBuf> {
    let all = std::fs::read_dir(fixture("packed")).expect("the folder of packed models");
    let all = all.map(|entry| entry.expect("a readable folder").path());
    let mut models: Vec<_> = all.filter(|path| path.is_dir()).collect();
    models.push(fixture("faults/fp8-block-scales/model"));
    models.sort_unstable();
    models
}

/// The environment variable that says where the fixtures are.
pub const FIXTURES: &str = "LLM_RUN_FIXTURES";

/// Results of the reference library with a model: see `fixtures/generate.py`.
#[derive(Debug)]
pub struct Golden {
    /// The prompt.
    pub input_ids: Vec<u32>,
    /// Input of an encoder-decoder model's decoder.
    pub decoder_input_ids: Option<Vec<u32>>,
    /// Logits after each token, of the decoder's where there are two, `[tokens, vocab]`.
    pub logits: Vec<f32>,
    /// The greedy continuation.
    pub generated: Vec<u32>,
}

/// The folder of a golden model, and what it should compute.
pub fn golden(name: &str) -> (PathBuf, Golden) {
    let folder = fixture("models").join(name);
    let expected =
        Checkpoint::open(&folder.join("expected.safetensors")).expect("a readable golden");
    let ids = |name: &str| {
        tensor::<i64>(&expected, name, DType::I64)
            .into_iter()
            .map(|id| id as u32)
            .collect()
    };
    let logits = tensor(&expected, "logits", DType::F32);
    (
        folder,
        Golden {
            input_ids: ids("input_ids"),
            decoder_input_ids: expected
                .get("decoder_input_ids")
                .map(|tensor| ids(&tensor.name)),
            logits,
            generated: ids("generated"),
        },
    )
}

/// All elements of a tensor.
pub fn tensor<T: bytemuck::Pod>(checkpoint: &Checkpoint, name: &str, dtype: DType) -> Vec<T> {
    let n_elements = checkpoint
        .get(name)
        .expect("a tensor of that name")
        .shape
        .n_elements();
    let mut elements = vec![T::zeroed(); n_elements as usize];
    let bytes = bytemuck::cast_slice_mut(&mut elements);
    checkpoint
        .read_into(name, 0..n_elements, dtype, bytes)
        .expect("a readable tensor");
    elements
}

/// Loads a model for passes of up to `n_tokens` rows of up to `n_sequences` sequences.
pub fn session<B: Backend>(
    backend: B,
    model: &BoundModel,
    dtype: DType,
    n_sequences: usize,
    n_tokens: usize,
) -> Session {
    quantized_session(backend, model, (dtype, None), n_sequences, n_tokens)
}

/// As [`session`], quantizing what is not quantized yet.
pub fn quantized_session<B: Backend>(
    backend: B,
    model: &BoundModel,
    quantization: (DType, Option<&QuantConfig>),
    n_sequences: usize,
    n_tokens: usize,
) -> Session {
    session_on(
        &*device(backend),
        model,
        quantization,
        n_sequences,
        n_tokens,
    )
}

/// A backend as a session sees it.
pub fn device<B: Backend>(backend: B) -> Box<dyn Device> {
    Box::new(Arc::new(backend))
}

/// As [`quantized_session`], on a device that may serve others too.
///
/// # Panics
/// When the model cannot be loaded.
pub fn session_on(
    device: &dyn Device,
    model: &BoundModel,
    (dtype, quant): (DType, Option<&QuantConfig>),
    n_sequences: usize,
    n_tokens: usize,
) -> Session {
    let limits = Limits {
        n_sequences,
        context: model.spec().context,
        n_tokens,
        n_logits: 7,
    };
    let options = LoadOptions {
        dtype: WeightDType::As(dtype),
        quant,
        encoder: &Scalar,
        limits,
        offload: None,
    };
    load(model, device, &options, &mut |_| ()).expect("a loadable model")
}

/// ‖found − expected‖ / ‖expected‖ (Frobenius).
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values as expected");
    let square_sum = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square_sum(
        &mut found
            .iter()
            .zip(expected)
            .map(|(f, e)| f64::from(*f) - f64::from(*e)),
    );
    (difference / square_sum(&mut expected.iter().map(|e| f64::from(*e)))).sqrt()
}

/// The first of the largest.
pub fn argmax(logits: &[f32]) -> u32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits
        .iter()
        .position(|&l| l == largest)
        .expect("logits that are numbers") as u32
}

/// The README's code is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
