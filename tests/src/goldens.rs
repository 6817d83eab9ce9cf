//! Golden models: their logits, their continuations, and the ways to reach them, on any device.

use llm_arch::{Positions, RotarySpec};
use llm_checkpoint::Checkpoint;
use llm_runtime::{BoundModel, Device, RuntimeError, Session};
use llm_tensor::DType;

use crate::{Golden, argmax, golden, relative_error, session_on};

/// Names of the golden models.
pub const GOLDENS: [&str; 131] = [
    "apertus",
    "apertus-biases",
    "arcee",
    "arcee-biases",
    "bamba",
    "bloom",
    "bloom-6heads-residual-post-ln",
    "cohere",
    "cohere2",
    "deepseek-v2",
    "deepseek-v2-groups",
    "deepseek-v3",
    "deepseek-v3-plain",
    "deepseek-v32",
    "deepseek-v32-sparse",
    "deepseek-v4",
    "ernie4-5",
    "ernie4-5-moe",
    "ernie4-5-moe-biases",
    "exaone4",
    "exaone4-full",
    "falcon-11b-style",
    "falcon-40b-style",
    "falcon-7b-biases",
    "falcon-7b-style",
    "falcon-h1",
    "falcon-h1-biases",
    "falcon-h1-norm",
    "falcon-rw-sdpa",
    "falcon-rw-style",
    "gemma",
    "gemma-biases",
    "gemma2",
    "gemma3",
    "gemma3-rope-scaled",
    "gemma3n",
    "gemma4",
    "gemma4-moe",
    "gemma4-per-layer",
    "gemma4-plain",
    "glm",
    "glm4",
    "glm4-moe",
    "glm4-moe-groups",
    "glm4-moe-lite",
    "glm-moe-dsa",
    "glm-moe-dsa-sparse",
    "gpt-bigcode",
    "gpt-bigcode-heads",
    "gpt-neox",
    "gpt-neox-sequential",
    "gpt-oss",
    "gpt-oss-tied",
    "gpt2",
    "gpt2-scaled-by-layer",
    "gpt2-unscaled",
    "gptj",
    "granite",
    "granite4",
    "granite4-dense",
    "granitemoe",
    "granitemoeshared",
    "hunyuan-dense",
    "hunyuan-dense-biases",
    "hunyuan-moe",
    "hunyuan-moe-biases",
    "kimi-linear",
    "kimi-linear-groups",
    "lfm2",
    "lfm2-biases",
    "lfm2-moe",
    "lfm2-moe-plain",
    "llama",
    "llama-biases",
    "llama-rope-dynamic",
    "llama-rope-linear",
    "llama-rope-yarn",
    "llama3-rope-tied",
    "llama4",
    "llama4-mixed",
    "mamba2",
    "mamba2-tied",
    "minimax-m2",
    "ministral3",
    "mistral-head-dim",
    "mistral-sliding",
    "mixtral",
    "mixtral-sliding",
    "mpt",
    "nemotron",
    "nemotron-biases",
    "nemotron-h",
    "nemotron-h-moe",
    "nemotron-h-moe-latent",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "opt-350m-style",
    "opt-no-biases",
    "phi",
    "phi-qk-norm",
    "phi3",
    "phi3-gqa-sliding",
    "phi3-longrope-long",
    "phi3-longrope-short",
    "phi3-partial-rotary",
    "phimoe",
    "phimoe-plain",
    "qwen2",
    "qwen2-moe",
    "qwen2-moe-mixed",
    "qwen2-sliding",
    "qwen3",
    "qwen3-5",
    "qwen3-5-moe",
    "qwen3-5-tied",
    "qwen3-biases",
    "qwen3-moe",
    "qwen3-moe-mixed",
    "qwen3-next",
    "qwen3-next-mixed",
    "seed-oss",
    "smollm3",
    "smollm3-sliding",
    "stablelm",
    "stablelm-parallel",
    "starcoder2",
    "t5-buckets",
    "t5-flan-style",
    "t5-v1-style",
];

/// Largest error of logits by f32 rounding, accumulated over a few layers.
pub const GOLDEN_TOLERANCE: f64 = 2e-4;

/// Takes a sequence back to its first `len` positions; `fed` are their tokens, which states of one size are computed of anew.
///
/// # Panics
/// When it is neither there nor empty for that reason.
pub fn take_back(session: &mut Session, sequence: usize, len: usize, fed: &[u32]) {
    let is_recurrent = session.spec().decoder.is_recurrent();
    let n_kept = session.truncate(sequence, len);
    assert_eq!(n_kept, if is_recurrent { 0 } else { len });
    if is_recurrent {
        session.advance(&[(sequence, &fed[..len])]).expect(WORKS);
    }
}

/// Logits after each of `ids`, which follow what the sequence has.
///
/// # Panics
/// When the device fails.
pub fn score(session: &mut Session, sequence: usize, ids: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let collect = |_, logits: &[f32]| -> Result<(), Box<RuntimeError>> {
        all.extend_from_slice(logits);
        Ok(())
    };
    session.score(sequence, ids, collect).expect(WORKS);
    all
}

