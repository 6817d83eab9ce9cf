//! Drafts: several tokens a pass, of which an answer is made as if each came alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::path::Path;
use std::sync::Arc;

use llm_cpu::{Cpu, CpuOptions, FEW_ROWS};
use llm_engine::{
    Completion, DraftLength, DraftSource, Drafts, EndReason, EngineError, Generation, Length,
    Lookup, Settings, complete,
};
use llm_plan::WeightDType;
use llm_quant::{LoadIn, QuantConfig, Scalar};
use llm_runtime::{BoundModel, Limits, LoadOptions, Rules, RuntimeError, Sampling, Session, load};
use llm_tensor::DType;
use llm_tests::{fixture, published};
use llm_text::{SpecialTokens, Tokenizer};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn cpu() -> Cpu {
    Cpu::new(CpuOptions::default()).unwrap()
}

/// A session with room for as many drafts as a pass computes alike.
fn session(model: &BoundModel, (dtype, quant): (WeightDType, Option<&QuantConfig>)) -> Session {
    let spec = model.spec();
    let limits = Limits {
        n_sequences: 1,
        context: spec.context.min(64),
        // An encoder sees all of its prompt at once.
        n_tokens: 32,
        n_logits: FEW_ROWS,
    };
    let options = LoadOptions {
        dtype,
        quant,
        encoder: &Scalar,
        limits,
        offload: None,
    };
    load(model, &Arc::new(cpu()), &options, &mut |_| ()).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Ids that a small vocabulary has.
fn tokens(n: u32, step: u32) -> Vec<u32> {
    (0..n).map(|i| (i * step + 5) % 90).collect()
}

/// Every small model, with its path.
fn models() -> Vec<(String, BoundModel)> {
    let entries = std::fs::read_dir(fixture("models")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.join("config.json").is_file());
    paths.extend(published());
    paths.sort();
    let open = |path: &std::path::PathBuf| (path.display().to_string(), BoundModel::open(path));
    let opened = paths.iter().map(open);
    opened.map(|(path, model)| (path, model.unwrap())).collect()
}

/// A pass of several rows against as many passes of one.
fn check_pass(name: &str, session: &mut Session, n_passes: &mut usize) {
    let vocab = session.spec().vocab as u32;
    let of_vocab = |ids: Vec<u32>| -> Vec<u32> { ids.iter().map(|id| id % vocab).collect() };
    let prompt = of_vocab(tokens(19, 7));
    let n_rows = FEW_ROWS.min(session.limits().context - prompt.len());
    let ids = of_vocab(tokens(n_rows as u32, 13));
    session.prefill(0, &prompt).unwrap();
    let start = session.len(0);
    let alone: Vec<_> = ids
        .iter()
        .map(|&id| bits(session.step(&[(0, id)]).unwrap()))
        .collect();
    for n in [n_rows, 2, 5] {
        session.rewind(0, start).unwrap();
        // Positions may be told apart otherwise soon.
        let n = n.min(n_rows).min(session.draft_room(0) + 1);
        if n == 1 {
            continue;
        }
        *n_passes += 1;
        let rows = session.step_drafts(0, &ids[..n]).unwrap();
        for (row, logits) in rows.enumerate() {
            assert!(
                bits(logits.unwrap()) == alone[row],
                "{name}: row {row} of {n}"
            );
        }
        // What is rejected leaves nothing behind.
        session.rewind(0, start + 1).unwrap();
        let next = bits(session.step(&[(0, ids[1])]).unwrap());
        assert!(next == alone[1], "{name}: after {n} rows");
    }
}

#[test]
fn few_rows_of_a_pass_are_computed_as_each_is_alone() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let mut n_passes = 0;
    for (name, model) in &models() {
        let is_int8 = model.quantization().is_some();
        if model.spec().decoder.is_recurrent() || is_int8 {
            continue;
        }
        let as_stored = (WeightDType::Auto, None);
        check_pass(name, &mut session(model, as_stored), &mut n_passes);
        if model
            .tensors()
            .all(|bound| bound.stored().quantized().is_none())
        {
            for kept in [(DType::BF16, None), (DType::F32, Some(&nf4))] {
                let kept = (WeightDType::As(kept.0), kept.1);
                check_pass(name, &mut session(model, kept), &mut n_passes);
            }
        }
    }
    assert!(n_passes >= 700, "{n_passes} passes of several rows");
}

