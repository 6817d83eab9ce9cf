//! Activations in 8 bits.
//!
//! Outlier columns are known when all rows have been looked at, so there are two passes, and within each the
//! rows are shared among the threads.

use std::sync::atomic::{AtomicU32, Ordering};

use llm_quant::code_factor;

use crate::Cpu;
use crate::share::{MIN_ELEMENTS, Rows};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Destination of quantized activations.
pub(super) struct Quantized<'a> {
    /// i8 `[n_tokens, padded_cols]`.
    pub(super) codes: &'a mut [f32],
    /// i8 of a row.
    pub(super) padded_cols: usize,
    /// `[n_tokens]`.
    pub(super) absmax: &'a mut [f32],
    /// i32 `[n_tokens]`.
    pub(super) code_sums: &'a mut [f32],
    /// A bit for every column.
    pub(super) outlier_bits: &'a mut [u32],
    /// As many as there are columns.
    pub(super) outlier_cols: &'a mut [u32],
}

/// Rows of activations as LLM.int8() multiplies them: what [`llm_quant::Activations8`] says, bit by bit.
pub(super) struct Activations<'a> {
    /// As they were given, `[n_tokens, cols]`.
    pub(super) x: &'a [f32],
    pub(super) cols: usize,
    /// `[n_tokens, padded_cols]`; zeros in outlier columns and beyond the last column.
    pub(super) codes: &'a [i8],
    pub(super) padded_cols: usize,
    /// The scale of each row.
    pub(super) absmax: &'a [f32],
    /// The sum of the codes of each row.
    pub(super) code_sums: &'a [i32],
    /// Ascending.
    pub(super) outlier_cols: &'a [u32],
}

impl<'a> Activations<'a> {
    /// Quantizes rows of `cols` activations into memory for as many.
    pub(super) fn quantize(
        cpu: &Cpu,
        x: &'a [f32],
        cols: usize,
        threshold: f32,
        into: Quantized<'a>,
    ) -> Self {
        let Quantized {
            codes,
            padded_cols,
            absmax,
            code_sums,
            outlier_bits,
            outlier_cols,
        } = into;
        let n_tokens = absmax.len();
        let min_tokens = MIN_ELEMENTS.div_ceil(cols.max(1));

        outlier_bits.fill(0);
        let bits = as_atomic(outlier_bits);
        let scales = Rows::new(absmax, 1);
        let pool = &cpu.pool;
        pool.split(n_tokens, min_tokens, scales, |tokens, absmax| {
            cpu.level.run(Measure {
                x: &x[tokens.start * cols..tokens.end * cols],
                cols,
                // Whatever is finite in f16 is below infinity.
                threshold: if threshold > 0.0 {
                    threshold
                } else {
                    f32::INFINITY
                },
                absmax,
                outlier_bits: bits,
            });
        });
        let outlier_cols = list(outlier_bits, outlier_cols);

        let rows = Rows::new(codes, padded_cols / size_of::<f32>());
        let into = (rows, Rows::new(code_sums, 1));
        pool.split(n_tokens, min_tokens, into, |tokens, (codes, sums)| {
            cpu.level.run(Encode {
                x: &x[tokens.start * cols..tokens.end * cols],
                cols,
                absmax: &absmax[tokens],
                outlier_cols,
                codes: bytemuck::cast_slice_mut(codes),
                padded_cols,
                code_sums: bytemuck::cast_slice_mut(sums),
            });
        });
        Activations {
            x,
            cols,
            codes: bytemuck::cast_slice(codes),
            padded_cols,
            absmax,
            code_sums: bytemuck::cast_slice(code_sums),
            outlier_cols,
        }
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.absmax.len()
    }
}

/// The positions of the bits that are set, at the start of `positions`.
fn list<'a>(bits: &[u32], positions: &'a mut [u32]) -> &'a [u32] {
    let mut n = 0;
    for (word, mut rest) in (0..).zip(bits.iter().copied()) {
        while rest != 0 {
            positions[n] = 32 * word + rest.trailing_zeros();
            n += 1;
            rest &= rest - 1;
        }
    }
    &positions[..n]
}

