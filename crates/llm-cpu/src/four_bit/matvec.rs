//! Weights times few rows.

use super::{AbsmaxView, FourBitView, Scales};
use crate::matvec::FewRows;
use crate::simd::{FourBit, Kernel, MAX_LANES, words_read};
use crate::workspace::GEMM_TOKENS;

/// Some rows of a weight times all rows of x.
///
/// Codes are looked up in the weight's own table, multiplied with x and summed over eight registers, the sum scaled and
/// added to the result's: the same operations whatever rows and tokens are computed beside it.
pub(crate) struct MatVec<'a> {
    pub(crate) weight: FourBitView<'a>,
    pub(crate) few: FewRows<'a>,
}

impl Kernel for MatVec<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let cols = self.weight.cols;
        assert!(self.few.rows.end <= self.weight.rows);
        assert!(self.few.padded_cols.is_multiple_of(8 * S::LANES) && self.few.padded_cols >= cols);
        assert!(self.few.x.len() >= self.few.n_tokens * self.few.padded_cols);
        if !self.weight.is_aligned() {
            return self.any_cols(simd);
        }
        match self.weight.absmax {
            AbsmaxView::Plain(scales) => self.aligned(simd, scales),
            AbsmaxView::Double(scales) => self.aligned(simd, scales),
        }
    }
}

