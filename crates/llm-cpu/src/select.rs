//! Selection of the positions that score highest: a few rows at a time, whose scores are shared out by panels of positions.

use half::{bf16, f16};
use llm_backend::{Batch, Output, Selection, score_order};

use crate::Cpu;
use crate::isa::Geometry;
use crate::kv_pool::{KvPool, KvView};
use crate::memory::Workspace;
use crate::share::{Rows, Scratch};
use crate::simd::{Element, ElementType, Kernel, Simd};
use crate::tile::{Elements, Product, Run};

/// Sets bits `[_, row_words]` of the positions that rows of `q` `[_, n_heads · head_dim]` and `weights` `[_, n_heads]` select.
pub(crate) fn select(
    cpu: &Cpu,
    op: &Selection,
    (q, weights): (&[f32], &[f32]),
    batch: &Batch<'_, Cpu>,
    pool: &KvPool,
    bits: &mut [f32],
    workspace: &mut Workspace,
) {
    let (shape, panel) = (pool.shape(), pool.panel());
    assert_eq!(
        (shape.n_kv_heads, shape.head_dim),
        (1, op.head_dim),
        "a key of each position"
    );
    let (n_at_once, n_products) = (cpu.n_threads(), op.n_heads * panel);
    let row = shape.capacity.next_multiple_of(panel);
    let scratch = workspace.take(n_at_once * (n_products + row));
    let (products, scores) = scratch.split_at_mut(n_at_once * n_products);
    let tables = batch.tables.as_slice().chunks_exact(batch.table_len);
    for (rows, table) in batch.rows.iter().zip(tables) {
        let view = pool.sequence(table);
        for done in (0..rows.n_tokens).step_by(n_at_once) {
            let n = n_at_once.min(rows.n_tokens - done);
            let (first, start) = (rows.first + done, rows.start + done);
            // Keys that the last of the rows chooses among: no row before it has more.
            let n_keys = op.n_keys(start + n - 1);
            assert!(n_keys <= shape.capacity, "keys within the pool");
            let n_panels = n_keys.div_ceil(panel);
            let scores = &mut scores[..n * n_panels * panel];
            // Where none is left out there is nothing to compare.
            let n_units = match n_keys > op.n_selected {
                true => n * n_panels,
                false => 0,
            };
            let min_units = MIN_WORK.div_ceil(n_products * op.head_dim);
            let memory = (Rows::new(scores, panel), Scratch::new(products, n_products));
            cpu.pool
                .split(n_units, min_units, memory, |units, (scores, products)| {
                    for (unit, scores) in units.zip(scores.chunks_exact_mut(panel)) {
                        let (row, position) = (unit / n_panels, unit % n_panels * panel);
                        if position < op.n_keys(start + row) {
                            cpu.level.run(Score {
                                op,
                                q: &q[(first + row) * op.q_width()..][..op.q_width()],
                                weights: &weights[(first + row) * op.n_heads..][..op.n_heads],
                                keys: view,
                                position,
                                products: &mut *products,
                                scores,
                            });
                        }
                    }
                });
            let scores = &*scores;
            let bits = &mut bits[first * op.row_words..][..n * op.row_words];
            let bits = Rows::new(bits, op.row_words);
            let min_rows = MIN_WORK.div_ceil(n_panels.max(1) * panel);
            cpu.pool.split(n, min_rows, bits, |rows, bits| {
                for (row, bits) in rows.zip(bits.chunks_exact_mut(op.row_words)) {
                    let scores = &scores[row * n_panels * panel..][..op.n_keys(start + row)];
                    choose(scores, op.n_selected, bits);
                }
            });
        }
    }
}

/// Scratch elements of a selection: products of a panel of positions, and scores of a row, for each thread.
pub(crate) fn select_len(
    n_heads: usize,
    context: usize,
    geometry: Geometry,
    n_threads: usize,
) -> usize {
    match n_heads {
        0 => 0,
        _ => n_threads * (n_heads * geometry.panel + context.next_multiple_of(geometry.panel)),
    }
}

/// Scores of a panel of positions for one row.
struct Score<'a> {
    op: &'a Selection,
    /// `[n_heads, head_dim]`.
    q: &'a [f32],
    /// `[n_heads]`.
    weights: &'a [f32],
    keys: KvView<'a>,
    /// The panel's first.
    position: usize,
    /// `[n_heads, panel]`.
    products: &'a mut [f32],
    /// `[panel]`.
    scores: &'a mut [f32],
}

