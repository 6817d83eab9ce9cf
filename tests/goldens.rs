//! Every golden model on every backend: the reference library's logits, ids, and the ways to reach them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::cell::Cell;
use std::fs;
use std::num::NonZeroUsize;

use llm_arch::{Positions, RotarySpec};
use llm_backend::{Backend, Reference};
use llm_checkpoint::Checkpoint;
use llm_conformance::Deferred;
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_runtime::{BoundModel, RuntimeError, Session};
use llm_tensor::DType;
use llm_tests::{Golden, argmax, fixture, golden, relative_error, session};

const MODELS: [&str; 46] = [
    "bloom",
    "bloom-6heads-residual-post-ln",
    "falcon-11b-style",
    "falcon-40b-style",
    "falcon-7b-biases",
    "falcon-7b-style",
    "falcon-rw-sdpa",
    "falcon-rw-style",
    "gemma",
    "gemma-biases",
    "gemma2",
    "gemma3",
    "gemma3-rope-scaled",
    "gpt-neox",
    "gpt-neox-sequential",
    "gpt2",
    "gpt2-scaled-by-layer",
    "gpt2-unscaled",
    "gptj",
    "llama",
    "llama-biases",
    "llama-rope-dynamic",
    "llama-rope-linear",
    "llama-rope-yarn",
    "llama3-rope-tied",
    "mistral-head-dim",
    "mistral-sliding",
    "mixtral",
    "mixtral-sliding",
    "opt",
    "opt-350m-style",
    "opt-no-biases",
    "phi3",
    "phi3-gqa-sliding",
    "phi3-longrope-long",
    "phi3-longrope-short",
    "phi3-partial-rotary",
    "qwen2",
    "qwen2-sliding",
    "qwen3",
    "qwen3-biases",
    "qwen3-moe",
    "qwen3-moe-mixed",
    "t5-buckets",
    "t5-flan-style",
    "t5-v1-style",
];

/// Largest error of logits by f32 rounding, accumulated over a few layers.
const TOLERANCE: f64 = 2e-4;

fn score(session: &mut Session, sequence: usize, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let collect = |_, logits: &[f32]| -> Result<(), Box<RuntimeError>> {
        all.extend_from_slice(logits);
        Ok(())
    };
    session.score(sequence, ids, collect).unwrap();
    all
}

fn continue_greedily(session: &mut Session, ids: &[u32], n: usize) -> Vec<u32> {
    let mut next = argmax(session.prefill(0, ids).unwrap());
    let mut generated = vec![next];
    while generated.len() < n {
        next = argmax(session.step(&[(0, next)]).unwrap());
        generated.push(next);
    }
    generated
}

