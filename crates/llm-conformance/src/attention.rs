mod cases;

pub(super) use cases::{cases, copies};

use std::ops::Range;

use llm_tensor::{DType, KvShape, WorkspaceShape};

use super::case::{Case, EPS, sum_error};
use super::data::{Random, WORKS, downloaded, uploaded};
use crate::{Attention, Backend, KvColumns, RelativeBias, Rows, Seen};

/// One sequence whose queries pass in several calls, each with the cache that the former ones left.
#[derive(Debug, Clone)]
pub(super) struct AttentionCase {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    keys: Keys,
    /// Queries of each call: all at once, one by one, or anything between.
    calls: Vec<usize>,
    /// Rows of another sequence before ours in the pass's buffers, and as many after.
    others: usize,
    magnitude: f32,
    soft_cap: Option<f32>,
    bias: Option<Bias>,
}

/// Where keys come from, and which of them a query sees.
#[derive(Debug, Clone)]
enum Keys {
    /// The queries' own rows `[q | k | v]`, appended call by call.
    Past {
        window: Option<usize>,
        /// Positions that the cache keeps beyond those that the calls need.
        spare: usize,
    },
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

/// What a pass's buffer holds of each token.
#[derive(Clone, Copy)]
enum Columns {
    Queries,
    KeysAndValues,
    All,
}

struct Inputs {
    /// `[queries, n_heads, head_dim]`.
    q: Vec<f32>,
    /// `[positions, keys | values, n_kv_heads, head_dim]`.
    kv: Vec<f32>,
    /// `[n_heads, row]`.
    bias: Vec<f32>,
}

impl AttentionCase {
    fn n_queries(&self) -> usize {
        self.calls.iter().sum()
    }

    fn n_positions(&self) -> usize {
        match &self.keys {
            Keys::Past { .. } | Keys::Encoder => self.n_queries(),
            Keys::Cross(appended) => appended.iter().sum(),
        }
    }

