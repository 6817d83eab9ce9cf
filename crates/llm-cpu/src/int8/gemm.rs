//! Weights times many rows: as fast as the processor multiplies.
//!
//! A panel, some columns of eight rows of a weight, stays in the first-level cache while the activations of a block of
//! tokens pass, which stay in the second-level cache while all rows pass. Both are read along their rows: what is
//! multiplied are columns with columns, and each register of sums is totalled at the panel's end.

use std::ops::Range;

use llm_quant::PRODUCT_SCALE;

use super::activations::Activations;
use super::rows::{CodeRows, Target};
use crate::simd::int::{IntKernel, IntSimd};

/// Some rows of a weight times all rows of activations; outlier columns are left out.
pub(super) struct Int8Gemm<'a> {
    pub(super) rows: CodeRows<'a>,
    pub(super) activations: &'a Activations<'a>,
    pub(super) target: Target<'a>,
    /// This thread's, [`SCRATCH_LEN`] long.
    pub(super) scratch: &'a mut [f32],
}

/// Words of a thread's scratch: a panel, and the sums of a block of tokens.
pub(super) const SCRATCH_LEN: usize = (PANEL_BYTES + SUMS_BYTES) / size_of::<f32>();

impl IntKernel for Int8Gemm<'_> {
    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) {
        let (panel, sums) = self.scratch.split_at_mut(PANEL_BYTES / size_of::<f32>());
        let panel: &mut [u8] = bytemuck::cast_slice_mut(panel);
        let sums: &mut [i64] = bytemuck::cast_slice_mut(sums);
        let product = Product {
            rows: self.rows,
            activations: self.activations,
            target: self.target,
        };
        let n_tokens = self.activations.n_tokens();
        let fitting = BLOCK_BYTES / self.activations.padded_cols;
        let block = fitting.clamp(S::TILE_TOKENS, MAX_BLOCK_TOKENS);
        for token in (0..n_tokens).step_by(block) {
            let tokens = token..(token + block).min(n_tokens);
            let sums = &mut sums[..PANEL_ROWS * tokens.len()];
            for row in (0..self.rows.len()).step_by(PANEL_ROWS) {
                product.multiply(simd, row, tokens.clone(), panel, sums);
                product.finish::<S>(row, tokens.clone(), sums);
            }
        }
    }
}

struct Product<'a> {
    rows: CodeRows<'a>,
    activations: &'a Activations<'a>,
    target: Target<'a>,
}