fn check<B: Backend>(backend: impl Fn() -> B) {
    for name in MODELS {
        let (folder, expected) = golden(name);
        let model = BoundModel::open(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
        let model = if name == "falcon-rw-style" {
            with_distances_twice(model)
        } else {
            model
        };
        let open = |n_tokens| session(backend(), &model, DType::F32, 2, n_tokens);
        let is_off = |found: &[f32], expected: &[f32], how: &str| {
            let error = relative_error(found, expected);
            assert!(error <= TOLERANCE, "{name}: {how} is off by {error:.1e}");
        };
        let prompt = &expected.input_ids;
        let n_new = expected.generated.len();
        if let Some(ids) = &expected.decoder_input_ids {
            let mut session = open(64);
            session.encode(0, prompt).unwrap();
            is_off(
                &score(&mut session, 0, ids),
                &expected.logits,
                "the decoder at once",
            );
            session.truncate(0, 0);
            let one_by_one: Vec<f32> = ids
                .iter()
                .flat_map(|&id| score(&mut session, 0, &[id]))
                .collect();
            is_off(&one_by_one, &expected.logits, "the decoder token by token");
            assert_eq!(
                continue_greedily(&mut session, prompt, n_new),
                expected.generated,
                "{name}"
            );
        } else {
            // At once, in pieces of 4, and token by token. Rotary frequencies that depend on how many positions there
            // are make a prompt in pieces another computation, in the reference library too.
            let sizes = if by_length(&model) {
                &[64][..]
            } else {
                &[64, 4, 1]
            };
            for &n_tokens in sizes {
                let mut session = open(n_tokens);
                let logits = score(&mut session, 0, prompt);
                is_off(
                    &logits,
                    &expected.logits,
                    &format!("in passes of {n_tokens} tokens it"),
                );
                session.truncate(0, 0);
                let found = continue_greedily(&mut session, prompt, n_new);
                assert_eq!(found, expected.generated, "{name} in passes of {n_tokens}");
            }
        }
        two_sequences(&mut open(64), &expected, is_off);
    }
}

/// As GGUF: what its metadata cannot say of the fixture is set right.
/// Whatever a queue puts off, and in whichever order it is done that queues and events allow.
#[test]
fn deferred_queues_compute_the_same() {
    let seed = Cell::new(0);
    check(|| {
        seed.set(seed.get() + 1);
        Deferred::new(seed.get())
    });
}

#[test]
fn gguf_holds_the_same_models() {
    let names = fs::read_dir(fixture("gguf-models"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "gguf"))
        .collect();
    assert_eq!(files.len(), 16);
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (folder, expected) = golden(name);
        let original = BoundModel::open(&folder).unwrap();
        let model = BoundModel::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let mut skeleton = model.skeleton().clone();
        if name.starts_with("gemma2") || name.starts_with("gemma3") {
            // Scores' scale, and which of so few layers slide.
            let attentions = skeleton.spec.decoder.attentions_mut();
            for (attention, original) in attentions.zip(original.spec().decoder.attentions()) {
                (attention.scale, attention.window, attention.rotary_idx) =
                    (original.scale, original.window, original.rotary_idx);
            }
        }
        let model = BoundModel::bind(Checkpoint::open(&path).unwrap(), skeleton).unwrap();
        let mut session = session(Reference::new(), &model, DType::F32, 1, 64);
        let error = relative_error(
            &score(&mut session, 0, &expected.input_ids),
            &expected.logits,
        );
        assert!(
            error <= TOLERANCE,
            "{name}: as GGUF it is off by {error:.1e}"
        );
    }
}

fn by_length(model: &BoundModel) -> bool {
    match &model.spec().decoder.positions {
        Positions::Rotary(kinds) => kinds.iter().any(RotarySpec::depends_on_length),
        Positions::Learned { .. } | Positions::Alibi { .. } | Positions::Buckets { .. } => false,
    }
}

/// The fixture comes from an eager path of the reference library that adds ALiBi's distances to the scores and once more
/// with its mask; its default path, and the models' training, add them once. All else is held against it this way.
fn with_distances_twice(model: BoundModel) -> BoundModel {
    let mut skeleton = model.skeleton().clone();
    let Positions::Alibi { scale } = &mut skeleton.spec.decoder.positions else {
        panic!("a model with ALiBi")
    };
    *scale *= 2.0;
    BoundModel::bind(
        Checkpoint::open(model.checkpoint().path()).unwrap(),
        skeleton,
    )
    .unwrap()
}

/// Two sequences stepped together as each alone; the second has another prompt of another length.
fn two_sequences(session: &mut Session, expected: &Golden, is_off: impl Fn(&[f32], &[f32], &str)) {
    let other: Vec<u32> = expected.input_ids.iter().rev().take(5).copied().collect();
    session.prefill(0, &expected.input_ids).unwrap();
    session.prefill(1, &other).unwrap();
    let lengths = [session.len(0), session.len(1)];
    let (a, b) = (expected.generated[0], other[0]);
    let together = session.step(&[(1, b), (0, a)]).unwrap().to_vec();
    for (sequence, len) in lengths.into_iter().enumerate() {
        assert_eq!(session.truncate(sequence, len), len);
    }
    let alone = [
        session.step(&[(1, b)]).unwrap().to_vec(),
        session.step(&[(0, a)]).unwrap().to_vec(),
    ]
    .concat();
    is_off(&together, &alone, "a batch of two, against two runs,");
}

#[test]
fn reference_computes_what_the_goldens_say() {
    check(Reference::new);
}

#[test]
fn the_cpu_computes_what_the_goldens_say() {
    for isa in Isa::ALL {
        for threads in [1, 2] {
            let options = CpuOptions {
                isa: Some(isa),
                threads: NonZeroUsize::new(threads),
            };
            match Cpu::new(options) {
                Ok(_) => check(|| Cpu::new(options).unwrap()),
                Err(error) => println!("skipped: {error}"),
            }
        }
    }
}
