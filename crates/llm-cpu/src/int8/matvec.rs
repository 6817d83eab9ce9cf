//! Weights times few rows: as fast as the codes can be read.

use llm_quant::PRODUCT_SCALE;

use super::activations::Activations;
use super::rows::{CodeRows, Target};
use crate::simd::int::{IntKernel, IntSimd};
use crate::streams::{STREAM_PREFETCH_BYTES, STREAMS, Together, streams};

/// Some rows of a weight times all rows of activations.
pub(super) struct Int8MatVec<'a> {
    pub(super) rows: CodeRows<'a>,
    pub(super) activations: &'a Activations<'a>,
    pub(super) target: Target<'a>,
}

impl IntKernel for Int8MatVec<'_> {
    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) {
        let (groups, rest) = streams(0..self.rows.len(), STREAMS);
        for rows in groups {
            self.tokens::<S, STREAMS>(simd, rows);
        }
        for row in rest {
            self.tokens::<S, 1>(simd, Together::beside(row));
        }
    }
}

impl Int8MatVec<'_> {
    /// `R` rows, which stay in the cache while all tokens pass.
    #[inline(always)]
    fn tokens<S: IntSimd, const R: usize>(&self, simd: S, rows: Together) {
        let n_tokens = self.activations.n_tokens();
        let mut token = 0;
        while token < n_tokens {
            token += match S::TILE_TOKENS.min(n_tokens - token) {
                1 => self.block::<S, R, 1>(simd, rows, token),
                2 => self.block::<S, R, 2>(simd, rows, token),
                _ => self.block::<S, R, 3>(simd, rows, token),
            };
        }
    }

    /// `R` rows times `T` tokens; returns `T`.
    #[inline(always)]
    fn block<S: IntSimd, const R: usize, const T: usize>(
        &self,
        simd: S,
        rows: Together,
        token: usize,
    ) -> usize {
        let mut totals = [[0i64; R]; T];
        for first in (0..self.rows.cols).step_by(MAX_DEPTH) {
            let depth = MAX_DEPTH.min(self.rows.cols - first);
            let sums = self.sums::<S, R, T>(simd, rows, token, first, depth);
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total += i64::from(sum);
                }
            }
        }
        for (t, totals) in totals.into_iter().enumerate() {
            self.finish::<S, R>(rows, token + t, totals);
        }
        T
    }

    /// The products in columns `first..first + depth`, each too large by `OFFSET` times the activations' codes.
    #[inline(always)]
    fn sums<S: IntSimd, const R: usize, const T: usize>(
        &self,
        simd: S,
        rows: Together,
        token: usize,
        first: usize,
        depth: usize,
    ) -> [[i32; R]; T] {
        let (cols, padded_cols) = (self.rows.cols, self.activations.padded_cols);
        let codes = self.rows.codes;
        let weights: [_; R] =
            std::array::from_fn(|r| codes[rows.row(r) * cols..][..cols][first..][..depth].as_ptr());
        let x = &self.activations.codes[token * padded_cols..][..T * padded_cols];
        let whole = depth - depth % S::STEP;
        let mut sums = [[simd.zero(); T]; R];
        // SAFETY: rows are read up to their last code; activations up to a multiple of every step, which their padding
        // makes room for.
        unsafe {
            let x = x.as_ptr().add(first);
            for at in (0..whole).step_by(S::STEP) {
                let mut codes = [simd.activations(x.add(at)); T];
                for (t, codes) in codes.iter_mut().enumerate() {
                    *codes = simd.activations(x.add(t * padded_cols + at));
                }
                for (&weights, sums) in weights.iter().zip(&mut sums) {
                    let weights = weights.add(at);
                    if at.is_multiple_of(CACHE_LINE) {
                        simd.prefetch(weights.wrapping_add(STREAM_PREFETCH_BYTES));
                    }
                    let w = simd.weights(weights);
                    for (sum, &codes) in sums.iter_mut().zip(&codes) {
                        *sum = simd.multiply_add(w, codes, *sum);
                    }
                }
            }
            if whole < depth {
                for (&weights, sums) in weights.iter().zip(&mut sums) {
                    let w = simd.weights_part(weights.add(whole), depth - whole);
                    for (t, sum) in sums.iter_mut().enumerate() {
                        let codes = simd.activations(x.add(t * padded_cols + whole));
                        *sum = simd.multiply_add(w, codes, *sum);
                    }
                }
            }
        }
        let mut totals = [[0; R]; T];
        for (r, sums) in sums.into_iter().enumerate() {
            for (totals, sum) in totals.iter_mut().zip(sums) {
                totals[r] = simd.reduce(sum);
            }
        }
        totals
    }

    #[inline(always)]
    fn finish<S: IntSimd, const R: usize>(&self, rows: Together, token: usize, totals: [i64; R]) {
        let Activations {
            x, cols, absmax, ..
        } = *self.activations;
        let x = &x[token * cols..][..cols];
        let offset = i64::from(S::OFFSET) * i64::from(self.activations.code_sums[token]);
        for (r, total) in totals.into_iter().enumerate() {
            let row = rows.row(r);
            let scale = absmax[token] * self.rows.scale(row);
            let outliers: f64 = self
                .activations
                .outlier_cols
                .iter()
                .map(|&col| {
                    let weight = self.rows.element(row, col as usize);
                    f64::from(x[col as usize]) * f64::from(weight)
                })
                .sum();
            let product = (total - offset) as f32 * scale * PRODUCT_SCALE + outliers as f32;
            let value = product + self.target.bias(self.rows.first + row);
            self.target.put(token, self.rows.first + row, &[value]);
        }
    }
}

/// Rows that shares are multiples of.
pub(super) const BLOCK_ROWS: usize = STREAMS;
/// Columns over which no sum in i32 overflows, whatever the codes: 255 · 127 times them is less than 2³¹.
const MAX_DEPTH: usize = 1 << 16;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
