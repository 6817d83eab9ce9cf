mod cases;
mod run;

pub(crate) use cases::{cases, copies, few_rows, forks, together};

use std::ops::Range;
use std::sync::Arc;

use llm_backend::Backend;
use llm_tensor::{DType, KvValues};

use self::run::Run;
use crate::case::{Case, EPS, sum_error};
use crate::data::Random;

/// One sequence whose queries pass in several calls, each with the keys and values that the former ones left.
#[derive(Debug, Clone)]
pub(crate) struct AttentionCase {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    values: KvValues,
    dtype: DType,
    keys: Keys,
    /// Queries of each call: all at once, one by one, or anything between.
    calls: Vec<usize>,
    /// Rows of another sequence before ours in the pass's buffers, and as many after.
    others: usize,
    magnitude: f32,
    soft_cap: Option<f32>,
    bias: Option<Bias>,
    /// Magnitude of the heads' sinks, where they have some.
    sinks: Option<f32>,
    blocks: Blocks,
    tokens: Tokens,
}

/// Order of a sequence's blocks.
#[derive(Debug, Clone, Copy)]
enum Blocks {
    InOrder,
    /// Among those of other sequences.
    Shuffled,
}

/// Values that a sequence is made of.
#[derive(Debug, Clone, Copy)]
enum Tokens {
    Seeded(u64),
    /// The first so many are of another seed, which they share with another sequence.
    Forked {
        n_shared: usize,
        seed: u64,
    },
    /// Neither queries nor keys nor values are numbers.
    Nan,
}

/// Source of the keys, and those of them that a query sees.
#[derive(Debug, Clone)]
enum Keys {
    /// The queries' own rows `[q | k | v]`, appended call by call.
    Past {
        window: Option<usize>,
        /// Positions that the pool keeps beyond those that the calls need.
        spare: usize,
    },
    /// The same, of which a query sees those of its chunk of so many positions.
    Chunk(usize),
    /// The queries' own rows `[q | k | v]`, all appended before.
    Encoder,
    /// Rows `[k | v]` of another sequence, appended before in these calls.
    Cross(Vec<usize>),
}

#[derive(Debug, Clone, Copy)]
struct Bias {
    row: usize,
    zero: usize,
    magnitude: f32,
}

struct Inputs {
    /// `[queries, n_heads, head_dim]`.
    q: Vec<f32>,
    /// `[positions, keys | values, n_kv_heads, head_dim]`, or keys alone.
    kv: Vec<f32>,
    /// `[n_heads, row]`.
    bias: Vec<f32>,
    /// `[n_heads]`.
    sinks: Vec<f32>,
}

impl AttentionCase {
    fn n_queries(&self) -> usize {
        self.calls.iter().sum()
    }

    fn n_positions(&self) -> usize {
        match &self.keys {
            Keys::Past { .. } | Keys::Chunk(_) | Keys::Encoder => self.n_queries(),
            Keys::Cross(appended) => appended.iter().sum(),
        }
    }

    fn capacity(&self) -> usize {
        match self.keys {
            Keys::Past {
                window: Some(window),
                spare,
            } => window + self.largest_call() - 1 + spare,
            Keys::Chunk(len) => len + self.largest_call() - 1,
            Keys::Past { window: None, .. } | Keys::Encoder | Keys::Cross(_) => self.n_positions(),
        }
    }

    fn largest_call(&self) -> usize {
        self.calls.iter().copied().max().unwrap_or(0)
    }

    fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        let keys = self.n_kv_heads * self.head_dim;
        match self.values {
            KvValues::Own => 2 * keys,
            KvValues::OfKeys(_) => keys,
        }
    }

    fn out_width(&self) -> usize {
        self.n_heads * self.value_dim()
    }

    fn value_dim(&self) -> usize {
        match self.values {
            KvValues::Own => self.head_dim,
            KvValues::OfKeys(n) => n,
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn inputs(&self) -> Inputs {
        match self.tokens {
            Tokens::Seeded(seed) => self.seeded(seed),
            Tokens::Forked { n_shared, seed } => {
                let (shared, mut inputs) = (self.seeded(SEED), self.seeded(seed));
                let (q, kv) = (n_shared * self.q_width(), n_shared * self.kv_width());
                inputs.q[..q].copy_from_slice(&shared.q[..q]);
                inputs.kv[..kv].copy_from_slice(&shared.kv[..kv]);
                inputs
            }
            Tokens::Nan => {
                let mut inputs = self.seeded(SEED);
                inputs.q.fill(f32::NAN);
                inputs.kv.fill(f32::NAN);
                inputs
            }
        }
    }

    fn seeded(&self, seed: u64) -> Inputs {
        let mut random = Random::new(seed);
        Inputs {
            q: random.values(self.n_queries() * self.q_width(), self.magnitude),
            kv: random.values(self.n_positions() * self.kv_width(), self.magnitude),
            bias: self.bias.map_or_else(Vec::new, |bias| {
                random.values(self.n_heads * bias.row, bias.magnitude)
            }),
            sinks: (self.sinks)
                .map_or_else(Vec::new, |magnitude| random.values(self.n_heads, magnitude)),
        }
    }
}

/// The tokens of each of some calls that follow each other.
fn ranges(calls: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    calls.iter().map(move |n| {
        end += n;
        end - n..end
    })
}

/// The same with other blocks from call to call.
#[derive(Debug, Clone)]
pub(crate) struct CopiedBlocks(AttentionCase);

impl Case for CopiedBlocks {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let run = Run::new(backend, std::slice::from_ref(&self.0), 1);
        run.results(|run, _| run.take_over(0)).concat()
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        self.0.bounds(expected)
    }
}

/// Sequences of the same shape in one pool, which attend in the same calls.
#[derive(Debug, Clone)]
pub(crate) struct Together(Vec<AttentionCase>);

impl Case for Together {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        Run::new(backend, &self.0, 0).results(|_, _| {}).concat()
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        bounds_of(&self.0, expected)
    }
}

fn bounds_of(cases: &[AttentionCase], mut expected: &[f32]) -> Vec<f64> {
    let mut bounds = Vec::with_capacity(expected.len());
    for case in cases {
        let (ours, rest) = expected.split_at(case.n_queries() * case.out_width());
        bounds.extend(case.bounds(ours));
        expected = rest;
    }
    bounds
}

/// A sequence, and one that goes on from its first passes in the same blocks; a third one is the second from the start,
/// in blocks of its own.
#[derive(Debug, Clone)]
pub(crate) struct Fork {
    case: AttentionCase,
    /// Passes before it forks.
    n_shared: usize,
}

impl Fork {
    /// The first and the third.
    fn sequences(&self) -> [AttentionCase; 2] {
        let tokens = Tokens::Forked {
            n_shared: self.case.calls[..self.n_shared].iter().sum(),
            seed: SEED + 1,
        };
        let forked = AttentionCase {
            tokens,
            ..self.case.clone()
        };
        [self.case.clone(), forked]
    }

    /// The second one's results, and the third one's in the same passes.
    #[cfg(test)]
    fn pair<B: Backend>(&self, backend: &Arc<B>) -> [Vec<f32>; 2] {
        let [_, forked, whole] = self.results(backend);
        let n_shared = whole.len() - forked.len();
        [forked, whole[n_shared..].to_vec()]
    }

    fn results<B: Backend>(&self, backend: &Arc<B>) -> [Vec<f32>; 3] {
        let [first, third] = self.sequences();
        let cases = [first, third.clone(), third];
        let mut run = Run::new(backend, &cases, 1);
        let mut results = [const { Vec::new() }; 3];
        for pass in 0..self.case.calls.len() {
            let mut tokens = run.tokens(pass);
            if pass < self.n_shared {
                tokens[1] = 0..0;
            } else if pass == self.n_shared {
                run.fork(0, 1);
            }
            run.append_past(&tokens);
            run.attend(&tokens, &mut results);
        }
        results
    }
}

