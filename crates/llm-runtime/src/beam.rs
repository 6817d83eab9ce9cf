//! Beam search: the most probable continuations are kept side by side.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::sample::{Candidates, Floor, Marks, Past, uniform};
use crate::{Result, Rules, RuntimeError, Sampling};

/// Number of beams, and the rule by which one wins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beams {
    /// Number of continuations that are kept.
    pub n_beams: usize,
    /// The power of its number of tokens by which a continuation's log-probability is divided: above 0 longer ones win.
    pub length_penalty: f32,
    /// End of the search.
    pub early_stopping: EarlyStopping,
    /// True if the logits that rules and filters leave are made probabilities again.
    pub renormalize: bool,
}

/// End of a search before its continuations are as long as they may be. Exhaustive on purpose: transformers knows
/// these three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As many continuations have ended as are kept.
    AtOnce,
    /// Besides, none that goes on is better at its present length.
    Heuristic,
    /// Besides, none that goes on can become better.
    Never,
}

/// A search over the continuations of one prompt. A caller feeds what [`BeamSearch::advance`] tells to sequences of a
/// session, whose [`fork`](crate::Session::fork) makes two of one.
///
/// The scores are computed as transformers does: in f32, the log-probabilities before the rules.
#[derive(Debug)]
pub struct BeamSearch {
    beams: Beams,
    sampling: Sampling,
    rules: Rules,
    vocab: usize,
    rng: ChaCha8Rng,
    /// The prompt, or what an encoder read.
    source: Vec<u32>,
    n_prompt: usize,
    /// The most probable first.
    running: Vec<Beam>,
    /// Ended, at most `n_beams`, the best first.
    ended: Vec<Beam>,
    /// True if one that runs may still become better than the ended ones.
    can_improve: bool,
    steps: Vec<BeamStep>,
    /// Of former beams, reused.
    spare: Vec<Vec<u32>>,
    marks: Marks,
    log_probabilities: Vec<f32>,
    candidates: Candidates,
    best: BinaryHeap<Extension>,
    sorted: Vec<Extension>,
}

/// Continuation of a sequence: the beam `parent`, in the order of the step before, goes on with `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeamStep {
    /// Beam that it goes on from.
    pub parent: usize,
    /// Its next token.
    pub id: u32,
}

#[derive(Debug)]
struct Beam {
    /// The decoder's, its beginning included.
    ids: Vec<u32>,
    /// The sum of the log-probabilities; of an ended one, divided by the penalty.
    score: f32,
}

/// A beam with a token more.
#[derive(Debug, Clone, Copy)]
struct Extension {
    score: f32,
    /// By which it is chosen: the score, or in a draw a random number that follows from it.
    rank: f32,
    step: BeamStep,
}

impl BeamSearch {
    /// A search from `begin`, what the decoder begins with, and `source`, which is the same unless the model has an
    /// encoder. A temperature in `sampling` makes it draw.
    ///
    /// # Panics
    /// When there are no beams, or an id is not below `vocab`.
    pub fn new(
        beams: Beams,
        (sampling, rules): (Sampling, Rules),
        seed: u64,
        vocab: usize,
        (source, begin): (&[u32], &[u32]),
    ) -> Self {
        assert!(beams.n_beams > 0, "a search keeps a beam at least");
        let is_known = |&id: &u32| (id as usize) < vocab;
        assert!(
            source.iter().chain(begin).all(is_known),
            "ids of the vocabulary"
        );
        BeamSearch {
            beams,
            sampling,
            rules,
            vocab,
            rng: ChaCha8Rng::seed_from_u64(seed),
            source: source.to_vec(),
            n_prompt: begin.len(),
            running: vec![Beam {
                ids: begin.to_vec(),
                score: 0.0,
            }],
            ended: Vec::new(),
            can_improve: true,
            steps: Vec::new(),
            spare: Vec::new(),
            marks: Marks::new(vocab),
            log_probabilities: Vec::with_capacity(vocab),
            candidates: Candidates::default(),
            best: BinaryHeap::new(),
            sorted: Vec::new(),
        }
    }