impl MatVec<'_> {
    /// Rows of whole blocks: a step, eight registers, is `STEP_BLOCKS` blocks or lies within one.
    #[inline(always)]
    fn aligned<S: FourBit>(&self, simd: S, scales: impl Scales) {
        let table = simd.table(self.weight.table);
        match (8 * S::LANES).div_ceil(self.weight.block_size()) {
            1 => self.rows::<S, _, 1>(simd, table, scales),
            2 => self.rows::<S, _, 2>(simd, table, scales),
            _ => self.rows::<S, _, 4>(simd, table, scales),
        }
    }

    #[inline(always)]
    fn rows<S: FourBit, C: Scales, const STEP_BLOCKS: usize>(
        &self,
        simd: S,
        table: S::Table,
        scales: C,
    ) {
        // Rows that are taken together lie within what is asked for ahead.
        let most = PREFETCH_BYTES / (self.weight.cols / 2);
        let mut row = self.few.rows.start;
        while row < self.few.rows.end {
            let n_rows = most.min(self.few.rows.end - row);
            row += match (self.few.n_tokens, n_rows) {
                (1, 4..) => {
                    self.block::<S, C, STEP_BLOCKS, 4, 1>(simd, table, scales, row, 0);
                    4
                }
                (1, 2 | 3) => {
                    self.block::<S, C, STEP_BLOCKS, 2, 1>(simd, table, scales, row, 0);
                    2
                }
                (2, 2..) => {
                    self.block::<S, C, STEP_BLOCKS, 2, 2>(simd, table, scales, row, 0);
                    2
                }
                _ => {
                    self.tokens::<S, C, STEP_BLOCKS>(simd, table, scales, row);
                    1
                }
            };
        }
    }

    /// One row, which stays in the cache while all tokens pass.
    #[inline(always)]
    fn tokens<S: FourBit, C: Scales, const STEP_BLOCKS: usize>(
        &self,
        simd: S,
        table: S::Table,
        scales: C,
        row: usize,
    ) {
        let mut token = 0;
        while token < self.few.n_tokens {
            token += match self.few.n_tokens - token {
                1 => self.block::<S, C, STEP_BLOCKS, 1, 1>(simd, table, scales, row, token),
                2 | 3 => self.block::<S, C, STEP_BLOCKS, 1, 2>(simd, table, scales, row, token),
                _ => self.block::<S, C, STEP_BLOCKS, 1, 4>(simd, table, scales, row, token),
            };
        }
    }

    /// `R` rows times `T` tokens; returns `T`.
    #[inline(always)]
    fn block<S: FourBit, C: Scales, const STEP_BLOCKS: usize, const R: usize, const T: usize>(
        &self,
        simd: S,
        table: S::Table,
        scales: C,
        row: usize,
        token: usize,
    ) -> usize {
        let FourBitView {
            cols, block_bits, ..
        } = self.weight;
        let step = 8 * S::LANES;
        let x_stride = self.few.padded_cols;
        let x = &self.few.x[token * x_stride..][..T * x_stride];
        let mut sums = [[simd.splat(0.0); T]; R];
        let first = row * cols;
        assert!((first + R * cols) / 2 <= self.weight.packed.len());
        // The last step, whole or not, is apart: what is read may reach beyond a step's own bytes.
        let last = (cols - 1) / step * step;
        for at in (0..last).step_by(step) {
            scales.prefetch(simd, (first + at * R) >> block_bits);
            for (r, sums) in sums.iter_mut().enumerate() {
                let element = first + r * cols + at;
                // SAFETY: the step lies within a row that lies within the weight, and another one follows in the row;
                // rows of x are whole steps long. Prefetched addresses need not be valid.
                unsafe {
                    let codes = self.weight.packed.as_ptr().add(element / 2);
                    // Linearly through the block of rows, so that the memory sees one stream.
                    let ahead = (first + at * R + r * step) / 2 + PREFETCH_BYTES;
                    simd.prefetch(self.weight.packed.as_ptr().wrapping_add(ahead));
                    let scale = scales.spread::<S, STEP_BLOCKS>(simd, element >> block_bits);
                    let values = simd.look_up_words(table, codes);
                    accumulate(simd, values, scale, x.as_ptr().add(at), x_stride, sums);
                }
            }
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let element = first + r * cols + last;
            // Scales beyond the row are zeros: what is read there must not count.
            let mut rest = [0f32; STEP_BLOCKS];
            let n_blocks = (cols - last).div_ceil(1 << block_bits);
            for (i, scale) in rest.iter_mut().take(n_blocks).enumerate() {
                *scale = scales.at((element >> block_bits) + i);
            }
            let values = self.values(simd, table, element);
            // SAFETY: rows of x are whole steps long.
            unsafe {
                let x = x.as_ptr().add(last);
                accumulate(simd, values, simd.spread(rest), x, x_stride, sums);
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (t, sum) in sums.into_iter().enumerate() {
                self.few.finish(row + r, token + t, simd.reduce_add(sum));
            }
        }
        T
    }

    /// The unscaled values of a step from `element` on; those beyond the weight's end are anything.
    #[inline(always)]
    fn values<S: FourBit>(&self, simd: S, table: S::Table, element: usize) -> [S::F32; 8] {
        let bytes = &self.weight.packed[element / 2..];
        if bytes.len() >= words_read(S::LANES) {
            // SAFETY: so many bytes are there.
            return unsafe { simd.look_up_words(table, bytes.as_ptr()) };
        }
        let mut padded = [0; words_read(MAX_LANES)];
        padded[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the padded bytes are enough for any number of lanes.
        unsafe { simd.look_up_words(table, padded.as_ptr()) }
    }

    /// Rows that begin and end within blocks, even within bytes: values are written out piece by piece first.
    #[inline(always)]
    fn any_cols<S: FourBit>(&self, simd: S) {
        let cols = self.weight.cols;
        let mut piece = [0f32; PIECE];
        for row in self.few.rows.clone() {
            let mut sums = [simd.splat(0.0); GEMM_TOKENS];
            let sums = &mut sums[..self.few.n_tokens];
            for first in (0..cols).step_by(PIECE) {
                let n = PIECE.min(cols - first);
                self.weight
                    .decode(simd, row * cols + first, &mut piece[..n]);
                let x = self.few.x.chunks_exact(self.few.padded_cols);
                for (sum, x) in sums.iter_mut().zip(x) {
                    for at in (0..n).step_by(S::LANES) {
                        let weight = simd.get(&piece[..n], at);
                        *sum = simd.fma(weight, simd.get(&x[first..], at), *sum);
                    }
                }
            }
            for (token, &sum) in sums.iter().enumerate() {
                self.few.finish(row, token, simd.reduce_add(sum));
            }
        }
    }
}

/// Adds the scaled products of a step of a weight's row with those of `T` tokens.
///
/// # Safety
/// `x` can be read for `8 · LANES` elements at each of `T` rows `x_stride` apart.
#[inline(always)]
unsafe fn accumulate<S: FourBit, const T: usize>(
    simd: S,
    values: [S::F32; 8],
    scale: S::F32,
    x: *const f32,
    x_stride: usize,
    sums: &mut [S::F32; T],
) {
    for (t, sum) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        unsafe {
            let x = x.add(t * x_stride);
            // Two chains, so that one need not wait for the other.
            let mut even = simd.mul(values[0], simd.load(x));
            let mut odd = simd.mul(values[1], simd.load(x.add(S::LANES)));
            for i in 1..4 {
                let x = x.add(2 * i * S::LANES);
                even = simd.fma(values[2 * i], simd.load(x), even);
                odd = simd.fma(values[2 * i + 1], simd.load(x.add(S::LANES)), odd);
            }
            *sum = simd.fma(simd.add(even, odd), scale, *sum);
        }
    }
}

/// Columns that are written out at a time: a multiple of any number of lanes.
const PIECE: usize = 256;
/// How far ahead of the loads codes are asked for: enough to cover the memory's latency, and well within what the
/// first-level cache keeps.
const PREFETCH_BYTES: usize = 4096;
