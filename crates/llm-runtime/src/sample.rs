//! From logits to the next token.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How the next token is chosen. The filters apply in this order: repetition penalty, temperature, top-k, top-p,
/// min-p, as transformers has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps this many most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens already seen (Keskar et al. 2019); 1 does nothing.
    pub repetition_penalty: f32,
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
    };
}

/// Chooses tokens, one after the other; the same seed and logits give the same tokens.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    /// Tokens of the prompt and of what was chosen, each once.
    seen: Vec<u32>,
    is_seen: Vec<bool>,
    /// The logits with penalties applied, reused.
    logits: Vec<f32>,
    /// Logits and ids in the running, reused.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler over `vocab` tokens.
    pub fn new(sampling: Sampling, seed: u64, vocab: usize) -> Self {
        Sampler {
            sampling,
            rng: ChaCha8Rng::seed_from_u64(seed),
            seen: Vec::new(),
            is_seen: vec![false; vocab],
            logits: Vec::with_capacity(vocab),
            candidates: Vec::with_capacity(vocab),
        }
    }

    /// Notes tokens that the repetition penalty is to hold against: the prompt's. Chosen ones are noted already.
    ///
    /// # Panics
    /// When an id is not below `vocab`.
    pub fn observe(&mut self, ids: &[u32]) {
        for &id in ids {
            if !std::mem::replace(&mut self.is_seen[id as usize], true) {
                self.seen.push(id);
            }
        }
    }

    /// Chooses the token to follow, from finite `logits` `[vocab]`.
    ///
    /// # Panics
    /// When there are not `vocab` logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        assert_eq!(
            logits.len(),
            self.is_seen.len(),
            "logits for the vocabulary"
        );
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.penalise();
        let id = if self.sampling.temperature == 0.0 {
            argmax(&self.logits)
        } else {
            self.draw()
        };
        self.observe(&[id]);
        id
    }

    fn penalise(&mut self) {
        let penalty = self.sampling.repetition_penalty;
        if penalty != 1.0 {
            for &id in &self.seen {
                let logit = &mut self.logits[id as usize];
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }

    fn draw(&mut self) -> u32 {
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.sampling;
        let max = self.logits[argmax(&self.logits) as usize];
        // Below this even min-p's share of nothing: e^-104 is zero in f32.
        let floor = if min_p > 0.0 { min_p.ln() } else { -104.0 };
        self.candidates.clear();
        for (id, &logit) in self.logits.iter().enumerate() {
            let log_weight = (logit - max) / temperature;
            if log_weight >= floor {
                self.candidates.push((log_weight, id as u32));
            }
        }
        let n = self.candidates.len();
        let k = if top_k == 0 { n } else { top_k.min(n) };
        keep_best(&mut self.candidates, k);
        let mut total: f64 = self.candidates.iter().map(|c| f64::from(c.0).exp()).sum();
        if top_p < 1.0 {
            total = keep_share(&mut self.candidates, f64::from(top_p) * total);
        }
        // 53 random bits: a uniform double in [0, 1).
        let uniform = (self.rng.next_u64() >> 11) as f64 * 2f64.powi(-53);
        let mut left = uniform * total;
        for &(log_weight, id) in &self.candidates {
            left -= f64::from(log_weight).exp();
            if left < 0.0 {
                return id;
            }
        }
        // Only rounding leads here.
        self.candidates
            .last()
            .expect("the most probable token is always kept")
            .1
    }
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// More probable first; among equals the smaller id, so that a choice does not depend on how a sort proceeds.
fn by_rank(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn keep_best(candidates: &mut Vec<(f32, u32)>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
        // The draw walks the candidates: give them an order of their own.
        candidates.sort_unstable_by_key(|c| c.1);
    }
}

/// Keeps the most probable candidates whose weights reach `share`; returns what they weigh.
fn keep_share(candidates: &mut Vec<(f32, u32)>, share: f64) -> f64 {
    // A few hundred tokens nearly always suffice: sort no more than is needed.
    let (mut sorted, mut total) = (0, 0.0);
    let mut piece = 256;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let n = piece.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n, by_rank);
        }
        rest[..n].sort_unstable_by(by_rank);
        for (i, candidate) in rest[..n].iter().enumerate() {
            total += f64::from(candidate.0).exp();
            if total >= share {
                candidates.truncate(sorted + i + 1);
                return total;
            }
        }
        sorted += n;
        piece *= 8;
    }
    total
}

#[cfg(test)]
mod tests;