fn continue_greedily(session: &mut Session, ids: &[u32], n: usize) -> Vec<u32> {
    let mut next = argmax(session.prefill(0, ids).expect(WORKS));
    let mut generated = vec![next];
    while generated.len() < n {
        next = argmax(session.step(&[(0, next)]).expect(WORKS));
        generated.push(next);
    }
    generated
}

/// The same, chosen where the logits are.
///
/// # Panics
/// When the device fails.
pub fn continue_by_ids(session: &mut Session, ids: &[u32], n: usize) -> Vec<u32> {
    let start_token = session.spec().encoder.as_ref().map(|e| e.start_token);
    let mut next = match start_token {
        Some(start_token) => {
            session.encode(0, ids).expect(WORKS);
            session.greedy(0, &[start_token])
        }
        None => session.greedy(0, ids),
    };
    let mut generated = Vec::new();
    loop {
        generated.push(next.expect(WORKS));
        if generated.len() == n {
            return generated;
        }
        next = session.greedy(0, &generated[generated.len() - 1..]);
    }
}

/// Holds every golden model on devices that `device` makes to what the reference library computed. `LLM_RUN_GOLDENS` names
/// some, separated by commas.
///
/// # Panics
/// Where one is off.
pub fn check_goldens(device: &dyn Fn() -> Box<dyn Device>) {
    let named = std::env::var("LLM_RUN_GOLDENS").ok();
    let is_named = |name: &&str| {
        let mut named = named.iter().flat_map(|named| named.split(','));
        named.clone().next().is_none() || named.any(|other| other == *name)
    };
    for name in GOLDENS.into_iter().filter(is_named) {
        check_golden(name, device);
    }
}

/// The same of one of [`GOLDENS`].
///
/// # Panics
/// Where it is off.
pub fn check_golden(name: &str, device: &dyn Fn() -> Box<dyn Device>) {
    let (folder, expected) = golden(name);
    let model = BoundModel::open(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
    let model = if name == "falcon-rw-style" {
        with_distances_twice(model)
    } else {
        model
    };
    let open = |n_tokens| session_on(&*device(), &model, (DType::F32, None), 2, n_tokens);
    let is_off = |found: &[f32], expected: &[f32], how: &str| {
        let error = relative_error(found, expected);
        assert!(
            error <= GOLDEN_TOLERANCE,
            "{name}: {how} is off by {error:.1e}"
        );
    };
    let prompt = &expected.input_ids;
    let n_new = expected.generated.len();
    if let Some(ids) = &expected.decoder_input_ids {
        let mut session = open(64);
        session.encode(0, prompt).expect(WORKS);
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
        for continued in [continue_greedily, continue_by_ids] {
            session.truncate(0, 0);
            let found = continued(&mut session, prompt, n_new);
            assert_eq!(found, expected.generated, "{name}");
        }
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
            for continued in [continue_greedily, continue_by_ids] {
                session.truncate(0, 0);
                let found = continued(&mut session, prompt, n_new);
                assert_eq!(found, expected.generated, "{name} in passes of {n_tokens}");
            }
        }
    }
    two_sequences(&mut open(64), &expected, is_off);
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
        Checkpoint::open(model.checkpoint().path()).expect(WORKS),
        skeleton,
    )
    .expect(WORKS)
}

/// Two sequences stepped together as each alone; the second has another prompt of another length.
fn two_sequences(session: &mut Session, expected: &Golden, is_off: impl Fn(&[f32], &[f32], &str)) {
    let other: Vec<u32> = expected.input_ids.iter().rev().take(5).copied().collect();
    session.prefill(0, &expected.input_ids).expect(WORKS);
    session.prefill(1, &other).expect(WORKS);
    let lengths = [session.len(0), session.len(1)];
    let (a, b) = (expected.generated[0], other[0]);
    let together = session.step(&[(1, b), (0, a)]).expect(WORKS).to_vec();
    let fed = [&expected.input_ids[..], &other];
    for (sequence, len) in lengths.into_iter().enumerate() {
        take_back(session, sequence, len, fed[sequence]);
    }
    let alone = [
        session.step(&[(1, b)]).expect(WORKS).to_vec(),
        session.step(&[(0, a)]).expect(WORKS).to_vec(),
    ]
    .concat();
    is_off(&together, &alone, "a batch of two, against two runs,");
    for (sequence, len) in lengths.into_iter().enumerate() {
        take_back(session, sequence, len, fed[sequence]);
    }
    let ids = session.greedy_each(&[(1, &[b]), (0, &[a])]).expect(WORKS);
    let ids: Vec<u32> = ids.into_iter().map(|id| id.expect(WORKS)).collect();
    let logits = together.chunks_exact(together.len() / 2);
    assert_eq!(ids, logits.map(argmax).collect::<Vec<_>>());
}

const WORKS: &str = "a golden model loads and computes";