impl Case for Fork {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        self.results(backend).concat()
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let [first, third] = self.sequences();
        let n = first.n_queries() * first.out_width();
        let (of_first, rest) = expected.split_at(n);
        let (of_second, of_third) = rest.split_at(rest.len() - n);
        let mut bounds = first.bounds(of_first);
        let whole = third.bounds(of_third);
        bounds.extend_from_slice(&whole[n - of_second.len()..]);
        bounds.extend(whole);
        bounds
    }
}

impl Case for AttentionCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let run = Run::new(backend, std::slice::from_ref(self), 0);
        run.results(|_, _| {}).concat()
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let inputs = self.inputs();
        let group = self.n_heads / self.n_kv_heads;
        let (scale, cap) = (f64::from(self.scale()), self.soft_cap.map(f64::from));
        let bias = self.bias.map_or(0.0, |bias| f64::from(bias.magnitude));
        let sink = f64::from(self.sinks.unwrap_or(0.0));
        let mut largest = vec![Largest::default(); self.n_kv_heads];
        let mut positions = inputs.kv.chunks_exact(self.kv_width());
        let mut bounds = Vec::with_capacity(expected.len());
        for (token, queries) in inputs.q.chunks_exact(self.q_width()).enumerate() {
            // Magnitudes up to a position bound those in a window that ends there.
            let (n_new, n_seen) = match self.keys {
                Keys::Past { window, .. } => (1, (token + 1).min(window.unwrap_or(usize::MAX))),
                Keys::Chunk(len) => (1, token % len + 1),
                Keys::Encoder | Keys::Cross(_) => (usize::MAX, self.n_positions()),
            };
            for kv in positions.by_ref().take(n_new) {
                let (keys, values) = kv.split_at(self.n_kv_heads * self.head_dim);
                let values = match self.values {
                    KvValues::Own => values,
                    KvValues::OfKeys(_) => keys,
                };
                let heads = keys
                    .chunks_exact(self.head_dim)
                    .zip(values.chunks_exact(self.head_dim));
                for (largest, (key, value)) in largest.iter_mut().zip(heads) {
                    largest.include(key, &value[..self.value_dim()]);
                }
            }
            for (head, query) in queries.chunks_exact(self.head_dim).enumerate() {
                let largest = &largest[head / group];
                // Cauchy and Schwarz bound the products' magnitudes; an error of a score is, to first order, one of
                // its weight, relatively, and the weights' total has it too.
                let product = scale * norm(query) * largest.key;
                // The tangent is no steeper than its argument; it and its argument are rounded a few times.
                let (score, cap_error) = cap.map_or((product, 0.0), |cap| {
                    (product.min(cap), 8.0 * EPS * product.min(cap))
                });
                let score_error = sum_error(self.head_dim) * product
                    + cap_error
                    + EPS * (score + sink + 2.0 * bias);
                let relative = 2.0 * score_error + sum_error(n_seen.saturating_add(1)) + 8.0 * EPS;
                // Whatever the weights, their mean of the values lies among these.
                let bound = relative.min(2.0) * largest.value;
                bounds.extend(vec![bound; self.value_dim()]);
            }
        }
        bounds
    }
}

/// Magnitudes that no key or value of a head exceeds.
#[derive(Clone, Default)]
struct Largest {
    /// Of the keys as vectors.
    key: f64,
    /// Of the values' elements.
    value: f64,
}

impl Largest {
    fn include(&mut self, key: &[f32], value: &[f32]) {
        self.key = self.key.max(norm(key));
        self.value = value
            .iter()
            .fold(self.value, |m, &x| f64::from(x).abs().max(m));
    }
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Seed of sequences unless a case names another.
const SEED: u64 = 7;

#[cfg(test)]
mod tests {
    use llm_backend::Reference;

    use super::*;

    #[test]
    fn a_fork_is_the_sequence_that_it_would_be_alone() {
        let reference = Arc::new(Reference::new());
        for fork in forks() {
            let [forked, whole] = fork.pair(&reference);
            assert!(!forked.is_empty());
            assert_eq!(forked, whole, "{fork:?}");
        }
    }
}