    /// Takes the `logits` `[running, vocab]` after each beam, the first time after the prompt alone; which beams go on
    /// from there, or none when the search is over. `is_end` says of a beam's generated tokens, the last of which is new,
    /// whether they are a whole answer; a token that ends the text and the greatest length need not be looked at.
    ///
    /// # Errors
    /// [`RuntimeError::NoTokenLeft`] when the rules forbid every token.
    ///
    /// # Panics
    /// When there are not as many logits.
    pub fn advance(
        &mut self,
        logits: &[f32],
        is_end: &mut dyn FnMut(&[u32]) -> bool,
    ) -> Result<&[BeamStep]> {
        let n_running = self.running.len();
        assert_eq!(logits.len(), n_running * self.vocab, "logits of each beam");
        for (parent, logits) in logits.chunks_exact(self.vocab).enumerate() {
            self.extend(parent, logits);
        }
        if self.best.is_empty() {
            return Err(RuntimeError::NoTokenLeft);
        }
        self.sorted.clear();
        self.sorted.extend(self.best.drain());
        self.sorted
            .sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.by_place(b)));

        let n_beams = self.beams.n_beams;
        let mut next = Vec::with_capacity(n_beams);
        self.steps.clear();
        // With this token.
        let n_new = self.running[0].ids.len() + 1 - self.n_prompt;
        let is_full = self.ended.len() == n_beams;
        let takes_ended =
            self.can_improve && !(is_full && self.beams.early_stopping == EarlyStopping::AtOnce);
        let mut ended = Vec::new();
        for (i, extension) in self.sorted.iter().enumerate() {
            // Those after the first are here in their place if they end; they cannot win.
            if next.len() == n_beams && i >= n_beams {
                break;
            }
            let BeamStep { parent, id } = extension.step;
            let mut ids = self.spare.pop().unwrap_or_default();
            ids.clear();
            ids.extend_from_slice(&self.running[parent].ids);
            ids.push(id);
            let is_last = ids.len() >= self.rules.max_length
                || self.rules.eos_ids.contains(&id)
                || is_end(&ids[self.n_prompt..]);
            if !is_last {
                if next.len() < n_beams {
                    self.steps.push(extension.step);
                    next.push(Beam {
                        ids,
                        score: extension.score,
                    });
                } else {
                    self.spare.push(ids);
                }
            } else if i < n_beams && takes_ended {
                ended.push(Beam {
                    ids,
                    score: extension.score / self.penalty(n_new),
                });
            } else {
                self.spare.push(ids);
            }
        }
        self.ended.append(&mut ended);
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(n_beams);
        if next.is_empty() {
            return Ok(&[]);
        }
        let former = std::mem::replace(&mut self.running, next);
        self.spare.extend(former.into_iter().map(|beam| beam.ids));
        self.can_improve &= self.is_improvable(n_new);
        let is_full = self.ended.len() == n_beams;
        let is_over =
            !self.can_improve || is_full && self.beams.early_stopping == EarlyStopping::AtOnce;
        Ok(match is_over {
            true => &[],
            false => &self.steps,
        })
    }

    /// The generated tokens of the best continuation: of those that ended, else of those that go on.
    pub fn best(&self) -> &[u32] {
        let best = self.ended.first().or(self.running.first());
        best.map_or(&[], |beam| &beam.ids[self.n_prompt..])
    }

    /// Puts the tokens that may follow on a beam among the best.
    fn extend(&mut self, parent: usize, logits: &[f32]) {
        let beam = &self.running[parent];
        let scores = &mut self.log_probabilities;
        scores.clear();
        scores.extend_from_slice(logits);
        log_softmax(scores);
        let past = Past {
            ids: &beam.ids,
            n_prompt: self.n_prompt,
            source: &self.source,
        };
        self.rules.apply(&past, &mut self.marks, scores);
        // So many that enough go on though every token that ends a text is among them.
        let n_eos = self.rules.eos_ids.len();
        let n_kept = (n_eos + 1).max(2) * self.beams.n_beams;
        let draws = self.sampling.temperature > 0.0;
        if draws {
            self.filter(n_eos + 1);
        }
        if self.beams.renormalize {
            log_softmax(&mut self.log_probabilities);
        }
        let beam_score = self.running[parent].score;
        for (id, &log_probability) in self.log_probabilities.iter().enumerate() {
            // Nor is what extreme factors have made no number.
            let is_possible = log_probability > f32::NEG_INFINITY;
            if !is_possible {
                continue;
            }
            let score = log_probability + beam_score;
            let rank = match draws {
                // The largest of scores with Gumbel noise are a draw without replacement.
                true => score - (-(1.0 - uniform(&mut self.rng)).ln()).ln() as f32,
                false => score,
            };
            let id = id as u32;
            let step = BeamStep { parent, id };
            let extension = Extension { score, rank, step };
            if self.best.len() < n_kept {
                self.best.push(extension);
            } else if let Some(mut worst) = self.best.peek_mut()
                && extension < *worst
            {
                *worst = extension;
            }
        }
    }

    /// Brings temperature and filters to the log-probabilities.
    fn filter(&mut self, n_least: usize) {
        let scores = &mut self.log_probabilities;
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            return;
        }
        let temperature = self.sampling.temperature;
        self.candidates.take(scores, temperature, Floor::Forbidden);
        self.candidates.filter(&self.sampling, n_least);
        scores.fill(f32::NEG_INFINITY);
        for candidate in self.candidates.all() {
            scores[candidate.id as usize] = candidate.log_weight + max / temperature;
        }
    }

    fn is_improvable(&self, n_new: usize) -> bool {
        let Beams {
            n_beams,
            length_penalty,
            early_stopping,
            ..
        } = self.beams;
        let Some(worst) = self.ended.last().filter(|_| self.ended.len() == n_beams) else {
            return true;
        };
        let length = match early_stopping {
            EarlyStopping::Never if length_penalty > 0.0 => {
                self.rules.max_length.saturating_sub(self.n_prompt)
            }
            EarlyStopping::Never | EarlyStopping::Heuristic | EarlyStopping::AtOnce => n_new,
        };
        self.running[0].score / self.penalty(length) > worst.score
    }

    fn penalty(&self, n_new: usize) -> f32 {
        (n_new as f64).powf(f64::from(self.beams.length_penalty)) as f32
    }
}

impl Extension {
    /// Among equals, the one that is met first.
    fn by_place(&self, other: &Self) -> Ordering {
        let place = |extension: &Self| (extension.step.parent, extension.step.id);
        place(self).cmp(&place(other))
    }
}

/// The better one is the lesser: a heap shows the worst.
impl Ord for Extension {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = other.rank.total_cmp(&self.rank);
        by_rank.then_with(|| self.by_place(other))
    }
}

impl PartialOrd for Extension {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Extension {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Extension {}

fn log_softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return;
    }
    let sum: f64 = scores.iter().map(|&x| f64::from(x - max).exp()).sum();
    let log_sum = sum.ln() as f32;
    for score in scores {
        *score = *score - max - log_sum;
    }
}

#[cfg(test)]
mod tests;
