//! Logits of sequences that grow and shrink in a session: the same as of each from its beginning. And why some have
//! none.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]
#![allow(
    clippy::result_large_err,
    reason = "nothing here is called so often that the size of its errors matters"
)]

use llm_arch::{Side, Unit};
use llm_backend::Reference;
use llm_cpu::Cpu;
use llm_quant::{LoadIn, QuantConfig};
use llm_runtime::{BoundModel, NotFinite, RuntimeError, Session};
use llm_tensor::DType;
use llm_tests::{Variant, argmax, fixture, quantized_session, relative_error, session};
use serde_json::Value;

/// A model whose long sequences are told apart by other wavelengths than its short ones.
fn long_rope(border: usize) -> Variant {
    let mut model = Variant::of(&fixture("faults/phi3-longrope/model"));
    model.set("original_max_position_embeddings", border);
    let rope = model.config.get_mut("rope_parameters").unwrap();
    rope["original_max_position_embeddings"] = Value::from(border);
    model
}

fn open(model: &Variant) -> BoundModel {
    BoundModel::open(model.write().path()).unwrap()
}

fn sessions(model: &BoundModel, n_tokens: usize) -> Session {
    session(Reference::default(), model, DType::F32, 3, n_tokens)
}

/// Logits after the last of `ids`, all read at once.
fn at_once(session: &mut Session, ids: &[u32]) -> Vec<f32> {
    session.truncate(2, 0);
    session.prefill(2, ids).unwrap().to_vec()
}

fn is_close(found: &[f32], expected: &[f32], what: &str) {
    let error = relative_error(found, expected);
    assert!(error <= 1e-6, "{what} is off by {error:.1e}");
}

const PROMPT: [u32; 14] = [40, 80, 19, 63, 7, 33, 12, 44, 88, 58, 52, 90, 80, 74];

#[test]
fn keys_do_not_outlive_the_border_that_they_were_made_for() {
    for border in [2, 7, 13, 14, 15, 16, 20, 23, 64] {
        let model = open(&long_rope(border));
        let mut whole = sessions(&model, 64);
        for n_tokens in [3, 64] {
            let mut session = sessions(&model, n_tokens);
            let mut ids = PROMPT.to_vec();
            let mut logits = session.prefill(0, &ids).unwrap().to_vec();
            for _ in 0..12 {
                let what = format!("border {border}, {} of {n_tokens}", ids.len());
                is_close(&logits, &at_once(&mut whole, &ids), &what);
                let id = argmax(&logits);
                ids.push(id);
                logits = session.step(&[(0, id)]).unwrap().to_vec();
                assert_eq!(session.len(0), ids.len(), "{what}");
            }
        }
    }
}

/// Blocks of keys and values are shared until either writes to them, in rings that went round as elsewhere.
#[test]
fn forks_go_their_own_ways_and_lead_back() {
    for name in ["models/llama", "models/gemma3", "models/mistral-sliding"] {
        let model = BoundModel::open(&fixture(name)).unwrap();
        let mut whole = sessions(&model, 64);
        let mut session = sessions(&model, 3);
        let mut ids = [PROMPT.to_vec(), Vec::new()];
        session.prefill(0, &ids[0]).unwrap();
        session.fork(0, 1).unwrap();
        ids[1] = ids[0].clone();
        // What is to be come back to.
        session.fork(0, 2).unwrap();
        for step in 0..20 {
            let next = [5 + step, 50 - step];
            let items = [(0, &next[..1]), (1, &next[1..])];
            let found = match step % 3 {
                0 => session.advance(&items).unwrap().to_vec(),
                _ => {
                    let mut one = |i: usize| session.advance(&items[i..=i]).unwrap().to_vec();
                    [one(0), one(1)].concat()
                }
            };
            for (i, found) in found.chunks_exact(model.spec().vocab).enumerate() {
                ids[i].push(next[i]);
                let what = format!("{name}: fork {i} after {step}");
                is_close(found, &at_once(&mut whole, &ids[i]), &what);
            }
        }
        session.fork(2, 0).unwrap();
        assert_eq!(session.len(0), PROMPT.len(), "{name}");
        let found = session.advance(&[(0, &[9, 8, 7, 6])]).unwrap().to_vec();
        let again = [&PROMPT[..], &[9, 8, 7, 6]].concat();
        is_close(&found, &at_once(&mut whole, &again), name);
        // The other went on undisturbed.
        let found = session.advance(&[(1, &[3])]).unwrap().to_vec();
        ids[1].push(3);
        is_close(&found, &at_once(&mut whole, &ids[1]), name);
    }
}