/// One who knows the answer, and does not always tell.
struct Liar {
    truth: Vec<u32>,
    /// Share of drafts that are right.
    honesty: f64,
    vocab: u32,
    rng: ChaCha8Rng,
}

impl Liar {
    fn new(truth: &[u32], honesty: f64, seed: u64) -> Box<Self> {
        Box::new(Liar {
            truth: truth.to_vec(),
            honesty,
            vocab: 90,
            rng: ChaCha8Rng::seed_from_u64(seed),
        })
    }

    fn is_honest(&mut self) -> bool {
        let share = (self.rng.next_u64() >> 11) as f64 * 2f64.powi(-53);
        share < self.honesty
    }
}

impl DraftSource for Liar {
    fn guess(&mut self, _: &[u32], answer: &[u32], most: usize, draft: &mut Vec<u32>) {
        let n = match self.is_honest() {
            true => most,
            false => self.rng.next_u32() as usize % (most + 1),
        };
        for i in 0..n {
            let lie = self.rng.next_u32() % self.vocab;
            let truth = self.truth.get(answer.len() + i).copied();
            let told = truth.filter(|_| self.is_honest());
            draft.push(told.unwrap_or(lie));
        }
    }
}

/// All that came of an answer, and what the sequence is afterwards.
#[derive(Debug, PartialEq)]
struct Outcome {
    ids: Vec<u32>,
    text: String,
    printed: String,
    end: EndReason,
    len: usize,
    /// Bits of the logits after one more token, where there is room.
    next: Vec<u32>,
}

fn answer(
    session: &mut Session,
    tokenizer: Option<&Tokenizer>,
    (prompt, settings): (&[u32], &Settings),
    drafts: Option<Drafts>,
) -> (Outcome, Completion) {
    session.truncate(0, 0);
    let generation = Generation::new(session.spec(), tokenizer, settings.clone(), prompt).unwrap();
    let generation = match drafts {
        Some(drafts) => generation.with_drafts(drafts),
        None => generation,
    };
    let mut printed = String::new();
    let print = &mut |piece: &str| {
        printed += piece;
        Ok::<_, EngineError>(())
    };
    let (completion, _) = complete(session, generation, prompt, print).unwrap();
    let len = session.len(0);
    let next = match len < session.limits().context {
        true => bits(session.step(&[(0, 7)]).unwrap()),
        false => Vec::new(),
    };
    let outcome = Outcome {
        ids: completion.ids.clone(),
        text: completion.text.clone(),
        printed,
        end: completion.end,
        len,
        next,
    };
    (outcome, completion)
}

fn settings(n_new: usize) -> Settings {
    Settings {
        sampling: Sampling::GREEDY,
        rules: Rules::default(),
        beams: None,
        seed: 0,
        length: Length::New(n_new),
        max_time: None,
        stop: Vec::new(),
        logprobs: None,
        constraint: None,
        start_token: None,
    }
}

fn drawn(n_new: usize, seed: u64) -> Settings {
    Settings {
        sampling: Sampling {
            temperature: 0.9,
            top_p: 0.95,
            ..Sampling::GREEDY
        },
        seed,
        ..settings(n_new)
    }
}

/// The bundled model.
fn demo() -> (BoundModel, Tokenizer) {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&package).join("../crates/llm-run/assets/demo");
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    (BoundModel::open(&folder).unwrap(), tokenizer)
}

const STORY: &str = "Once upon a time there was a dog. The dog liked to run. One day the dog";

