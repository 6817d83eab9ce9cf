//! Sequences that go back: to what windows still hold, and to marks. Their logits are those of sequences that never went
//! elsewhere.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::sync::Arc;

use llm_backend::{Backend, Reference};
use llm_conformance::Deferred;
use llm_cpu::Cpu;
use llm_plan::WeightDType;
use llm_quant::Scalar;
use llm_runtime::{BoundModel, Limits, LoadOptions, Mark, RuntimeError, Session, load};
use llm_tensor::DType;
use llm_tests::{Variant, fixture, relative_error, session};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Rows of a pass.
const N_TOKENS: usize = 3;

const PROMPT: [u32; 14] = [40, 80, 19, 63, 7, 33, 12, 44, 88, 58, 52, 90, 80, 74];

fn cpu() -> Cpu {
    Cpu::new(Default::default()).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// What follows the prompt, and what follows that instead.
fn tokens(n: u32, step: u32) -> Vec<u32> {
    (0..n).map(|i| (i * step + 5) % 90).collect()
}

/// Logits after each of three pieces.
fn follow(session: &mut Session) -> Vec<u32> {
    let pieces = [tokens(1, 1), tokens(7, 11), tokens(20, 13)];
    let logits = |ids: &Vec<u32>| bits(session.advance(&[(0, ids)]).unwrap());
    pieces.iter().flat_map(logits).collect()
}

fn check_mark<B: Backend>(name: &str, backend: impl Fn() -> B) {
    let model = BoundModel::open(&fixture(name)).unwrap();
    let sessions = || session(backend(), &model, DType::F32, 3, N_TOKENS);
    let mut fresh = sessions();
    fresh.prefill(0, &PROMPT).unwrap();
    let expected = follow(&mut fresh);

    let mut session = sessions();
    session.prefill(0, &PROMPT).unwrap();
    let mark = session.mark(0, 2).unwrap();
    // Where a mark finds no room none is made, and nothing else changes.
    session.prefill(1, &PROMPT[..4]).unwrap();
    let refused = session.mark(0, 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "sequence 1 cannot keep a mark: it has 4 positions of its own"
    );
    for n in [60, 1, 9] {
        // Further than any window, and than none.
        session.advance(&[(0, &tokens(n, 7))]).unwrap();
        session.advance(&[(1, &tokens(9, 3))]).unwrap();
        session.return_to(&mark).unwrap();
        assert_eq!(session.len(0), PROMPT.len(), "{name}");
        assert!(follow(&mut session) == expected, "{name} after {n}");
        // As often as it is gone back to, from an empty sequence too.
        session.truncate(0, 0);
    }
    session.release(mark);
    assert_eq!(session.len(2), 0, "{name}");
    // All blocks are there for sequences as long as they may be.
    let context = model.spec().context;
    let all = tokens(context as u32, 17);
    for sequence in 0..3 {
        session.truncate(sequence, 0);
        session.advance(&[(sequence, &all)]).unwrap();
    }
    let found = session.mark(0, 1).unwrap_err();
    assert!(matches!(
        found,
        RuntimeError::KeeperTaken { keeper: 1, n_taken } if n_taken == context
    ));
}

#[test]
fn a_mark_leads_back_where_windows_went_round() {
    for name in [
        "models/gemma3",
        "models/gemma4-per-layer",
        "models/mistral-sliding",
        "models/llama",
        "models/lfm2",
        "models/lfm2-biases",
    ] {
        check_mark(name, Reference::new);
        check_mark(name, cpu);
        for seed in 0..3 {
            check_mark(name, || Deferred::new(seed));
        }
    }
}

#[test]
fn an_encoders_prompt_is_kept_by_a_mark() {
    let model = BoundModel::open(&fixture("models/t5-v1-style")).unwrap();
    let mut session = session(Reference::new(), &model, DType::F32, 2, 32);
    session.prefill(0, &PROMPT).unwrap();
    let mark = session.mark(0, 1).unwrap();
    let expected = bits(session.step(&[(0, 9)]).unwrap());
    session.prefill(0, &PROMPT[5..]).unwrap();
    session.return_to(&mark).unwrap();
    assert_eq!(bits(session.step(&[(0, 9)]).unwrap()), expected);
}

#[test]
fn what_windows_let_go_of_is_refused() {
    let model = BoundModel::open(&fixture("models/gemma3")).unwrap();
    let sessions = || session(Reference::new(), &model, DType::F32, 1, N_TOKENS);
    let (mut session, mut fresh) = (sessions(), sessions());
    session.prefill(0, &PROMPT).unwrap();
    fresh.prefill(0, &PROMPT).unwrap();
    for len in 1..PROMPT.len() - N_TOKENS {
        let error = session.rewind(0, len).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "sequence 0 cannot go back from 14 positions to {len}: windows or states that the next position needs are \
                 written over; only a mark keeps them"
            )
        );
        assert_eq!(session.len(0), PROMPT.len());
    }
    // The sequence is as it was.
    assert_eq!(follow(&mut session), follow(&mut fresh));
    // As much as a pass has rows, and all of it.
    let len = session.len(0);
    session.rewind(0, len - N_TOKENS).unwrap();
    assert_eq!(session.len(0), len - N_TOKENS);
    session.rewind(0, 0).unwrap();
    assert_eq!(session.len(0), 0);
}

