//! Weights times few rows: as fast as the weights can be read.

use std::ops::Range;

use half::{bf16, f16};
use llm_backend::Output;

use crate::dense::DenseView;
use crate::isa::Geometry;
use crate::share::Columns;
use crate::simd::{Element, ElementType, FourBit, Kernel, Simd};
use crate::streams::{STREAM_PREFETCH_BYTES, STREAMS, Together, streams};

/// Some rows of a weight times all rows of x.
///
/// Every result is a dot product over `2 · LANES` elements at a time, whatever rows and tokens are computed beside it.
pub(crate) struct MatVec<'a> {
    pub(crate) weight: DenseView<'a>,
    pub(crate) few: FewRows<'a>,
}

/// Operands of a product with few rows beside the weight, and its results.
pub(crate) struct FewRows<'a> {
    pub(crate) bias: Option<DenseView<'a>>,
    /// The weight's rows to compute.
    pub(crate) rows: Range<usize>,
    /// `[n_tokens, padded_cols]`, in the weight's order.
    pub(crate) x: &'a [f32],
    pub(crate) padded_cols: usize,
    pub(crate) n_tokens: usize,
    /// Of `[n_tokens, width]`: those of the rows.
    pub(crate) out: &'a Columns<'a>,
    /// The column of the weight's row 0.
    pub(crate) out_column: usize,
    pub(crate) output: Output,
}

impl FewRows<'_> {
    /// Completes the result of a row and a token.
    #[inline(always)]
    pub(crate) fn finish(&self, row: usize, token: usize, mut sum: f32) {
        if let Some(bias) = self.bias {
            sum += bias.element(row);
        }
        self.out
            .put(token, self.out_column + row, &[sum], self.output);
    }
}

impl Kernel for MatVec<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        match self.weight.element {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl MatVec<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(&self, simd: S) {
        assert!(self.few.rows.end <= self.weight.rows);
        assert!(self.few.padded_cols.is_multiple_of(2 * S::LANES));
        assert!(self.few.padded_cols >= self.weight.cols);
        assert!(self.few.x.len() >= self.few.n_tokens * self.few.padded_cols);
        let (groups, rest) = streams(self.few.rows.clone(), STREAMS);
        for rows in groups {
            self.tokens::<S, E, STREAMS>(simd, rows);
        }
        for row in rest {
            self.tokens::<S, E, 1>(simd, Together::beside(row));
        }
    }

    /// `R` rows, which stay in the cache while all tokens pass.
    #[inline(always)]
    fn tokens<S: Simd, E: Element, const R: usize>(&self, simd: S, rows: Together) {
        let mut token = 0;
        while token < self.few.n_tokens {
            token += match self.few.n_tokens - token {
                1 => self.block::<S, E, R, 1>(simd, rows, token),
                2 => self.block::<S, E, R, 2>(simd, rows, token),
                3 => self.block::<S, E, R, 3>(simd, rows, token),
                _ => self.block::<S, E, R, 4>(simd, rows, token),
            };
        }
    }

    /// `R` rows times `T` tokens; returns `T`.
    #[inline(always)]
    fn block<S: Simd, E: Element, const R: usize, const T: usize>(
        &self,
        simd: S,
        rows: Together,
        token: usize,
    ) -> usize {
        let cols = self.weight.cols;
        let step = 2 * S::LANES;
        let x = &self.few.x[token * self.few.padded_cols..][..T * self.few.padded_cols];
        let mut sums = [[simd.splat(0.0); T]; R];
        // SAFETY: the rows lie within the weight (asserted in `all`) and are read up to their last element; x is as
        // long as sliced above; the caller of the kernel owns these columns of `out`, which `finish` checks.
        unsafe {
            let weight = self.weight.as_ptr();
            let mut lines = [weight; R];
            for (r, line) in lines.iter_mut().enumerate() {
                *line = weight.add(rows.row(r) * cols * E::SIZE);
            }
            for at in (0..cols - cols % step).step_by(step) {
                for (&line, sums) in lines.iter().zip(&mut sums) {
                    let line = line.add(at * E::SIZE);
                    let ahead = line.wrapping_add(STREAM_PREFETCH_BYTES);
                    simd.prefetch(ahead);
                    if step * E::SIZE > CACHE_LINE {
                        simd.prefetch(ahead.wrapping_add(CACHE_LINE));
                    }
                    let pair = E::load_pair(simd, line);
                    accumulate(simd, pair, x.as_ptr().add(at), self.few.padded_cols, sums);
                }
            }
            let rest = cols % step;
            if rest > 0 {
                let at = cols - rest;
                for (&line, sums) in lines.iter().zip(&mut sums) {
                    let pair = E::load_pair_part(simd, line.add(at * E::SIZE), rest);
                    accumulate(simd, pair, x.as_ptr().add(at), self.few.padded_cols, sums);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (t, sum) in sums.into_iter().enumerate() {
                let sum = simd.reduce_add(sum);
                self.few.finish(rows.row(r), token + t, sum);
            }
        }
        T
    }
}

/// Adds the products of one pair of registers of a weight's row with those of `T` tokens.
///
/// # Safety
/// `x` can be read for `2 · LANES` elements at each of `T` rows `x_stride` apart.
#[inline(always)]
unsafe fn accumulate<S: Simd, const T: usize>(
    simd: S,
    (first, second): (S::F32, S::F32),
    x: *const f32,
    x_stride: usize,
    sums: &mut [S::F32; T],
) {
    for (t, sum) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        unsafe {
            let x = x.add(t * x_stride);
            *sum = simd.fma(first, simd.load(x), *sum);
            *sum = simd.fma(second, simd.load(x.add(S::LANES)), *sum);
        }
    }
}

/// Scratch elements of a linear operation on few rows: the arranged rows.
pub(crate) fn matvec_len(n_tokens: usize, cols: usize, geometry: Geometry) -> usize {
    n_tokens * padded_cols(cols, geometry)
}

/// The elements of an arranged row: whole steps of every kernel.
pub(crate) fn padded_cols(cols: usize, geometry: Geometry) -> usize {
    cols.next_multiple_of(8 * geometry.lanes)
}

/// The tokens from which on panels of weights pay; below, weights are read row by row.
pub(crate) const GEMM_TOKENS: usize = 12;
/// Rows of a sequence that a pass may have while each gets what it gets alone, bit by bit, but for weights in LLM.int8(): its
/// activations' outliers are columns of all rows.
pub const FEW_ROWS: usize = GEMM_TOKENS - 1;
/// The same for 4-bit weights of whole blocks, whose panels take longer to make.
pub(crate) const GEMM_TOKENS_4BIT: usize = 32;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