#[test]
fn answers_of_every_kind_of_model_are_what_they_are_without_drafts() {
    for name in [
        "bloom",
        "deepseek-v2",
        "deepseek-v32-sparse",
        "deepseek-v4",
        "falcon-7b-style",
        "gemma2",
        "gemma3",
        "gemma3n",
        "gemma4-per-layer",
        "gpt-oss",
        "gpt2",
        "llama",
        "llama-rope-dynamic",
        "llama4",
        "mistral-sliding",
        "phi3-longrope-long",
        "phi3-longrope-short",
        "qwen3-moe",
        "t5-v1-style",
    ] {
        let model = BoundModel::open(&fixture("models").join(name)).unwrap();
        let mut session = session(&model, (WeightDType::Auto, None));
        let start_token = model.spec().encoder.as_ref().map(|e| e.start_token);
        // As far as the context goes, over borders of positions and around windows.
        for settings in [settings(64), drawn(64, 3)] {
            let settings = Settings {
                start_token,
                ..settings
            };
            let asked = (&tokens(11, 7)[..], &settings);
            let (plain, _) = answer(&mut session, None, asked, None);
            for (honesty, length) in [
                (1.0, DraftLength::Fixed(10)),
                (0.8, DraftLength::Fixed(7)),
                (0.5, DraftLength::Adaptive(10)),
            ] {
                let drafts = Drafts::new(Liar::new(&plain.ids, honesty, 5), length);
                let (found, completion) = answer(&mut session, None, asked, Some(drafts));
                assert_eq!(found, plain, "{name}, {honesty} of drafts right");
                let counts = completion.drafts.unwrap();
                let n_passes = counts.n_passes + counts.n_accepted;
                // Some of a pass's drafts may come after the end.
                assert!(n_passes + 1 >= plain.ids.len(), "{name}: {counts:?}");
                // A dynamic scaling tells positions apart otherwise at each length.
                if honesty == 1.0 && name != "llama-rope-dynamic" {
                    let most = plain.ids.len() / 2 + 2;
                    assert!(counts.n_passes <= most, "{name}: {counts:?}");
                }
            }
            let drafts = Drafts::new(Box::new(Lookup), DraftLength::Fixed(10));
            let (found, _) = answer(&mut session, None, asked, Some(drafts));
            assert_eq!(found, plain, "{name}, looked up");
        }
    }
}

