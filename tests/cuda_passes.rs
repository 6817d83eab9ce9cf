//! Passes of whole models on an emulated GPU, by count: launches, waits of the host, and bytes between host and GPU for a token.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::sync::Arc;

use cuda_emulator::harness::{Machine, report};
use cuda_emulator::report::Report;
use llm_cuda::Cuda;
use llm_plan::{RunOn, WeightDType};
use llm_quant::Scalar;
use llm_runtime::{BoundModel, Interrupt, Limits, LoadOptions, Session, load_on};
use llm_tensor::DType;
use llm_tests::{argmax, golden};

fn on_gpu(model: &BoundModel) -> Session {
    let options = LoadOptions {
        dtype: WeightDType::As(DType::F32),
        quant: None,
        encoder: &Scalar,
        limits: Limits {
            n_sequences: 1,
            context: model.spec().context,
            n_tokens: 64,
            n_logits: 1,
        },
        offload: None,
    };
    let cuda = Arc::new(Cuda::new(0).unwrap());
    let devices = [(RunOn::Gpu(0), &cuda as _)];
    load_on(
        model,
        &devices,
        &options,
        &Interrupt::default(),
        &mut |_| (),
    )
    .unwrap()
}

/// What a token takes.
#[derive(Debug, PartialEq)]
struct Counts {
    kernels: u64,
    kernel_launches: u64,
    graph_launches: u64,
    waits: u64,
    to_host: u64,
    to_device: u64,
}

fn counts(before: &Report, after: &Report) -> Counts {
    let kernels = after.kernels_since(before);
    Counts {
        kernels: kernels.values().map(|kernel| kernel.launches).sum(),
        kernel_launches: after.kernel_launches - before.kernel_launches,
        graph_launches: after.graph_launches - before.graph_launches,
        waits: after.host_synchronizations - before.host_synchronizations,
        to_host: after.bytes_to_host - before.bytes_to_host,
        to_device: after.bytes_to_device - before.bytes_to_device,
    }
}

/// A model, and what a token takes at most.
struct Case {
    name: &'static str,
    /// Kernels of a layer.
    n_of_layer: u64,
    /// Words of four bytes that a pass is told: tokens and positions, angles, rows and block tables, and rows for the head.
    n_words: u64,
}

/// Kernels beside the layers': embedding, and rows, norm and matrix of the head.
const BESIDE: u64 = 6;

fn cases() -> [Case; 13] {
    let case = |name, n_of_layer, n_words| Case {
        name,
        n_of_layer,
        n_words,
    };
    [
        case("llama", 11, 26),
        case("gpt2", 9, 11),
        case("falcon-7b-style", 9, 82),
        case("gemma2", 14, 41),
        case("gpt-neox", 11, 14),
        case("bloom", 10, 70),
        case("qwen3-biases", 12, 38),
        case("mixtral", 12, 26),
        case("gpt-oss", 15, 41),
        case("opt", 9, 11),
        case("gptj", 9, 18),
        case("phi3-longrope-short", 10, 26),
        case("t5-buckets", 13, 76),
    ]
}

/// The host waits once a token, for what it asks for, and tells the GPU nothing but the pass. What comes again is launched by
/// one call, but for the embedding and the head, which the host's lists come between.
#[test]
fn a_token_takes_one_wait_and_few_launches() {
    for Case {
        name,
        n_of_layer,
        n_words,
    } in cases()
    {
        Machine::new().inside(|| {
            let (folder, expected) = golden(name);
            let model = BoundModel::open(&folder).unwrap();
            let (vocab, changes) = (
                model.spec().vocab as u64,
                model.spec().head.changes_logits(),
            );
            let n_layers = model.spec().decoder.layers.len() as u64;
            let mut session = on_gpu(&model);
            let mut next = argmax(session.prefill(0, &expected.input_ids).unwrap());
            for asks_for_ids in [false, true] {
                for i in 0..6 {
                    let before = report().unwrap();
                    next = match asks_for_ids {
                        true => session.greedy(0, &[next]).unwrap(),
                        false => argmax(session.step(&[(0, next)]).unwrap()),
                    };
                    let found = counts(&before, &report().unwrap());
                    let what = format!("{name}, token {i}: {found:?}");
                    // The host chooses where it changes the logits itself.
                    let is_chosen = asks_for_ids && !changes;
                    let to_host = if is_chosen { 4 } else { 4 * vocab };
                    assert_eq!((found.waits, found.to_host), (1, to_host), "{what}");
                    assert_eq!(found.to_device, 4 * n_words, "{what}");
                    let n_kernels = n_layers * n_of_layer + BESIDE + 2 * u64::from(is_chosen);
                    assert!(found.kernels <= n_kernels, "{what}");
                    if i >= 4 {
                        assert_eq!(found.graph_launches, 1, "{what}");
                        assert!(found.kernel_launches <= BESIDE + 2, "{what}");
                    }
                }
            }
        });
    }
}