#[test]
fn each_sequence_of_a_batch_crosses_the_border_by_itself() {
    let model = open(&long_rope(16));
    let (mut session, mut whole) = (sessions(&model, 5), sessions(&model, 64));
    let mut ids = [PROMPT.to_vec(), PROMPT[3..12].to_vec()];
    for sequence in [0, 1] {
        session.prefill(sequence, &ids[sequence]).unwrap();
    }
    for step in 0..12 {
        let next: Vec<_> = [0, 1].map(|sequence| (sequence, 11 + step)).to_vec();
        ids.iter_mut().for_each(|ids| ids.push(11 + step));
        let logits = session.step(&next).unwrap().to_vec();
        let vocab = model.spec().vocab;
        for (ids, logits) in ids.iter().zip(logits.chunks_exact(vocab)) {
            let what = format!("step {step} of {}", ids.len());
            is_close(logits, &at_once(&mut whole, ids), &what);
        }
    }
}

#[test]
fn pieces_of_a_prompt_are_read_as_all_of_it() {
    for (what, model) in [
        ("border", long_rope(16)),
        ("dynamic", {
            let mut model = Variant::of(&fixture("models/llama-rope-dynamic"));
            model.set("max_position_embeddings", 16);
            model
        }),
    ] {
        let model = open(&model);
        let ids: Vec<u32> = (3..33).collect();
        let mut whole = sessions(&model, 64);
        let expected = at_once(&mut whole, &ids);
        let mut session = sessions(&model, 4);
        is_close(session.prefill(0, &ids).unwrap(), &expected, what);
        // In several calls, if that is said.
        session.expect(1, ids.len());
        session.advance(&[(1, &ids[..7])]).unwrap();
        session.advance(&[(1, &ids[7..9])]).unwrap();
        let found = session.advance(&[(1, &ids[9..])]).unwrap();
        is_close(found, &expected, what);
        // Scored, every position is of the whole.
        let mut scored = [Vec::new(), Vec::new()];
        for (session, scored) in [&mut session, &mut whole].into_iter().zip(&mut scored) {
            session.truncate(0, 0);
            let collect = |_, logits: &[f32]| -> Result<(), Box<RuntimeError>> {
                scored.extend_from_slice(logits);
                Ok(())
            };
            session.score(0, &ids, collect).unwrap();
        }
        is_close(&scored[0], &scored[1], what);
    }
}

#[test]
fn what_is_taken_back_crosses_the_border_back() {
    let model = open(&long_rope(16));
    let (mut session, mut whole) = (sessions(&model, 5), sessions(&model, 64));
    let ids: Vec<u32> = (3..27).collect();
    session.prefill(0, &ids).unwrap();
    // Down to fewer than the border, on to fewer, on to more, down to more, and on.
    let mut held = ids;
    for (kept, fed) in [(10, 3), (13, 1), (14, 6), (18, 2), (5, 1), (6, 20)] {
        assert_eq!(session.truncate(0, kept), kept);
        held.truncate(kept);
        let new: Vec<u32> = (50..50 + fed).collect();
        held.extend(&new);
        let found = session.advance(&[(0, &new)]).unwrap().to_vec();
        let what = format!("{kept} and {fed}");
        is_close(&found, &at_once(&mut whole, &held), &what);
        // Scoring what follows begins as anything that follows does.
        assert_eq!(session.len(0), held.len(), "{what}");
    }
    session.truncate(0, 12);
    held.truncate(12);
    let new: Vec<u32> = (60..70).collect();
    held.extend(&new);
    let mut last = (0, Vec::new());
    let collect = |i, logits: &[f32]| -> Result<(), Box<RuntimeError>> {
        last = (i, logits.to_vec());
        Ok(())
    };
    session.score(0, &new, collect).unwrap();
    assert_eq!(last.0, 9);
    is_close(&last.1, &at_once(&mut whole, &held), "scored");
}