#[test]
fn an_answer_ends_at_each_token_as_it_does_without_drafts() {
    let (model, tokenizer) = demo();
    let mut session = session(&model, (WeightDType::Auto, None));
    let prompt = tokenizer.encode(STORY, SpecialTokens::Add).unwrap();
    let whole = settings(40);
    let (whole, _) = answer(&mut session, Some(&tokenizer), (&prompt, &whole), None);
    let text = whole.text.clone();
    let ends: Vec<usize> = text.char_indices().map(|(i, c)| i + c.len_utf8()).collect();
    let mut cases: Vec<Settings> = (1..14).map(settings).collect();
    for window in ends.windows(3).step_by(7) {
        cases.push(Settings {
            stop: vec![text[window[0]..window[2]].to_owned()],
            ..settings(40)
        });
    }
    for &id in whole.ids.iter().take(12) {
        cases.push(Settings {
            rules: Rules {
                eos_ids: vec![id],
                min_new_tokens: 2,
                ..Rules::default()
            },
            ..settings(40)
        });
    }
    let mut n_ends = [0; EndReason::ALL.len()];
    for settings in &cases {
        let asked = (&prompt[..], settings);
        let (plain, _) = answer(&mut session, Some(&tokenizer), asked, None);
        n_ends[plain.end as usize] += 1;
        let mut drafts = vec![Drafts::new(Box::new(Lookup), DraftLength::Adaptive(10))];
        for most in [4, 10] {
            let liar = Liar::new(&whole.ids, 1.0, 1);
            drafts.push(Drafts::new(liar, DraftLength::Fixed(most)));
        }
        for drafts in drafts {
            let (found, _) = answer(&mut session, Some(&tokenizer), asked, Some(drafts));
            assert_eq!(found, plain, "{settings:?}");
        }
    }
    for end in [EndReason::Eos, EndReason::Stop, EndReason::Length] {
        assert!(n_ends[end as usize] > 3, "{n_ends:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_lie_changes_an_answer(
        seed in 0u64..1000,
        is_drawn: bool,
        penalty in prop::sample::select(vec![1.0f32, 1.3]),
        frequency in prop::sample::select(vec![0.0f32, 0.7]),
        ngram in prop::sample::select(vec![0usize, 2]),
        stop in prop::sample::select(vec!["", ".", " the"]),
        n_new in 1usize..40,
        honesty in prop::sample::select(vec![0.0, 0.3, 0.7, 0.95, 1.0]),
        most in 1usize..=10,
        is_adaptive: bool,
    ) {
        let (model, tokenizer) = demo();
        let mut session = session(&model, (WeightDType::Auto, None));
        let prompt = tokenizer.encode(STORY, SpecialTokens::Add).unwrap();
        let settings = Settings {
            rules: Rules {
                repetition_penalty: penalty,
                frequency_penalty: frequency,
                no_repeat_ngram_size: ngram,
                ..Rules::default()
            },
            stop: Some(stop.to_owned()).filter(|stop| !stop.is_empty()).into_iter().collect(),
            ..if is_drawn { drawn(n_new, seed) } else { settings(n_new) }
        };
        let asked = (&prompt[..], &settings);
        let (plain, _) = answer(&mut session, Some(&tokenizer), asked, None);
        let length = match is_adaptive {
            true => DraftLength::Adaptive(most),
            false => DraftLength::Fixed(most),
        };
        let drafts = Drafts::new(Liar::new(&plain.ids, honesty, seed), length);
        let (found, _) = answer(&mut session, Some(&tokenizer), asked, Some(drafts));
        prop_assert_eq!(found, plain);
    }
}

/// Draws the second token of an answer many times, with the drafts of a liar: as often as the model says.
#[test]
fn tokens_are_drawn_as_probable_as_they_are() {
    let model = BoundModel::open(&fixture("models/llama")).unwrap();
    let mut session = session(&model, (WeightDType::Auto, None));
    let prompt = tokens(9, 7);
    let sampling = Sampling {
        temperature: 0.5,
        top_k: 8,
        ..Sampling::GREEDY
    };
    let vocab = model.spec().vocab;
    // Of the pairs of first tokens, from the logits themselves.
    let chosen = |logits: &[f32]| -> Vec<(u32, f64)> {
        let mut all: Vec<_> = (0u32..).zip(logits.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let weights = all[..8].iter();
        let weights = weights.map(|&(id, x)| (id, (f64::from(x - all[0].1) / 0.5).exp()));
        let weights: Vec<_> = weights.collect();
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        weights
            .iter()
            .map(|(id, weight)| (*id, weight / sum))
            .collect()
    };
    let first = chosen(session.prefill(0, &prompt).unwrap());
    let mut expected = vec![0.0; vocab];
    let start = session.len(0);
    for (id, of_first) in first {
        session.rewind(0, start).unwrap();
        for (next, of_next) in chosen(session.step(&[(0, id)]).unwrap()) {
            expected[next as usize] += of_first * of_next;
        }
    }
    let n_draws = 1500;
    let likely: Vec<u32> = {
        let mut ids: Vec<u32> = (0..vocab as u32).collect();
        ids.sort_by(|&a, &b| expected[b as usize].total_cmp(&expected[a as usize]));
        ids[..3].to_vec()
    };
    let mut found = vec![0; vocab];
    let mut n_accepted = 0;
    for seed in 0..n_draws {
        let settings = Settings {
            sampling,
            seed,
            ..settings(3)
        };
        // The most probable of all at the second place: often right, and as often told.
        let liar = Liar::new(&[0, likely[seed as usize % 3], likely[0]], 0.9, seed);
        let drafts = Drafts::new(liar, DraftLength::Fixed(2));
        let (outcome, completion) = answer(&mut session, None, (&prompt, &settings), Some(drafts));
        found[outcome.ids[1] as usize] += 1;
        n_accepted += completion.drafts.unwrap().n_accepted;
    }
    assert!(n_accepted > 80, "{n_accepted} drafts were right");
    for (id, (&found, expected)) in found.iter().zip(expected).enumerate() {
        // Five standard deviations.
        let mean = n_draws as f64 * expected;
        let bound = 5.0 * (mean * (1.0 - expected)).sqrt() + 1e-9;
        let off = (f64::from(found) - mean).abs();
        assert!(
            off <= bound,
            "token {id}: {found} times, {mean:.1} expected"
        );
    }
}

#[test]
fn a_draft_whose_values_are_no_numbers_harms_nobody() {
    let mut variant = llm_tests::Variant::of(&fixture("models/llama"));
    let table = "model.embed_tokens.weight";
    let (shape, elements) = variant.tensors.get_mut(table).unwrap();
    let (bad, width) = (89, shape[1] as usize);
    elements[bad * width..(bad + 1) * width].fill(f32::NAN);
    let folder = variant.write();
    let model = BoundModel::open(folder.path()).unwrap();
    let mut session = session(&model, (WeightDType::Auto, None));
    // The bad token is drafted after one that is right, and after that no more.
    struct Bad(Vec<u32>);
    impl DraftSource for Bad {
        fn guess(&mut self, _: &[u32], answer: &[u32], _: usize, draft: &mut Vec<u32>) {
            draft.extend(self.0.get(answer.len()));
            draft.extend([89, 3]);
        }
    }
    let rules = Rules {
        suppress: vec![89],
        ..Rules::default()
    };
    for settings in [settings(20), drawn(20, 4)] {
        let settings = Settings {
            rules: rules.clone(),
            ..settings
        };
        let prompt = tokens(9, 7);
        let (plain, _) = answer(&mut session, None, (&prompt, &settings), None);
        let drafts = Drafts::new(Box::new(Bad(plain.ids.clone())), DraftLength::Fixed(4));
        let (found, _) = answer(&mut session, None, (&prompt, &settings), Some(drafts));
        assert_eq!(found, plain);
    }
    // Where it is chosen, the answer fails as ever.
    let forced = Settings {
        rules: Rules {
            sequence_bias: vec![(vec![89], 1e4)],
            ..Rules::default()
        },
        ..settings(20)
    };
    let prompt = tokens(9, 7);
    let mut fail = |drafts: Option<Drafts>| {
        session.truncate(0, 0);
        let generation = Generation::new(session.spec(), None, forced.clone(), &prompt).unwrap();
        let generation = match drafts {
            Some(drafts) => generation.with_drafts(drafts),
            None => generation,
        };
        let print = &mut |_: &str| Ok::<_, EngineError>(());
        let error = complete(&mut session, generation, &prompt, print).unwrap_err();
        let is_it = matches!(error.of_runtime(), Some(RuntimeError::NotFinite { .. }));
        assert!(is_it, "{error}");
        (error.to_string(), session.len(0))
    };
    let plain = fail(None);
    let bad = Drafts::new(Box::new(Bad(vec![89; 9])), DraftLength::Fixed(4));
    assert_eq!(fail(Some(bad)), plain);
}

#[test]
fn models_whose_layers_keep_states_have_no_room_for_drafts() {
    let model = BoundModel::open(&fixture("models/lfm2")).unwrap();
    let mut session = session(&model, (WeightDType::Auto, None));
    session.prefill(0, &tokens(9, 7)).unwrap();
    assert_eq!(session.draft_room(0), 0);
    let drafts = Drafts::new(Box::new(Lookup), DraftLength::Fixed(4));
    let asked = (&tokens(9, 7)[..], &settings(9));
    let (plain, _) = answer(&mut session, None, asked, None);
    let (found, completion) = answer(&mut session, None, asked, Some(drafts));
    assert_eq!(found, plain);
    assert_eq!(completion.drafts.unwrap().n_drafted, 0);
}