    fn capacity(&self) -> usize {
        match self.keys {
            Keys::Past {
                window: Some(window),
                spare,
            } => window + self.largest_call() - 1 + spare,
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
        2 * self.n_kv_heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn inputs(&self) -> Inputs {
        let mut random = Random::new(7);
        Inputs {
            q: random.values(self.n_queries() * self.q_width(), self.magnitude),
            kv: random.values(self.n_positions() * self.kv_width(), self.magnitude),
            bias: self.bias.map_or_else(Vec::new, |bias| {
                random.values(self.n_heads * bias.row, bias.magnitude)
            }),
        }
    }

    /// Some tokens' rows among those of others, which are not numbers, so that reading them would show.
    fn pass(&self, inputs: &Inputs, columns: Columns, tokens: Range<usize>) -> Vec<f32> {
        let (q_width, kv_width) = (self.q_width(), self.kv_width());
        let (q_width, kv_width) = match columns {
            Columns::Queries => (q_width, 0),
            Columns::KeysAndValues => (0, kv_width),
            Columns::All => (q_width, kv_width),
        };
        let others = vec![f32::NAN; self.others * (q_width + kv_width)];
        let mut pass = others.clone();
        for token in tokens {
            // Widths of zero take nothing.
            pass.extend(inputs.q[token * q_width..].iter().take(q_width));
            pass.extend(inputs.kv[token * kv_width..].iter().take(kv_width));
        }
        pass.extend(others);
        pass
    }

    fn rows(&self, tokens: &Range<usize>) -> Rows {
        Rows {
            first: self.others,
            n_tokens: tokens.len(),
            start: tokens.start,
        }
    }

    fn append<B: Backend>(
        &self,
        backend: &B,
        inputs: &Inputs,
        tokens: Range<usize>,
        cache: &mut B::KvCache,
    ) {
        let (columns, first) = match self.keys {
            Keys::Past { .. } | Keys::Encoder => (Columns::All, self.q_width()),
            Keys::Cross(_) => (Columns::KeysAndValues, 0),
        };
        let pass = uploaded(backend, &self.pass(inputs, columns, tokens.clone()));
        let columns = KvColumns {
            first,
            row_width: first + self.kv_width(),
        };
        backend
            .append(&pass, &columns, self.rows(&tokens), cache)
            .expect(WORKS);
    }

    /// The results of some tokens, `[tokens, n_heads, head_dim]`.
    fn attend<B: Backend>(
        &self,
        backend: &B,
        inputs: &Inputs,
        tokens: Range<usize>,
        cache: &B::KvCache,
        workspace: &mut B::Workspace,
    ) -> Vec<f32> {
        let (columns, row_width, seen) = match self.keys {
            Keys::Past { window, .. } => (
                Columns::All,
                self.q_width() + self.kv_width(),
                Seen::Past { window },
            ),
            Keys::Encoder => (
                Columns::All,
                self.q_width() + self.kv_width(),
                Seen::All {
                    n_positions: self.n_positions(),
                },
            ),
            Keys::Cross(_) => (
                Columns::Queries,
                self.q_width(),
                Seen::All {
                    n_positions: self.n_positions(),
                },
            ),
        };
        let pass = uploaded(backend, &self.pass(inputs, columns, tokens.clone()));
        let table = uploaded(backend, &inputs.bias);
        let op = Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            row_width,
            scale: self.scale(),
            soft_cap: self.soft_cap,
            seen,
            bias: self.bias.map(|bias| RelativeBias {
                table: &table,
                row: bias.row,
                zero: bias.zero,
            }),
        };
        let n = (tokens.len() + 2 * self.others) * self.q_width();
        let mut out = backend.alloc(n).expect(WORKS);
        let rows = self.rows(&tokens);
        backend
            .attention(&op, &pass, rows, cache, &mut out, workspace)
            .expect(WORKS);
        let out = downloaded(backend, &out, n);
        let (before, ours) = out.split_at(self.others * self.q_width());
        let (ours, after) = ours.split_at(tokens.len() * self.q_width());
        assert!(
            before.iter().chain(after).all(|&x| x == 0.0),
            "rows of others are left alone: {self:?}"
        );
        ours.to_vec()
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

impl AttentionCase {
    /// The results of all calls; `pass_on` gets the cache, and how many positions it has taken, before each.
    fn results<B: Backend>(
        &self,
        backend: &B,
        pass_on: &mut dyn FnMut(&mut B::KvCache, usize),
    ) -> Vec<f32> {
        let mut cache = self.cache(backend);
        let mut workspace = backend
            .workspace(&WorkspaceShape {
                n_tokens: self.largest_call() + 2 * self.others,
                cols: 1,
                rows: 1,
                context: self.capacity(),
                n_heads: self.n_heads,
                n_kv_heads: self.n_kv_heads,
                head_dim: self.head_dim,
            })
            .expect(WORKS);
        let inputs = self.inputs();
        match &self.keys {
            Keys::Past { .. } => {}
            Keys::Encoder => self.append(backend, &inputs, 0..self.n_positions(), &mut cache),
            Keys::Cross(appended) => ranges(appended)
                .for_each(|tokens| self.append(backend, &inputs, tokens, &mut cache)),
        }
        let mut results = Vec::new();
        for tokens in ranges(&self.calls) {
            if let Keys::Past { .. } = self.keys {
                self.append(backend, &inputs, tokens.clone(), &mut cache);
            }
            let n_taken = match self.keys {
                Keys::Past { .. } => tokens.end,
                Keys::Encoder | Keys::Cross(_) => self.n_positions(),
            };
            pass_on(&mut cache, n_taken);
            results.extend(self.attend(backend, &inputs, tokens, &cache, &mut workspace));
        }
        results
    }

    fn cache<B: Backend>(&self, backend: &B) -> B::KvCache {
        let shape = KvShape {
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            capacity: self.capacity(),
            dtype: self.dtype,
        };
        backend.kv_cache(&shape).expect(WORKS)
    }
}

/// The same with another cache from call to call, each made what the one before is.
#[derive(Debug, Clone)]
pub(super) struct CopiedCache(AttentionCase);

impl Case for CopiedCache {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        // Of every other call, so that a copy replaces what was there.
        let mut other = self.0.cache(backend);
        self.0.results(backend, &mut |cache, n_taken| {
            backend.copy_cache(cache, n_taken, &mut other).expect(WORKS);
            std::mem::swap(cache, &mut other);
        })
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        self.0.bounds(expected)
    }
}

impl Case for AttentionCase {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        self.results(backend, &mut |_, _| {})
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let inputs = self.inputs();
        let group = self.n_heads / self.n_kv_heads;
        let (scale, cap) = (f64::from(self.scale()), self.soft_cap.map(f64::from));
        let bias = self.bias.map_or(0.0, |bias| f64::from(bias.magnitude));
        let mut largest = vec![Largest::default(); self.n_kv_heads];
        let mut positions = inputs.kv.chunks_exact(self.kv_width());
        let mut bounds = Vec::with_capacity(expected.len());
        for (token, queries) in inputs.q.chunks_exact(self.q_width()).enumerate() {
            // Magnitudes up to a position bound those in a window that ends there.
            let (n_new, n_seen) = match self.keys {
                Keys::Past { window, .. } => (1, (token + 1).min(window.unwrap_or(usize::MAX))),
                Keys::Encoder | Keys::Cross(_) => (usize::MAX, self.n_positions()),
            };
            for kv in positions.by_ref().take(n_new) {
                let (keys, values) = kv.split_at(self.kv_width() / 2);
                let heads = keys
                    .chunks_exact(self.head_dim)
                    .zip(values.chunks_exact(self.head_dim));
                for (largest, (key, value)) in largest.iter_mut().zip(heads) {
                    largest.include(key, value);
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
                let score_error =
                    sum_error(self.head_dim) * product + cap_error + EPS * (score + 2.0 * bias);
                let relative = 2.0 * score_error + sum_error(n_seen) + 8.0 * EPS;
                // Whatever the weights, their mean of the values lies among these.
                let bound = relative.min(2.0) * largest.value;
                bounds.extend(vec![bound; self.head_dim]);
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
