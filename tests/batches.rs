//! Many sequences in the same passes, against each alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use llm_backend::{Backend, Reference};
use llm_cpu::{Cpu, CpuOptions};
use llm_runtime::{BoundModel, Session};
use llm_tensor::DType;
use llm_tests::{argmax, golden, relative_error, session};

/// Each kind of positions, windows, caches shared by heads, experts, residuals and norms, and an encoder.
const MODELS: [&str; 14] = [
    "bloom",
    "falcon-7b-style",
    "gemma2",
    "gemma3",
    "gpt-neox",
    "gpt2",
    "llama",
    "llama4",
    "mistral-sliding",
    "mixtral-sliding",
    "opt",
    "phi3-gqa-sliding",
    "qwen3-moe",
    "t5-flan-style",
];

/// Largest error of logits by f32 rounding, accumulated over a few layers.
const TOLERANCE: f64 = 2e-4;

/// Tokens of each prompt, and of its answer.
const LENGTHS: [(usize, usize); 8] = [
    (3, 9),
    (14, 2),
    (1, 12),
    (6, 1),
    (25, 5),
    (5, 7),
    (12, 3),
    (2, 8),
];

/// Rows of a pass: some prompts are longer.
const PASS: usize = 6;

/// A prompt and what follows it: the ids, and the logits that each was chosen by.
struct Story {
    prompt: Vec<u32>,
    generated: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

/// A story that a sequence is at.
struct Reader<'a> {
    story: &'a Story,
    /// Tokens to feed next.
    pending: Vec<u32>,
    n_generated: usize,
}

/// Starts a prompt in an emptied sequence; what is to be fed first.
fn begin(session: &mut Session, sequence: usize, prompt: &[u32]) -> Vec<u32> {
    session.truncate(sequence, 0);
    match session.spec().encoder.as_ref().map(|e| e.start_token) {
        Some(start_token) => {
            session.encode(sequence, prompt).unwrap();
            vec![start_token]
        }
        None => prompt.to_vec(),
    }
}

fn alone(session: &mut Session, prompt: Vec<u32>, n_new: usize) -> Story {
    session.truncate(0, 0);
    let mut logits = vec![session.prefill(0, &prompt).unwrap().to_vec()];
    let mut generated = vec![argmax(&logits[0])];
    while generated.len() < n_new {
        let next = [(0, generated[generated.len() - 1])];
        logits.push(session.step(&next).unwrap().to_vec());
        generated.push(argmax(&logits[logits.len() - 1]));
    }
    Story {
        prompt,
        generated,
        logits,
    }
}

fn check<B: Backend>(backend: impl Fn() -> B, n_sequences: usize) {
    for name in MODELS {
        let (folder, expected) = golden(name);
        let model = BoundModel::open(&folder).unwrap();
        // An encoder sees all of its prompt at once.
        let n_tokens = match model.spec().encoder {
            Some(_) => 32,
            None => PASS,
        };
        let open = |n_sequences| session(backend(), &model, DType::F32, n_sequences, n_tokens);
        let mut single = open(1);
        let stories: Vec<_> = LENGTHS
            .iter()
            .enumerate()
            .map(|(i, &(n_prompt, n_new))| {
                let ids = expected.input_ids.iter().cycle().skip(3 * i);
                alone(&mut single, ids.take(n_prompt).copied().collect(), n_new)
            })
            .collect();

        let mut session = open(n_sequences);
        let vocab = model.spec().vocab;
        let mut waiting = stories.iter();
        let mut readers: Vec<Option<Reader<'_>>> = (0..n_sequences).map(|_| None).collect();
        loop {
            for (sequence, reader) in readers.iter_mut().enumerate() {
                if reader.is_none() {
                    *reader = waiting.next().map(|story| Reader {
                        story,
                        pending: begin(&mut session, sequence, &story.prompt),
                        n_generated: 0,
                    });
                }
            }
            let active = readers.iter().enumerate();
            let items: Vec<_> = active
                .filter_map(|(sequence, reader)| Some((sequence, &reader.as_ref()?.pending[..])))
                .collect();
            if items.is_empty() {
                break;
            }
            let mut logits = session.advance(&items).unwrap().chunks_exact(vocab);
            for slot in &mut readers {
                let Some(reader) = slot else { continue };
                let (found, at) = (logits.next().unwrap(), reader.n_generated);
                let story = reader.story;
                let error = relative_error(found, &story.logits[at]);
                let what = || format!("{name}: token {at} after {} tokens", story.prompt.len());
                assert!(error <= TOLERANCE, "{} is off by {error:.1e}", what());
                assert_eq!(argmax(found), story.generated[at], "{}", what());
                reader.pending = vec![story.generated[at]];
                reader.n_generated += 1;
                if reader.n_generated == story.generated.len() {
                    *slot = None;
                }
            }
        }
        assert!(
            waiting.next().is_none(),
            "{name}: all prompts had their turn"
        );
    }
}

#[test]
fn the_cpu_computes_each_as_if_it_were_alone() {
    for n_sequences in [1, 3, 7] {
        check(|| Cpu::new(CpuOptions::default()).unwrap(), n_sequences);
    }
}

#[test]
fn reference_computes_each_as_if_it_were_alone() {
    check(Reference::new, 3);
}