impl Product<'_> {
    /// Sums the products of a panel's rows with `tokens` into `sums` `[n_tokens, PANEL_ROWS]`, each too large by
    /// `OFFSET` times the activations' codes.
    #[inline(always)]
    fn multiply<S: IntSimd>(
        &self,
        simd: S,
        row: usize,
        tokens: Range<usize>,
        panel: &mut [u8],
        sums: &mut [i64],
    ) {
        sums.fill(0);
        let max_depth = PANEL_BYTES / (PANEL_ROWS * S::CODE_BYTES);
        for first in (0..self.rows.cols).step_by(max_depth) {
            let depth = max_depth.min(self.rows.cols - first);
            self.pack(simd, row, first, depth, panel);
            let mut token = tokens.start;
            while token < tokens.end {
                let sums = &mut sums[(token - tokens.start) * PANEL_ROWS..];
                token += match S::TILE_TOKENS.min(tokens.end - token) {
                    1 => self.tile::<S, 1>(simd, token, first, depth, panel, sums),
                    2 => self.tile::<S, 2>(simd, token, first, depth, panel, sums),
                    _ => self.tile::<S, 3>(simd, token, first, depth, panel, sums),
                };
            }
        }
    }

    /// Brings columns `first..first + depth` of the rows from `row` on into the form in which they are multiplied, the
    /// rows beside each other step by step.
    #[inline(always)]
    fn pack<S: IntSimd>(&self, simd: S, row: usize, first: usize, depth: usize, panel: &mut [u8]) {
        let cols = self.rows.cols;
        let n_rows = PANEL_ROWS.min(self.rows.len() - row);
        let register = S::STEP * S::CODE_BYTES;
        let panel = &mut panel[..depth.div_ceil(S::STEP) * PANEL_ROWS * register];
        if n_rows < PANEL_ROWS {
            panel.fill(0);
        }
        for r in 0..n_rows {
            let codes = &self.rows.codes[(row + r) * cols + first..][..depth];
            for (i, at) in (0..depth).step_by(S::STEP).enumerate() {
                let src = codes[at..].as_ptr();
                let dst = panel[(i * PANEL_ROWS + r) * register..][..register].as_mut_ptr();
                // SAFETY: `depth - at` codes are left; `dst` is a register long.
                unsafe { simd.store(dst, simd.weights_part(src, depth - at)) };
            }
        }
    }

    /// The panel times `T` tokens, added to their `sums`; returns `T`.
    #[inline(always)]
    fn tile<S: IntSimd, const T: usize>(
        &self,
        simd: S,
        token: usize,
        first: usize,
        depth: usize,
        panel: &[u8],
        sums: &mut [i64],
    ) -> usize {
        let padded_cols = self.activations.padded_cols;
        let register = S::STEP * S::CODE_BYTES;
        let n_steps = depth.div_ceil(S::STEP);
        let panel = &panel[..n_steps * PANEL_ROWS * register];
        let x = &self.activations.codes[token * padded_cols..][..T * padded_cols];
        assert!(first + n_steps * S::STEP <= padded_cols);
        let mut tile = [[simd.zero(); T]; PANEL_ROWS];
        // SAFETY: the panel has all steps, as sliced above, and so has each row of activations, as asserted.
        unsafe {
            let (mut x, mut panel) = (x.as_ptr().add(first), panel.as_ptr());
            for _ in 0..n_steps {
                let mut codes = [simd.activations(x); T];
                for (t, codes) in codes.iter_mut().enumerate() {
                    *codes = simd.activations(x.add(t * padded_cols));
                }
                for (r, tile) in tile.iter_mut().enumerate() {
                    let w = simd.load(panel.add(r * register));
                    for (sum, &codes) in tile.iter_mut().zip(&codes) {
                        *sum = simd.multiply_add(w, codes, *sum);
                    }
                }
                x = x.add(S::STEP);
                panel = panel.add(PANEL_ROWS * register);
            }
        }
        let [a, b, c, d, e, f, g, h] = tile;
        for (t, sums) in sums.chunks_exact_mut(PANEL_ROWS).take(T).enumerate() {
            let of_token = [a[t], b[t], c[t], d[t], e[t], f[t], g[t], h[t]];
            for (sum, total) in sums.iter_mut().zip(simd.reduce_8(of_token)) {
                *sum += i64::from(total);
            }
        }
        T
    }

    #[inline(always)]
    fn finish<S: IntSimd>(&self, row: usize, tokens: Range<usize>, sums: &[i64]) {
        let n_rows = PANEL_ROWS.min(self.rows.len() - row);
        let (mut scales, mut bias) = ([0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
        for r in 0..n_rows {
            scales[r] = self.rows.scale(row + r);
            bias[r] = self.target.bias(self.rows.first + row + r);
        }
        for (token, sums) in tokens.zip(sums.chunks_exact(PANEL_ROWS)) {
            let absmax = self.activations.absmax[token];
            let offset = i64::from(S::OFFSET) * i64::from(self.activations.code_sums[token]);
            let mut values = [0.0; PANEL_ROWS];
            for (r, value) in values.iter_mut().enumerate() {
                let scale = absmax * scales[r];
                *value = (sums[r] - offset) as f32 * scale * PRODUCT_SCALE + bias[r];
            }
            let first = self.rows.first + row;
            // A length that the compiler knows is one store.
            if n_rows == PANEL_ROWS {
                self.target.put(token, first, &values);
            } else {
                self.target.put(token, first, &values[..n_rows]);
            }
        }
    }
}

/// Rows of a panel.
pub(super) const PANEL_ROWS: usize = 8;
/// A third of a first-level cache; few enough columns that no sum of them in i32 overflows.
const PANEL_BYTES: usize = 1 << 14;
/// The sums of a block of tokens.
const SUMS_BYTES: usize = MAX_BLOCK_TOKENS * PANEL_ROWS * size_of::<i64>();
/// Codes of a block of tokens: most of a second-level cache.
const BLOCK_BYTES: usize = 1 << 20;
/// Tokens of a block: so many that packing a panel is little beside multiplying it.
const MAX_BLOCK_TOKENS: usize = 256;
