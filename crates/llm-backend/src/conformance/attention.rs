use llm_tensor::DType;

use super::case::{Case, EPS, sum_error};
use super::data::{DTYPES, Random, WORKS, downloaded, uploaded};
use crate::{Attention, Backend, KvShape, Rows, WorkspaceShape};

/// One sequence that passes in several calls, each with the cache that the former ones left.
#[derive(Debug)]
pub(super) struct AttentionCase {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    /// Tokens of each call: all at once, one by one, or anything between.
    calls: Vec<usize>,
    /// Rows of another sequence before ours in the pass's buffers.
    first: usize,
    magnitude: f32,
}

pub(super) fn cases() -> Vec<AttentionCase> {
    let mut cases = Vec::new();
    for head_dim in [12, 16, 24, 32, 64, 80, 96, 128, 256] {
        for (n_heads, n_kv_heads) in [(1, 1), (3, 3), (4, 2), (9, 3), (8, 2)] {
            for (dtype, calls) in
                DTYPES
                    .into_iter()
                    .zip([vec![33], vec![17, 1, 15], vec![1, 1, 1, 2, 3, 5]])
            {
                cases.push(AttentionCase {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    dtype,
                    calls,
                    first: cases.len() % 3,
                    magnitude: 1.0,
                });
            }
        }
    }
    for dtype in DTYPES {
        for calls in [vec![1; 100], vec![100], vec![64, 36], vec![130, 1, 130, 1]] {
            for magnitude in [1.0, 10.0, 1e4] {
                cases.push(AttentionCase {
                    n_heads: 6,
                    n_kv_heads: 2,
                    head_dim: 16,
                    dtype,
                    calls: calls.clone(),
                    first: 0,
                    magnitude,
                });
            }
        }
        // Long enough to be divided among threads, and more queries a key head than any tile holds.
        for (n_heads, n_kv_heads, calls) in [
            (1, 1, vec![511, 1, 1, 1, 600, 1, 7]),
            (6, 3, vec![520, 1, 9, 1]),
            (53, 1, vec![9, 1, 3]),
        ] {
            cases.push(AttentionCase {
                n_heads,
                n_kv_heads,
                head_dim: 20,
                dtype,
                calls,
                first: 1,
                magnitude: 2.0,
            });
        }
    }
    cases
}

impl AttentionCase {
    fn n_tokens(&self) -> usize {
        self.calls.iter().sum()
    }

    fn width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    fn op(&self) -> Attention {
        Attention {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
        }
    }

    /// `[n_tokens, q | k | v]`.
    fn qkv(&self) -> Vec<f32> {
        Random::new(7).values(self.n_tokens() * self.width(), self.magnitude)
    }

    /// One head of a token's row: the queries' heads, then the keys', then the values'.
    fn head<'a>(&self, qkv: &'a [f32], token: usize, head: usize) -> &'a [f32] {
        &qkv[token * self.width() + head * self.head_dim..][..self.head_dim]
    }
}

impl Case for AttentionCase {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let (n_tokens, q_width) = (self.n_tokens(), self.n_heads * self.head_dim);
        let mut cache = backend
            .kv_cache(&KvShape {
                n_kv_heads: self.n_kv_heads,
                head_dim: self.head_dim,
                capacity: n_tokens,
                dtype: self.dtype,
            })
            .expect(WORKS);
        let largest = self.calls.iter().copied().max().unwrap_or(0);
        let mut workspace = backend
            .workspace(&WorkspaceShape {
                n_tokens: self.first + largest,
                cols: 1,
                rows: 1,
                context: n_tokens,
                n_heads: self.n_heads,
                n_kv_heads: self.n_kv_heads,
                head_dim: self.head_dim,
            })
            .expect(WORKS);
        let qkv = self.qkv();
        let mut results = Vec::new();
        let mut start = 0;
        for &n in &self.calls {
            // Rows of others are not numbers, so that reading them would show.
            let mut pass = vec![f32::NAN; self.first * self.width()];
            pass.extend(&qkv[start * self.width()..(start + n) * self.width()]);
            let mut out = backend.alloc((self.first + n) * q_width).expect(WORKS);
            let rows = Rows {
                first: self.first,
                n_tokens: n,
                start,
            };
            let pass = uploaded(backend, &pass);
            backend
                .attention(
                    &self.op(),
                    &pass,
                    rows,
                    &mut cache,
                    &mut out,
                    &mut workspace,
                )
                .expect(WORKS);
            let out = downloaded(backend, &out, (self.first + n) * q_width);
            assert!(
                out[..self.first * q_width].iter().all(|&x| x == 0.0),
                "rows of others are left alone: {self:?}"
            );
            results.extend(&out[self.first * q_width..]);
            start += n;
        }
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let qkv = self.qkv();
        let group = self.n_heads / self.n_kv_heads;
        let scale = f64::from(self.op().scale);
        // Magnitudes up to a position bound those at it.
        let mut largest_key = vec![0f64; self.n_kv_heads];
        let mut largest_value = vec![0f64; self.n_kv_heads];
        let mut bounds = Vec::with_capacity(expected.len());
        for token in 0..self.n_tokens() {
            for kv_head in 0..self.n_kv_heads {
                let key = self.head(&qkv, token, self.n_heads + kv_head);
                let value = self.head(&qkv, token, self.n_heads + self.n_kv_heads + kv_head);
                let norm = key
                    .iter()
                    .map(|&x| f64::from(x).powi(2))
                    .sum::<f64>()
                    .sqrt();
                let largest = value.iter().fold(0.0, |m, &x| f64::from(x).abs().max(m));
                largest_key[kv_head] = norm.max(largest_key[kv_head]);
                largest_value[kv_head] = largest.max(largest_value[kv_head]);
            }
            for head in 0..self.n_heads {
                let query = self.head(&qkv, token, head);
                let norm = query
                    .iter()
                    .map(|&x| f64::from(x).powi(2))
                    .sum::<f64>()
                    .sqrt();
                // Cauchy and Schwarz bound the products' magnitudes; an error of a score is, to first order, one of
                // its weight, relatively, and the weights' total has it too.
                let score = scale * norm * largest_key[head / group];
                let score_error = (sum_error(self.head_dim) + EPS) * score;
                let relative = 2.0 * score_error + sum_error(token + 1) + 8.0 * EPS;
                // Whatever the weights, their mean of the values lies among these.
                let bound = relative.min(2.0) * largest_value[head / group];
                bounds.extend(vec![bound; self.head_dim]);
            }
        }
        bounds
    }
}
