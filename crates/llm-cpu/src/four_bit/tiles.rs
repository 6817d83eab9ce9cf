//! Weights whose rows are whole blocks times few rows, in tiles of registers.
//!
//! A tile is so many rows and tokens that what is looked up, and what is loaded of x, serves several of its sums. The tiles of
//! a group of rows take each step side by side, so that x, which may be larger than the first-level cache, is fetched once a
//! group.

use std::ops::Range;

use super::{FourBitView, Scales};
use crate::matvec::FewRows;
use crate::simd::{FourBit, MAX_LANES, words_read};
use crate::streams::{STREAM_PREFETCH_BYTES, STREAMS, Together, streams};

/// A product, with what is the same for all of its tiles.
pub(super) struct Tiles<'a, S: FourBit, C> {
    simd: S,
    table: S::Table,
    weight: FourBitView<'a>,
    scales: C,
    few: &'a FewRows<'a>,
}

impl<'a, S: FourBit, C: Scales> Tiles<'a, S, C> {
    #[inline(always)]
    pub(super) fn new(simd: S, weight: FourBitView<'a>, scales: C, few: &'a FewRows<'a>) -> Self {
        Tiles {
            simd,
            table: simd.table(weight.table),
            weight,
            scales,
            few,
        }
    }

    /// A step, eight registers of a row, is `STEP_BLOCKS` blocks or lies within one.
    #[inline(always)]
    pub(super) fn multiply(&self) {
        match (8 * S::LANES).div_ceil(self.weight.block_size()) {
            1 => self.rows::<1>(),
            2 => self.rows::<2>(),
            _ => {
                // So that nothing is compiled where it is not: blocks have 32 elements or more.
                assert!(S::LANES > 8);
                self.rows::<4>();
            }
        }
    }

    #[inline(always)]
    fn rows<const STEP_BLOCKS: usize>(&self) {
        match self.few.n_tokens {
            1 => self.streams::<STEP_BLOCKS>(),
            _ => self.groups::<STEP_BLOCKS>(),
        }
    }

    /// One token is bound by the memory.
    #[inline(always)]
    fn streams<const STEP_BLOCKS: usize>(&self) {
        let ahead = 2 * STREAM_PREFETCH_BYTES;
        let (groups, rest) = streams(self.few.rows.clone(), STREAMS);
        for rows in groups {
            self.tiles::<STEP_BLOCKS, STREAMS, 1, 1>(rows, 0, ahead);
        }
        for row in rest {
            self.tiles::<STEP_BLOCKS, 1, 1, 1>(Together::beside(row), 0, ahead);
        }
    }

    /// Groups of rows, each of which stays in the cache while all tokens pass.
    #[inline(always)]
    fn groups<const STEP_BLOCKS: usize>(&self) {
        for row in self.few.rows.clone().step_by(GROUP_ROWS) {
            let rows = row..(row + GROUP_ROWS).min(self.few.rows.end);
            let mut token = 0;
            while token < self.few.n_tokens {
                // Rows, tokens and tiles.
                token += match self.few.n_tokens - token {
                    1 => self.tokens::<STEP_BLOCKS, 4, 1, 1>(&rows, token),
                    2 | 3 => self.tokens::<STEP_BLOCKS, 4, 2, 3>(&rows, token),
                    4..=7 if S::MANY_REGISTERS => self.tokens::<STEP_BLOCKS, 4, 4, 3>(&rows, token),
                    4..=7 => self.tokens::<STEP_BLOCKS, 2, 4, 6>(&rows, token),
                    _ if S::MANY_REGISTERS => self.tokens::<STEP_BLOCKS, 3, 8, 4>(&rows, token),
                    _ => self.tokens::<STEP_BLOCKS, 1, 8, 12>(&rows, token),
                };
            }
        }
    }

    /// A group's rows times `T` tokens; returns `T`. Rows that are left when `N` tiles of `R` rows have been taken as often
    /// as possible are taken singly.
    #[inline(always)]
    fn tokens<const STEP_BLOCKS: usize, const R: usize, const T: usize, const N: usize>(
        &self,
        rows: &Range<usize>,
        token: usize,
    ) -> usize {
        // The memory sees one stream: the rows that follow are asked for during these.
        let ahead = (N * R * self.weight.cols).max(PREFETCH_ELEMENTS);
        let mut row = rows.start;
        while row + N * R <= rows.end {
            self.tiles::<STEP_BLOCKS, R, T, N>(Together::beside(row), token, ahead);
            row += N * R;
        }
        while row < rows.end {
            self.tiles::<STEP_BLOCKS, 1, T, 1>(Together::beside(row), token, ahead);
            row += 1;
        }
        T
    }