/// States that are written over: a sequence goes on from where they are, or from its beginning.
#[test]
fn what_states_have_taken_in_is_not_taken_out_again() {
    let model = BoundModel::open(&fixture("models/lfm2")).unwrap();
    let sessions = || session(Reference::new(), &model, DType::F32, 2, N_TOKENS);
    let (mut session, mut fresh) = (sessions(), sessions());
    session.prefill(0, &PROMPT).unwrap();
    fresh.prefill(0, &PROMPT).unwrap();
    for len in 1..PROMPT.len() {
        let error = session.rewind(0, len).unwrap_err();
        let expected = format!("sequence 0 cannot go back from 14 positions to {len}: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    session.rewind(0, PROMPT.len()).unwrap();
    // Both go on from there, and neither from what the other does.
    session.fork(0, 1).unwrap();
    let expected = follow(&mut fresh);
    session.advance(&[(1, &tokens(9, 5))]).unwrap();
    assert_eq!(follow(&mut session), expected);
    assert_eq!(session.truncate(0, 20), 0);
    session.prefill(0, &PROMPT).unwrap();
    assert_eq!(follow(&mut session), expected);
}

/// A pass that ends in the middle leaves states of some layers that are of no sequence.
#[test]
fn a_sequence_is_empty_after_a_pass_that_was_cut_short() {
    let model = BoundModel::open(&fixture("models/lfm2")).unwrap();
    let mut session = session(Reference::new(), &model, DType::F32, 2, 4);
    session.prefill(0, &PROMPT[..3]).unwrap();
    let expected = bits(session.advance(&[(0, &PROMPT[3..5])]).unwrap());
    session.truncate(0, 0);
    session.prefill(0, &PROMPT[..3]).unwrap();
    session.interrupt().raise();
    let error = session.advance(&[(0, &PROMPT[3..5])]).unwrap_err();
    assert!(matches!(error, RuntimeError::Interrupted), "{error}");
    session.interrupt().clear();
    assert_eq!(session.len(0), 0);
    session.prefill(0, &PROMPT[..3]).unwrap();
    let found = bits(session.advance(&[(0, &PROMPT[3..5])]).unwrap());
    assert_eq!(found, expected);
}

/// Token whose vector is no number.
const FLAWED: u32 = 95;

/// A session and what its sequences are to hold.
struct Walk {
    session: Session,
    /// Reads sequences from their beginning.
    whole: Session,
    held: Vec<Vec<u32>>,
    marks: Vec<(Mark, usize, usize)>,
    rng: ChaCha8Rng,
    what: String,
}

impl Walk {
    fn below(&mut self, n: usize) -> usize {
        self.rng.next_u32() as usize % n
    }

    /// A sequence that keeps no mark.
    fn free(&mut self) -> usize {
        loop {
            let sequence = self.below(self.held.len());
            if self.marks.iter().all(|(_, _, keeper)| *keeper != sequence) {
                return sequence;
            }
        }
    }

    fn ids(&mut self) -> Vec<u32> {
        let n = match self.below(3) {
            0 => 1,
            1 => 1 + self.below(2 * N_TOKENS),
            _ => 1 + self.below(40),
        };
        let mut ids: Vec<_> = (0..n).map(|_| self.below(70) as u32).collect();
        if self.below(12) == 0 {
            let at = self.below(n);
            ids[at] = FLAWED;
        }
        ids
    }

    fn is_held(&mut self, sequence: usize, logits: &[f32]) {
        self.whole.truncate(0, 0);
        let expected = self.whole.prefill(0, &self.held[sequence]).unwrap();
        let error = relative_error(logits, expected);
        assert!(error <= 1e-5, "{}: off by {error:.1e}", self.what);
    }

    fn feed(&mut self) {
        let mut items: Vec<(usize, Vec<u32>)> = Vec::new();
        for _ in 0..=self.below(3) {
            let (sequence, ids) = (self.free(), self.ids());
            if items.iter().all(|(earlier, _)| *earlier != sequence) {
                items.push((sequence, ids));
            }
        }
        // Some are interrupted, and at times the pass itself.
        let interrupted = self.below(8);
        let is_interrupted = self.below(8) == 0;
        self.session.interrupt_of(interrupted % 4).raise();
        if interrupted >= 4 {
            self.session.interrupt_of(interrupted % 4).clear();
        }
        if is_interrupted {
            self.session.interrupt().raise();
        }
        let fed: Vec<_> = items.iter().map(|(n, ids)| (*n, ids.as_slice())).collect();
        let outcomes: Vec<Result<Vec<f32>, RuntimeError>> = match self.session.advance_each(&fed) {
            Ok(outcomes) => outcomes
                .into_iter()
                .map(|o| o.map(<[f32]>::to_vec))
                .collect(),
            Err(error) => {
                assert!(is_interrupted && matches!(error, RuntimeError::Interrupted));
                fed.iter().map(|_| Err(RuntimeError::Interrupted)).collect()
            }
        };
        self.session.interrupt().clear();
        self.session.interrupt_of(interrupted % 4).clear();
        let context = self.session.limits().context;
        for ((sequence, ids), outcome) in items.into_iter().zip(outcomes) {
            let (n_held, n_ids) = (self.held[sequence].len(), ids.len());
            let is_flawed = ids.contains(&FLAWED);
            self.held[sequence].extend(ids);
            match outcome {
                Ok(logits) => {
                    assert_eq!(self.session.len(sequence), n_held + n_ids);
                    // A kernel may multiply what is masked by nought.
                    if !is_flawed {
                        self.is_held(sequence, &logits);
                    }
                }
                Err(error) => {
                    let n_left = match error {
                        RuntimeError::NotFinite { .. } if is_flawed => n_held,
                        RuntimeError::ContextFull { .. } if n_held + n_ids > context => n_held,
                        RuntimeError::Interrupted => n_held + n_ids,
                        error => panic!("{}: {error}", self.what),
                    };
                    // What is left of it is what it was.
                    let len = self.session.len(sequence);
                    assert!(len <= n_left, "{}: {len} of {n_left}", self.what);
                    self.held[sequence].truncate(len);
                }
            }
            // Windows have passed it, or an interrupt came before its logits.
            if self.held[sequence].contains(&FLAWED) {
                self.session.truncate(sequence, 0);
                self.held[sequence].clear();
            }
        }
    }

    fn step(&mut self) {
        let n_free = self.held.len() - self.marks.len();
        match self.below(10) {
            0 => {
                let sequence = self.free();
                let n_held = self.held[sequence].len();
                let len = n_held - self.below(n_held + 1).min(self.below(2 * N_TOKENS + 1));
                match self.session.rewind(sequence, len) {
                    Ok(()) => self.held[sequence].truncate(len),
                    Err(RuntimeError::PositionsGone { .. }) => {}
                    Err(error) => panic!("{}: {error}", self.what),
                }
            }
            1 => {
                let sequence = self.free();
                let len = self.below(self.held[sequence].len() + 1);
                let kept = self.session.truncate(sequence, len);
                assert!(kept == len || kept == 0, "{}", self.what);
                self.held[sequence].truncate(kept);
            }
            2 | 3 if n_free > 1 => {
                let (from, to) = (self.below(self.held.len()), self.free());
                if from != to {
                    self.session.fork(from, to).unwrap();
                    self.held[to] = self.held[from].clone();
                }
            }
            4 if n_free > 2 => {
                let (from, keeper) = (self.free(), self.free());
                if from != keeper {
                    self.session.truncate(keeper, 0);
                    let mark = self.session.mark(from, keeper).unwrap();
                    self.held[keeper] = self.held[from].clone();
                    self.marks.push((mark, from, keeper));
                }
            }
            5 if !self.marks.is_empty() => {
                let at = self.below(self.marks.len());
                let (mark, sequence, keeper) = &self.marks[at];
                if self.marks.iter().all(|(_, _, other)| other != sequence) {
                    self.session.return_to(mark).unwrap();
                    self.held[*sequence] = self.held[*keeper].clone();
                }
            }
            6 if !self.marks.is_empty() => {
                let at = self.below(self.marks.len());
                let (mark, _, keeper) = self.marks.swap_remove(at);
                self.session.release(mark);
                self.held[keeper].clear();
            }
            _ => self.feed(),
        }
        for (sequence, held) in self.held.iter().enumerate() {
            assert_eq!(self.session.len(sequence), held.len(), "{}", self.what);
        }
    }
}

/// A model with a token that makes no numbers.
fn flawed(name: &str) -> Variant {
    let mut model = Variant::of(&fixture(name));
    let tables = ["embed_tokens.weight", "embeddings.weight"];
    let is_table = |name: &&String| tables.iter().any(|table| name.ends_with(table));
    let table = model.tensors.keys().find(is_table).unwrap().clone();
    if !model.tensors.contains_key("lm_head.weight") {
        // The head goes on as it was.
        let head = model.tensors[&table].clone();
        model.tensors.insert("lm_head.weight".into(), head);
        model.set("tie_word_embeddings", false);
    }
    let (shape, elements) = model.tensors.get_mut(&table).unwrap();
    elements[FLAWED as usize * shape[1] as usize] = f32::NAN;
    model
}

fn open(model: &Variant) -> BoundModel {
    BoundModel::open(model.write().path()).unwrap()
}

/// The search for the cause of what is not finite reads tokens anew, whose windows may be gone.
#[test]
fn what_is_left_of_a_flawed_item_is_what_it_was() {
    for n_good in [1, 2, 8, 30] {
        let model = open(&flawed("models/gemma3"));
        let sessions = || session(Reference::new(), &model, DType::F32, 1, N_TOKENS);
        let (mut session, mut fresh) = (sessions(), sessions());
        let mut held = tokens(50, 7);
        session.prefill(0, &held).unwrap();
        let item = [tokens(n_good, 3), vec![FLAWED]].concat();
        let error = session.advance(&[(0, &item)]).unwrap_err();
        assert!(matches!(error, RuntimeError::NotFinite { .. }), "{error}");
        // All but what is flawed, if it is there.
        held.extend(&item[..n_good as usize]);
        let n_left = session.len(0).min(held.len());
        let kept = session.truncate(0, n_left);
        held.truncate(kept);
        // What was before the item can be kept where a pass reads it anew.
        assert!(kept >= 50 || n_good >= 8, "{n_good}: {kept}");
        let next = tokens(5, 9);
        held.extend(&next);
        let expected = fresh.prefill(0, &held).unwrap().to_vec();
        let found = session.advance(&[(0, &next)]).unwrap();
        let error = relative_error(found, &expected);
        assert!(error <= 1e-6, "{n_good}: off by {error:.1e}");
    }
}

#[test]
fn all_flawed_sequences_of_a_pass_are_taken_back() {
    let model = open(&flawed("models/llama"));
    let mut session = session(Reference::new(), &model, DType::F32, 3, N_TOKENS);
    for sequence in 0..3 {
        session.prefill(sequence, &PROMPT).unwrap();
    }
    let error = session.step(&[(0, FLAWED), (1, 7), (2, FLAWED)]);
    assert!(matches!(error, Err(RuntimeError::NotFinite { .. })));
    let lens = [0, 1, 2].map(|sequence| session.len(sequence));
    assert_eq!(lens, [14, 15, 14]);
    session.step(&[(0, 7), (2, 7)]).unwrap();
}

/// A model whose long sequences are told apart by other wavelengths than its short ones.
fn long_rope(border: usize) -> Variant {
    let mut model = flawed("faults/phi3-longrope/model");
    model.set("original_max_position_embeddings", border);
    let rope = model.config.get_mut("rope_parameters").unwrap();
    rope["original_max_position_embeddings"] = border.into();
    model
}

/// A prompt that was announced is long from its first piece on, until it is taken back.
#[test]
fn an_announced_prompt_is_awaited_until_it_is_taken_back() {
    let model = open(&long_rope(16));
    let sessions = || session(Reference::new(), &model, DType::F32, 1, N_TOKENS);
    let (mut session, mut fresh) = (sessions(), sessions());
    let ids = tokens(24, 7);
    // The search for a cause knows of what is still to come.
    session.expect(0, ids.len());
    session.advance(&[(0, &ids[..5])]).unwrap();
    let error = session.advance(&[(0, &[3, FLAWED])]).unwrap_err();
    assert!(matches!(error, RuntimeError::NotFinite { .. }), "{error}");
    session.truncate(0, session.len(0).min(6));
    let held = [&ids[..5], &[3][..session.len(0) - 5], &ids[5..]].concat();
    let expected = fresh.prefill(0, &held).unwrap().to_vec();
    let found = session.advance(&[(0, &ids[5..])]).unwrap();
    assert!(relative_error(found, &expected) <= 1e-6);

    session.truncate(0, 0);
    session.expect(0, ids.len());
    session.advance(&[(0, &ids[..9])]).unwrap();
    session.truncate(0, 8);
    fresh.truncate(0, 0);
    let expected = fresh.prefill(0, &ids[..10]).unwrap().to_vec();
    let found = session.advance(&[(0, &ids[8..10])]).unwrap();
    assert!(relative_error(found, &expected) <= 1e-6);
}

/// Limits that nothing can be computed with.
#[test]
fn limits_of_none_are_refused() {
    let model = BoundModel::open(&fixture("models/gemma3")).unwrap();
    let context = model.spec().context;
    let one = [1, context, 1, 1];
    for (at, n) in [(0, 0), (1, 0), (2, 0), (3, 0), (1, context + 1)] {
        let mut limits = one;
        limits[at] = n;
        let [n_sequences, context, n_tokens, n_logits] = limits;
        let limits = Limits {
            n_sequences,
            context,
            n_tokens,
            n_logits,
        };
        let options = LoadOptions {
            dtype: WeightDType::Auto,
            quant: None,
            encoder: &Scalar,
            limits,
            offload: None,
        };
        let loaded = load(&model, &Arc::new(Reference::new()), &options, &mut |_| ());
        assert!(matches!(loaded, Err(RuntimeError::Plan(_))), "{limits:?}");
    }
}

/// What an encoder was interrupted at is not attended to, nor what was never read.
#[test]
fn a_decoder_waits_for_its_prompt() {
    let model = BoundModel::open(&fixture("models/t5-v1-style")).unwrap();
    let mut session = session(Reference::new(), &model, DType::F32, 2, 32);
    let is_refused = |outcome: Result<&[f32], RuntimeError>| {
        let error = outcome.map(<[f32]>::len).unwrap_err();
        assert!(error.to_string().contains("encoder"), "{error}");
    };
    is_refused(session.step(&[(0, 9)]));
    session.prefill(0, &PROMPT).unwrap();
    session.step(&[(0, 9)]).unwrap();
    session.interrupt().raise();
    session.encode(0, &PROMPT[3..]).unwrap_err();
    session.interrupt().clear();
    is_refused(session.step(&[(0, 9)]));
    is_refused(session.advance(&[(0, &[9, 3])]));
    // A prompt that is none changes nothing.
    session.prefill(0, &PROMPT).unwrap();
    session.encode(0, &[]).unwrap_err();
    assert_eq!(session.len(0), 1);
    session.step(&[(0, 9)]).unwrap();
}

/// Any order of what can be done with sequences, errors in the middle included.
fn walk<B: Backend>(name: &str, backend: impl Fn() -> B, seed: u64) {
    let model = open(&flawed(name));
    let mut walk = Walk {
        session: session(backend(), &model, DType::F32, 4, N_TOKENS),
        whole: session(backend(), &model, DType::F32, 1, 64),
        held: vec![Vec::new(); 4],
        marks: Vec::new(),
        rng: ChaCha8Rng::seed_from_u64(seed),
        what: String::new(),
    };
    for step in 0..150 {
        walk.what = format!("{name}, seed {seed}, step {step}");
        walk.step();
    }
}

#[test]
fn sequences_go_any_way_and_are_what_they_are() {
    let models = [
        "llama",
        "gemma3",
        "llama4",
        "mistral-sliding",
        "lfm2",
        "granite4",
        "mamba2",
        "falcon-h1",
        "kimi-linear-groups",
        "deepseek-v32-sparse",
        "deepseek-v4",
        "faults/phi3-longrope/model",
    ];
    for name in models {
        let name = match name.contains('/') {
            true => name.to_owned(),
            false => format!("models/{name}"),
        };
        for seed in 0..4 {
            walk(&name, Reference::new, seed);
        }
        for seed in 4..8 {
            walk(&name, cpu, seed);
        }
        walk(&name, || Deferred::new(1), 8);
    }
}
