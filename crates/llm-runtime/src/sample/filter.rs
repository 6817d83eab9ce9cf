//! Filters of the tokens that a draw is among.

use std::cmp::Ordering;

use super::Sampling;

/// Tokens in the running with the logarithms of their weights, that of the most probable one being 0; reused.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    all: Vec<Candidate>,
    /// True if they have left the order of their ids.
    is_reordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) log_weight: f32,
    pub(crate) id: u32,
}

/// From which weight on a token is a candidate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Floor {
    /// One that rounds to zero is none: it could not be drawn.
    Nothing,
    /// Whatever is not forbidden.
    Forbidden,
}

impl Candidates {
    /// The tokens of `logits`, which are not all minus infinity, divided by `temperature`.
    pub(crate) fn take(&mut self, logits: &[f32], temperature: f32, floor: Floor) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // e^-104 is zero in f32.
        let floor = match floor {
            Floor::Nothing => -104.0,
            Floor::Forbidden => f32::MIN,
        };
        self.all.clear();
        self.is_reordered = false;
        for (id, &logit) in logits.iter().enumerate() {
            // Rules with extreme factors may have made several infinite.
            let log_weight = match logit == max {
                true => 0.0,
                false => (logit - max) / temperature,
            };
            if log_weight >= floor {
                let id = id as u32;
                self.all.push(Candidate { log_weight, id });
            }
        }
    }

    /// Applies the filters; each keeps `n_least` candidates at least.
    pub(crate) fn filter(&mut self, sampling: &Sampling, n_least: usize) {
        let Sampling {
            temperature: _,
            top_h,
            top_k,
            top_p,
            min_p,
            typical_p,
            epsilon_cutoff,
            eta_cutoff,
        } = *sampling;
        if let Some(top_h) = top_h {
            self.keep_entropy(f64::from(top_h));
        }
        if top_k > 0 {
            self.keep_best(top_k.max(n_least));
        }
        if top_p < 1.0 {
            self.keep_share(f64::from(top_p), n_least);
        }
        if min_p > 0.0 {
            // The most probable one weighs 1.
            self.keep_above(f64::from(min_p), n_least);
        }
        if typical_p < 1.0 {
            self.keep_typical(f64::from(typical_p), n_least);
        }
        if is_cutoff(epsilon_cutoff) {
            let total = self.total();
            self.keep_above(f64::from(epsilon_cutoff) * total, n_least);
        }
        if is_cutoff(eta_cutoff) {
            let (total, eta) = (self.total(), f64::from(eta_cutoff));
            let bound = eta.min(eta.sqrt() * (-self.entropy()).exp());
            self.keep_above(bound * total, n_least);
        }
    }

    /// One of them, `uniform` being a number in [0, 1).
    pub(crate) fn draw(&mut self, uniform: f64) -> u32 {
        // What is drawn must not depend on how a selection proceeded.
        if self.is_reordered {
            self.all.sort_unstable_by_key(|candidate| candidate.id);
            self.is_reordered = false;
        }
        let mut left = uniform * self.total();
        for candidate in &self.all {
            left -= candidate.weight();
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Only rounding leads here.
        self.all
            .last()
            .expect("the most probable token is always kept")
            .id
    }

    pub(crate) fn all(&self) -> &[Candidate] {
        &self.all
    }

    pub(crate) fn total(&self) -> f64 {
        self.all.iter().map(Candidate::weight).sum()
    }

    /// Of what is left, in nats.
    fn entropy(&self) -> f64 {
        let log_total = self.total().ln();
        let log_probabilities = self.all.iter().map(|c| f64::from(c.log_weight) - log_total);
        -log_probabilities.map(|l| l * l.exp()).sum::<f64>()
    }

    fn keep_entropy(&mut self, share: f64) {
        self.bring_to_front(ENTROPY_CANDIDATES);
        self.all.truncate(ENTROPY_CANDIDATES);
        let (log_total, most) = (self.total().ln(), share * self.entropy());
        let mut sum = 0.0;
        let goes_beyond = |candidate: &Candidate| {
            let log_probability = f64::from(candidate.log_weight) - log_total;
            sum -= log_probability * log_probability.exp();
            sum > most
        };
        if let Some(n) = self.all.iter().position(goes_beyond) {
            self.all.truncate(n.max(1));
        }
    }

    fn keep_best(&mut self, k: usize) {
        if let Some(least) = self.rank(k) {
            self.all.retain(|candidate| candidate.log_weight >= least);
        }
    }

    /// Keeps the most probable candidates that reach `share` of the weight.
    fn keep_share(&mut self, share: f64, n_least: usize) {
        let share = share * self.total();
        // A few hundred tokens nearly always suffice: sort no more than is needed.
        let (mut sorted, mut sum) = (0, 0.0);
        let mut piece = 256;
        self.is_reordered = true;
        while sorted < self.all.len() {
            let rest = &mut self.all[sorted..];
            let n = piece.min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n, by_rank);
            }
            rest[..n].sort_unstable_by(by_rank);
            for (i, candidate) in rest[..n].iter().enumerate() {
                sum += candidate.weight();
                if sum >= share && sorted + i + 1 >= n_least {
                    self.all.truncate(sorted + i + 1);
                    return;
                }
            }
            sorted += n;
            piece *= 8;
        }
    }

    /// Keeps the candidates of at least this weight.
    fn keep_above(&mut self, weight: f64, n_least: usize) {
        let log_weights = self.all.iter().map(|candidate| candidate.log_weight);
        let least = match n_least {
            0 | 1 => Some(log_weights.fold(f32::NEG_INFINITY, f32::max)),
            n => self.rank(n),
        };
        let Some(least) = least else {
            return;
        };
        self.all
            .retain(|candidate| candidate.weight() >= weight || candidate.log_weight >= least);
    }

    fn keep_typical(&mut self, mass: f64, n_least: usize) {
        let (log_total, entropy) = (self.total().ln(), self.entropy());
        let distance = |c: &Candidate| (log_total - f64::from(c.log_weight) - entropy).abs();
        let by_distance = |a: &Candidate, b: &Candidate| {
            distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id))
        };
        self.is_reordered = true;
        self.all.sort_unstable_by(by_distance);
        let mut sum = 0.0;
        let reaches = |candidate: &Candidate| {
            sum += (f64::from(candidate.log_weight) - log_total).exp();
            sum >= mass
        };
        let last = self.all.iter().position(reaches);
        let last = last.unwrap_or(self.all.len() - 1);
        let furthest = distance(&self.all[last]);
        let n = self.all.partition_point(|c| distance(c) <= furthest);
        self.all.truncate(n.max(n_least));
    }

    /// The weight of the `k`-th most probable candidate; nothing where there are no more than that.
    fn rank(&mut self, k: usize) -> Option<f32> {
        if k >= self.all.len() {
            return None;
        }
        self.is_reordered = true;
        let (_, least, _) = self.all.select_nth_unstable_by(k.max(1) - 1, by_rank);
        Some(least.log_weight)
    }

    /// Sorts the `n` most probable candidates to the front.
    fn bring_to_front(&mut self, n: usize) {
        self.is_reordered = true;
        if n < self.all.len() {
            self.all.select_nth_unstable_by(n, by_rank);
        }
        let n = n.min(self.all.len());
        self.all[..n].sort_unstable_by(by_rank);
    }
}

impl Candidate {
    fn weight(&self) -> f64 {
        f64::from(self.log_weight).exp()
    }
}

/// Number of candidates that transformers looks at for `top_h`.
const ENTROPY_CANDIDATES: usize = 100;

fn is_cutoff(share: f32) -> bool {
    share > 0.0 && share < 1.0
}

/// More probable first; among equals the smaller id, so that a choice does not depend on how a sort proceeds.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    let by_weight = b.log_weight.total_cmp(&a.log_weight);
    by_weight.then(a.id.cmp(&b.id))
}

#[cfg(test)]
mod tests;
