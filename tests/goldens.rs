//! Every golden model on every backend: the reference library's logits, ids, and the ways to reach them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::num::NonZeroUsize;

use llm_backend::{Backend, Reference};
use llm_cpu::{Cpu, CpuOptions, Isa};
use llm_runtime::{BoundModel, RuntimeError, Session};
use llm_tensor::DType;
use llm_tests::{argmax, golden, relative_error, session};

const MODELS: [&str; 3] = ["gpt2", "llama", "llama3-rope-tied"];

/// What f32 rounding, accumulated over a few layers, may move the logits by.
const TOLERANCE: f64 = 2e-4;

fn score(session: &mut Session, sequence: usize, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let collect = |_, logits: &[f32]| -> Result<(), RuntimeError> {
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
        let model = BoundModel::open(&folder).unwrap();
        let vocab = model.spec().vocab;
        let ids = &expected.input_ids;
        let open = |n_tokens| session(backend(), &model, DType::F32, 2, n_tokens);

        // At once, in pieces of 4, and token by token.
        for n_tokens in [64, 4, 1] {
            let mut session = open(n_tokens);
            let logits = score(&mut session, 0, ids);
            let error = relative_error(&logits, &expected.logits);
            assert!(
                error <= TOLERANCE,
                "{name}: passes of {n_tokens} tokens are off by {error:.1e}"
            );
            session.truncate(0, 0);
            assert_eq!(
                continue_greedily(&mut session, ids, expected.generated.len()),
                expected.generated,
                "{name}"
            );
        }

        let mut session = open(64);
        let last = session.prefill(0, ids).unwrap();
        let error = relative_error(last, &expected.logits[(ids.len() - 1) * vocab..]);
        assert!(error <= TOLERANCE, "{name}: prefill is off by {error:.1e}");

        // Two sequences stepped together as each alone; the second is another prompt of another length.
        let other: Vec<u32> = ids.iter().rev().take(5).copied().collect();
        session.prefill(1, &other).unwrap();
        let (a, b) = (expected.generated[0], other[0]);
        let together = session.step(&[(1, b), (0, a)]).unwrap().to_vec();
        session.truncate(0, ids.len());
        session.truncate(1, other.len());
        let alone = [
            session.step(&[(1, b)]).unwrap().to_vec(),
            session.step(&[(0, a)]).unwrap().to_vec(),
        ]
        .concat();
        let error = relative_error(&together, &alone);
        assert!(
            error <= TOLERANCE,
            "{name}: a batch of two differs from two runs by {error:.1e}"
        );
    }
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