    /// `N` tiles of `R` rows and `T` tokens, which take each step side by side. Each row is asked for so many elements `ahead`.
    #[inline(always)]
    fn tiles<const STEP_BLOCKS: usize, const R: usize, const T: usize, const N: usize>(
        &self,
        rows: Together,
        token: usize,
        ahead: usize,
    ) {
        let Tiles {
            simd,
            weight,
            scales,
            few,
            ..
        } = *self;
        let step = 8 * S::LANES;
        let x = &few.x[token * few.padded_cols..][..T * few.padded_cols];
        assert!((rows.row(N * R - 1) + 1) * weight.cols / 2 <= weight.packed.len());
        let mut sums = [[[simd.splat(0.0); T]; R]; N];
        // The last step, whole or not, is apart: what is read may reach beyond a step's own bytes.
        let last = (weight.cols - 1) / step * step;
        for at in (0..last).step_by(step) {
            for (n, sums) in sums.iter_mut().enumerate() {
                let mut codes = [weight.packed.as_ptr(); R];
                let mut step_scales = [simd.splat(0.0); R];
                for r in 0..R {
                    let element = rows.row(n * R + r) * weight.cols + at;
                    simd.prefetch(weight.packed.as_ptr().wrapping_add((element + ahead) / 2));
                    scales.prefetch(simd, (element + SCALES_AHEAD) >> weight.block_bits);
                    // SAFETY: the step lies within a row that lies within the weight.
                    unsafe {
                        codes[r] = codes[r].add(element / 2);
                        step_scales[r] =
                            scales.spread::<S, STEP_BLOCKS>(simd, element >> weight.block_bits);
                    }
                }
                // SAFETY: another step follows in each row; rows of x are whole steps long.
                unsafe { self.step(codes, step_scales, x.as_ptr().add(at), sums) };
            }
        }
        let last_of = |i: usize| rows.row(i) * weight.cols + last;
        let n_scaled = weight.cols - last;
        if weight.packed.len() - last_of(N * R - 1) / 2 >= words_read(S::LANES) {
            for (n, sums) in sums.iter_mut().enumerate() {
                let mut codes = [weight.packed.as_ptr(); R];
                let mut scales = [simd.splat(0.0); R];
                for r in 0..R {
                    let element = last_of(n * R + r);
                    codes[r] = weight.packed[element / 2..].as_ptr();
                    scales[r] = self.last_scales::<STEP_BLOCKS>(element, n_scaled);
                }
                // SAFETY: enough bytes even behind the last of the rows; rows of x are whole steps long.
                unsafe { self.step(codes, scales, x.as_ptr().add(last), sums) };
            }
        } else {
            for (i, sums) in sums.as_flattened_mut().iter_mut().enumerate() {
                let mut padded = [0; words_read(MAX_LANES)];
                let codes = self.readable(last_of(i), &mut padded);
                let scales = self.last_scales::<STEP_BLOCKS>(last_of(i), n_scaled);
                // SAFETY: enough bytes, as `readable` gives them; rows of x are whole steps long.
                unsafe {
                    let x = x.as_ptr().add(last);
                    self.step([codes], [scales], x, std::array::from_mut(sums));
                }
            }
        }
        for (i, sums) in sums.as_flattened().iter().enumerate() {
            for (t, &sum) in sums.iter().enumerate() {
                few.finish(rows.row(i), token + t, simd.reduce_add(sum));
            }
        }
    }

    /// The codes from `element` on, with as many bytes behind as looking up a step of them reads: in the weight, or copied
    /// to `padded` at its end.
    #[inline(always)]
    fn readable(&self, element: usize, padded: &mut [u8; words_read(MAX_LANES)]) -> *const u8 {
        let bytes = &self.weight.packed[element / 2..];
        if bytes.len() >= words_read(S::LANES) {
            return bytes.as_ptr();
        }
        padded[..bytes.len()].copy_from_slice(bytes);
        padded.as_ptr()
    }

    /// The scales of a step from `element` on that has `rest` elements left in its row. What is read beyond must not count:
    /// scales there are zeros.
    #[inline(always)]
    fn last_scales<const STEP_BLOCKS: usize>(&self, element: usize, rest: usize) -> S::F32 {
        let FourBitView { block_bits, .. } = self.weight;
        let mut scales = [0f32; STEP_BLOCKS];
        let n_blocks = rest.div_ceil(1 << block_bits);
        for (i, scale) in scales.iter_mut().take(n_blocks).enumerate() {
            *scale = self.scales.at((element >> block_bits) + i);
        }
        self.simd.spread(scales)
    }

    /// Adds the scaled products of a step of `R` rows with those of `T` tokens.
    ///
    /// # Safety
    /// Each of `codes` can be read for [`words_read`]`(LANES)` bytes, `x` for `8 · LANES` elements at each of `T` rows
    /// `padded_cols` apart.
    #[inline(always)]
    unsafe fn step<const R: usize, const T: usize>(
        &self,
        codes: [*const u8; R],
        scales: [S::F32; R],
        x: *const f32,
        sums: &mut [[S::F32; T]; R],
    ) {
        let Tiles { simd, table, .. } = *self;
        let x_stride = self.few.padded_cols;
        let mut products = [[simd.splat(0.0); T]; R];
        for i in 0..8 {
            // Looked up just before their use, so that few registers hold values.
            let mut values = [simd.splat(0.0); R];
            for (value, &codes) in values.iter_mut().zip(&codes) {
                // SAFETY: as the caller promises.
                *value = unsafe { simd.look_up_eighth(table, codes, i) };
            }
            for t in 0..T {
                // SAFETY: as the caller promises.
                let x = unsafe { simd.load(x.add(t * x_stride + i * S::LANES)) };
                for (products, &value) in products.iter_mut().zip(&values) {
                    products[t] = if i == 0 {
                        simd.mul(value, x)
                    } else {
                        simd.fma(value, x, products[t])
                    };
                }
            }
        }
        for ((sums, products), &scale) in sums.iter_mut().zip(&products).zip(&scales) {
            for (sum, &product) in sums.iter_mut().zip(products) {
                *sum = simd.fma(product, scale, *sum);
            }
        }
    }
}

/// Rows of a group: a multiple of those that take each step side by side.
const GROUP_ROWS: usize = 12;
/// Least distance ahead of the loads at which codes are prefetched: enough to cover the memory's latency, and well
/// within what the first-level cache keeps.
const PREFETCH_ELEMENTS: usize = 8192;
/// Elements ahead of the loads for whose scales memory is asked: of one byte each, a cache line of them.
const SCALES_AHEAD: usize = 4096;