fn as_atomic(words: &mut [u32]) -> &[AtomicU32] {
    // SAFETY: both have the same layout, and nobody but the atomics is used while the exclusive borrow lasts.
    unsafe { &*(std::ptr::from_mut(words) as *const [AtomicU32]) }
}

/// Finds the scale of each row and the outlier columns.
struct Measure<'a> {
    /// `[n_rows, cols]`.
    x: &'a [f32],
    cols: usize,
    threshold: f32,
    /// `[n_rows]`.
    absmax: &'a mut [f32],
    /// A bit for every column, set where one of the rows holds an outlier.
    outlier_bits: &'a [AtomicU32],
}

impl Kernel for Measure<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let zero = simd.splat(0.0);
        let largest_inlier = simd.splat(self.threshold.next_down());
        for (x, absmax) in self.x.chunks_exact(self.cols).zip(self.absmax) {
            let mut inliers = zero;
            for (i, chunk) in x.chunks(CHUNK).enumerate() {
                let mut largest = zero;
                for at in (0..chunk.len()).step_by(S::LANES) {
                    let x = magnitude(simd, simd.get(chunk, at));
                    largest = simd.max(x, largest);
                    let beyond = simd.sub(largest_inlier, x);
                    inliers = simd.max_magnitude(inliers, simd.where_negative(beyond, zero, x));
                }
                if simd.reduce_max(largest) >= self.threshold {
                    mark(simd, chunk, i * CHUNK, self.threshold, self.outlier_bits);
                }
            }
            *absmax = simd.reduce_max_magnitude(inliers);
        }
    }
}

/// Sets the bits of the columns of outliers in a piece of a row that begins with column `first`.
#[inline(always)]
fn mark<S: Simd>(simd: S, x: &[f32], first: usize, threshold: f32, outlier_bits: &[AtomicU32]) {
    for at in (0..x.len()).step_by(S::LANES) {
        let mut lanes = [0.0; MAX_LANES];
        simd.put(&mut lanes, 0, magnitude(simd, simd.get(x, at)));
        for (lane, &x) in lanes.iter().enumerate() {
            if x >= threshold {
                let col = first + at + lane;
                outlier_bits[col / 32].fetch_or(1 << (col % 32), Ordering::Relaxed);
            }
        }
    }
}

/// Encodes rows whose scales are known.
struct Encode<'a> {
    /// `[n_rows, cols]`.
    x: &'a [f32],
    cols: usize,
    /// `[n_rows]`.
    absmax: &'a [f32],
    outlier_cols: &'a [u32],
    /// `[n_rows, padded_cols]`.
    codes: &'a mut [i8],
    padded_cols: usize,
    /// `[n_rows]`.
    code_sums: &'a mut [i32],
}

impl Kernel for Encode<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.chunks_exact(self.cols).zip(self.absmax);
        let codes = self.codes.chunks_exact_mut(self.padded_cols);
        for (((x, &absmax), codes), code_sum) in rows.zip(codes).zip(self.code_sums) {
            let factor = simd.splat(code_factor(absmax));
            for at in (0..self.cols).step_by(S::LANES) {
                let x = within_f16(simd, simd.get(x, at));
                let codes = &mut codes[at..at + S::LANES];
                // SAFETY: the codes are as many as there are lanes.
                unsafe { simd.store_codes(codes.as_mut_ptr(), simd.mul(x, factor)) };
            }
            codes[self.cols..].fill(0);
            for &col in self.outlier_cols {
                codes[col as usize] = 0;
            }
            *code_sum = codes.iter().map(|&code| i32::from(code)).sum();
        }
    }
}

/// As the references see it: f16, at most its largest number.
#[inline(always)]
fn within_f16<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // In this order of arguments NaN remains.
    let x = simd.max(simd.splat(-MAX_F16), simd.through_f16(x));
    simd.min(simd.splat(MAX_F16), x)
}

#[inline(always)]
fn magnitude<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let x = within_f16(simd, x);
    simd.max(simd.sub(simd.splat(0.0), x), x)
}

/// The largest f16.
const MAX_F16: f32 = 65504.0;
/// Activations that are looked at together for outliers.
const CHUNK: usize = 128;