/// Cause of a prompt without logits.
fn cause(model: &Variant, kept: (DType, Option<&QuantConfig>), n_tokens: usize) -> NotFinite {
    let folder = model.write();
    let model = BoundModel::open(folder.path()).unwrap();
    let cpu = Cpu::new(Default::default()).unwrap();
    let mut session = quantized_session(cpu, &model, kept, 2, n_tokens);
    // Nothing is wrong with a token whose vector is finite.
    let ids = [3, 1, 4, 1, 5, 9, 2];
    if session.spec().encoder.is_none() {
        let told = session.prefill(1, &ids).unwrap_err().to_string();
        session.truncate(1, 0);
        // Who asks for ids alone is told the same.
        assert_eq!(session.greedy(1, &ids).unwrap_err().to_string(), told);
        session.truncate(1, 0);
        let outcomes = session.greedy_each(&[(1, &ids)]).unwrap();
        let errors: Vec<_> = outcomes
            .into_iter()
            .map(|id| id.unwrap_err().to_string())
            .collect();
        assert_eq!(errors, [told]);
        session.truncate(1, 0);
    }
    match session.prefill(1, &ids) {
        Err(RuntimeError::NotFinite { cause }) => *cause,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("finite"),
    }
}

#[test]
fn a_number_that_is_none_is_traced_to_its_tensor() {
    let plain = [
        ("llama", "model.layers.1.mlp.down_proj.weight", f32::NAN),
        (
            "llama",
            "model.layers.2.input_layernorm.weight",
            f32::INFINITY,
        ),
        ("llama", "model.norm.weight", f32::NAN),
        ("llama", "lm_head.weight", f32::NAN),
        ("llama", "model.embed_tokens.weight", f32::NEG_INFINITY),
        ("gpt2", "transformer.h.1.attn.c_attn.weight", f32::NAN),
        ("gpt2", "transformer.h.0.mlp.c_fc.bias", f32::NAN),
        (
            "mixtral",
            "model.layers.1.block_sparse_moe.gate.weight",
            f32::NAN,
        ),
        (
            "t5-v1-style",
            "encoder.block.1.layer.0.SelfAttention.k.weight",
            f32::NAN,
        ),
        ("t5-v1-style", "encoder.final_layer_norm.weight", f32::NAN),
        (
            "t5-v1-style",
            "decoder.block.1.layer.1.EncDecAttention.v.weight",
            f32::NAN,
        ),
    ];
    for (name, tensor, value) in plain {
        for n_tokens in [2, 64] {
            if name.starts_with("t5") && n_tokens == 2 {
                continue;
            }
            let mut model = Variant::of(&fixture("models").join(name));
            let (shape, elements) = model.tensors.get_mut(tensor).unwrap();
            // Of a table the row of a token that is in the prompt, and in the first pass alone.
            let at = match tensor.contains("embed_tokens") {
                true => 3 * shape[1] as usize + 5,
                false => elements.len() / 2,
            };
            elements[at] = value;
            let found = cause(&model, (DType::F32, None), n_tokens);
            let is_it = matches!(&found, NotFinite::Stored { tensor: t, value: v, path }
                if t == tensor && v.to_bits() == value.to_bits() && path.ends_with("model.safetensors"));
            assert!(is_it, "{name}: {found:?}");
            let message = found.to_string();
            assert!(!message.contains("--dtype"), "{message}");
        }
    }
    // A token that is not there is not to blame.
    let mut model = Variant::of(&fixture("models/llama"));
    let (shape, elements) = model.tensors.get_mut("model.embed_tokens.weight").unwrap();
    elements[100 * shape[1] as usize] = f32::NAN;
    let (_, elements) = model
        .tensors
        .get_mut("model.layers.1.mlp.up_proj.weight")
        .unwrap();
    elements[7] = f32::NAN;
    let found = cause(&model, (DType::F32, None), 64);
    assert!(
        matches!(&found, NotFinite::Stored { tensor, .. } if tensor.ends_with("up_proj.weight")),
        "{found:?}"
    );
}

