//! From logits to the next token.

mod filter;
mod rules;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use self::rules::Rules;

pub(crate) use self::filter::{Candidates, Floor};
pub(crate) use self::rules::{Marks, Past};
use crate::{Result, RuntimeError};

/// Options of drawing the next token. The filters apply in the order of the fields, as transformers has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token, whatever the filters are.
    pub temperature: f32,
    /// Of the 100 most probable tokens keeps those that together have this share of their entropy.
    pub top_h: Option<f32>,
    /// Keeps this many most probable tokens, and those as probable as the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the expected one, up to this probability (Meister et al. 2022); 1
    /// keeps all.
    pub typical_p: f32,
    /// Keeps tokens of at least this probability (Hewitt et al. 2022); 0 and 1 keep all.
    pub epsilon_cutoff: f32,
    /// The same with a bound that falls with the entropy; 0 and 1 keep all.
    pub eta_cutoff: f32,
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_h: None,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        epsilon_cutoff: 0.0,
        eta_cutoff: 0.0,
    };
}

/// Chooses tokens, one after the other; the same seed and logits give the same tokens.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    vocab: usize,
    rules: Rules,
    is_neutral: bool,
    /// The prompt, or what an encoder read.
    source: Vec<u32>,
    /// The decoder's tokens, as far as rules ask for them.
    ids: Vec<u32>,
    /// Number of those that were there at the beginning.
    n_prompt: usize,
    marks: Marks,
    /// The logits as the rules leave them, reused.
    logits: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler over `vocab` tokens, without rules.
    pub fn new(sampling: Sampling, seed: u64, vocab: usize) -> Self {
        Sampler {
            sampling,
            rng: ChaCha8Rng::seed_from_u64(seed),
            vocab,
            rules: Rules::default(),
            is_neutral: true,
            source: Vec::new(),
            ids: Vec::new(),
            n_prompt: 0,
            marks: Marks::default(),
            logits: Vec::new(),
            candidates: Candidates::default(),
        }
    }

    /// The same under `rules`: `source` is the prompt, and `begin` what the decoder begins with, which is the prompt
    /// too unless the model has an encoder.
    ///
    /// # Panics
    /// When an id is not below the vocabulary.
    pub fn under(mut self, rules: Rules, source: &[u32], begin: &[u32]) -> Self {
        let is_known = |&id: &u32| (id as usize) < self.vocab;
        assert!(
            source.iter().chain(begin).all(is_known),
            "ids of the vocabulary"
        );
        self.is_neutral = rules.is_neutral();
        if !self.is_neutral {
            self.source = source.to_vec();
            self.ids = Vec::with_capacity(begin.len() + 1024);
            self.ids.extend_from_slice(begin);
            self.n_prompt = begin.len();
            self.logits.reserve_exact(self.vocab);
            self.marks = Marks::new(self.vocab);
        }
        self.rules = rules;
        self
    }

    /// True where it takes the most probable token, whatever came before: who has that token needs no logits.
    pub fn is_greedy(&self) -> bool {
        self.is_neutral && self.sampling.temperature == 0.0
    }

    /// Chooses the token to follow, from finite `logits` `[vocab]`.
    ///
    /// # Errors
    /// [`RuntimeError::NoTokenLeft`] when the rules forbid every token.
    ///
    /// # Panics
    /// When there are not `vocab` logits.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        assert_eq!(logits.len(), self.vocab, "logits for the vocabulary");
        if self.is_neutral {
            return choose(&self.sampling, logits, &mut self.candidates, &mut self.rng);
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        let past = Past {
            ids: &self.ids,
            n_prompt: self.n_prompt,
            source: &self.source,
        };
        self.rules.apply(&past, &mut self.marks, &mut self.logits);
        let id = choose(
            &self.sampling,
            &self.logits,
            &mut self.candidates,
            &mut self.rng,
        )?;
        self.ids.push(id);
        Ok(id)
    }
}

fn choose(
    sampling: &Sampling,
    logits: &[f32],
    candidates: &mut Candidates,
    rng: &mut ChaCha8Rng,
) -> Result<u32> {
    let best = argmax(logits);
    let is_possible = logits[best as usize] > f32::NEG_INFINITY;
    if !is_possible {
        return Err(RuntimeError::NoTokenLeft);
    }
    if sampling.temperature == 0.0 {
        return Ok(best);
    }
    candidates.take(logits, sampling.temperature, Floor::Nothing);
    candidates.filter(sampling, 1);
    Ok(candidates.draw(uniform(rng)))
}

/// 53 random bits: a uniform double in [0, 1).
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * 2f64.powi(-53)
}

/// The first of the largest, numbers that are none left aside.
fn argmax(logits: &[f32]) -> u32 {
    let (mut best, mut max) = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > max {
            (best, max) = (id, logit);
        }
    }
    best as u32
}

#[cfg(test)]
mod tests;