impl Kernel for Score<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.keys.element() {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl Score<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(self, simd: S) {
        let panel = S::LANES * S::TILE_VECTORS;
        let (n_heads, head_dim) = (self.op.n_heads, self.op.head_dim);
        assert!(self.keys.panel() == panel && self.keys.shape().head_dim == head_dim);
        assert!(self.q.len() == n_heads * head_dim && self.weights.len() == n_heads);
        assert!(self.products.len() >= n_heads * panel && self.scores.len() == panel);
        let keys = [Run {
            start: self.keys.keys(0, self.position),
            n_rows: head_dim,
        }];
        let product = Product {
            a: self.q.as_ptr(),
            a_stride: head_dim,
            b: &keys,
            b_stride: panel,
            c: self.products.as_mut_ptr(),
            c_stride: panel,
            bias: None,
            output: Output::Write,
            rows: n_heads,
            columns: panel,
            factors: Elements::<E>::NEW,
        };
        // SAFETY: a panel of keys lies within the pool, queries and products are as long as asserted.
        unsafe { product.compute(simd) };
        let (zero, scale) = (simd.splat(0.0), simd.splat(self.op.scale));
        for at in (0..panel).step_by(S::LANES) {
            let mut sum = zero;
            let heads = self.products.chunks_exact(panel).zip(self.weights);
            for (products, weight) in heads {
                // Zero where it is no number.
                let product = simd.max(simd.mul(simd.get(products, at), scale), zero);
                sum = simd.fma(product, simd.splat(weight * self.op.weight_scale), sum);
            }
            simd.put(self.scores, at, sum);
        }
    }
}

/// Sets the bits of the `n` positions that score highest, the first among equals, and of all where there are no more.
///
/// The last score that is selected is found digit by digit, by counts of scores that have each: it takes no memory of its own.
fn choose(scores: &[f32], n: usize, bits: &mut [f32]) {
    let bits = &mut bits[..Selection::words(scores.len())];
    let (mut least, mut known, mut n_equal) = (0, 0, usize::MAX);
    if scores.len() > n {
        n_equal = n;
        for shift in [24, 16, 8, 0] {
            let mut counts = [0; 256];
            for score in scores.iter().map(|&score| score_order(score)) {
                if score & known == least {
                    counts[(score >> shift) as usize % counts.len()] += 1;
                }
            }
            let mut digit = counts.len() - 1;
            while counts[digit] < n_equal {
                n_equal -= counts[digit];
                digit -= 1;
            }
            least |= (digit as u32) << shift;
            known |= 0xff << shift;
        }
    }
    for (word, scores) in bits.iter_mut().zip(scores.chunks(u32::BITS as usize)) {
        let mut of_word = 0;
        for (position, score) in scores.iter().map(|&score| score_order(score)).enumerate() {
            let is_selected = match score.cmp(&least) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal if n_equal > 0 => {
                    n_equal -= 1;
                    true
                }
                _ => false,
            };
            of_word |= u32::from(is_selected) << position;
        }
        *word = f32::from_bits(of_word);
    }
}

/// Multiplications below which a thread is not worth a fork.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 14 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_are_chosen() {
        let inf = f32::INFINITY;
        let cases: [(&[f32], usize, u32); 9] = [
            (&[1.0, 2.0, 3.0], 5, 0b111),
            (&[f32::NAN; 3], 3, 0b111),
            (&[1.0, 2.0, 3.0], 1, 0b100),
            (&[0.0, -0.0, 0.0, -0.0], 2, 0b0011),
            (&[-1.0, -2.0, -1.0, -1.0], 2, 0b0101),
            (&[f32::NAN, -inf, inf, 0.0], 3, 0b1110),
            (&[f32::NAN, f32::NAN, f32::NAN], 2, 0b011),
            (&[1.0, 1.0 + f32::EPSILON, 1.0], 2, 0b011),
            (&[3.0, 1.0, 2.0, 3.0, 2.0], 3, 0b01101),
        ];
        for (scores, n, expected) in cases {
            let mut bits = [f32::from_bits(u32::MAX); 2];
            choose(scores, n, &mut bits);
            let bits = bits.map(f32::to_bits);
            assert_eq!(bits, [expected, u32::MAX], "{n} of {scores:?}");
        }
    }
}