#[test]
fn what_overflows_is_said_with_what_holds_more() {
    let with = |tensor: &str, value: f32| {
        let mut model = Variant::of(&fixture("models/llama"));
        let (_, elements) = model.tensors.get_mut(tensor).unwrap();
        elements.fill(value);
        model
    };
    let norm = "model.layers.1.post_attention_layernorm.weight";
    let found = cause(&with(norm, 1e5), (DType::F16, None), 64);
    let is_it = matches!(&found, NotFinite::TooLarge { tensor, value: 1e5, dtype: DType::F16, .. } if tensor == norm);
    assert!(is_it, "{found:?}");
    assert!(found.to_string().contains("--dtype bf16"), "{found}");

    // Finite factors, infinite products.
    let layer = Unit::Layer(Side::Decoder, 1);
    for (dtype, advice) in [(DType::F32, false), (DType::BF16, true)] {
        let found = cause(&with(norm, 3e38), (dtype, None), 64);
        let is_it =
            matches!(found, NotFinite::Made { unit, dtype: d } if unit == layer && d == dtype);
        assert!(is_it, "{found:?}");
        let message = found.to_string();
        assert_eq!(message.contains("--dtype f32"), advice, "{message}");
        assert!(message.contains("layer 1"), "{message}");
    }
    // Where projections are quantized a norm may be at fault as well.
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let found = cause(&with(norm, f32::NAN), (DType::F32, Some(&nf4)), 64);
    assert!(
        matches!(&found, NotFinite::Stored { tensor, .. } if tensor == norm),
        "{found:?}"
    );
}

#[test]
fn one_sequence_alone_has_what_is_wrong_with_it() {
    let mut model = Variant::of(&fixture("models/llama"));
    let (shape, elements) = model.tensors.get_mut("model.embed_tokens.weight").unwrap();
    elements[100 * shape[1] as usize] = f32::NAN;
    let model = open(&model);
    let mut session = sessions(&model, 4);
    let (good, bad, other) = ([3, 1, 4, 1, 5], [3, 100, 4], [2, 7]);
    let expected = at_once(&mut session, &good);
    let items: [(usize, &[u32]); 3] = [(0, &good), (1, &bad), (2, &other)];
    session.truncate(2, 0);
    let outcomes = session.advance_each(&items).unwrap();
    assert_eq!(outcomes.len(), 3);
    is_close(outcomes[0].as_ref().unwrap(), &expected, "the first");
    assert!(
        matches!(&outcomes[1], Err(RuntimeError::NotFinite { cause }) if cause.to_string().contains("embed_tokens")),
        "{:?}",
        outcomes[1]
    );
    outcomes[2].as_ref().unwrap();
    // The others go on, and its place serves another.
    session.truncate(1, 0);
    let next: [(usize, &[u32]); 2] = [(0, &[9]), (1, &good)];
    let outcomes = session.advance_each(&next).unwrap();
    is_close(outcomes[1].as_ref().unwrap(), &expected, "the next");
    let error = session.advance(&[(2, &[100])]).unwrap_err();
    assert!(error.to_string().contains("NaN"), "{error}");
}
