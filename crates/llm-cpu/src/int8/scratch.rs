//! Layout of the workspace in a call, in words of four bytes.

use super::activations::Quantized;
use super::gemm;
use crate::isa::Geometry;
use crate::matvec::GEMM_TOKENS;
use crate::simd::int::MAX_STEP;

/// Parameters of the memory of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    n_tokens: usize,
    cols: usize,
    n_threads: usize,
    /// Words of a thread's scratch for products with many rows.
    product: usize,
}

/// The memory of a call.
pub(super) struct Int8Scratch<'a> {
    pub(super) quantized: Quantized<'a>,
    /// [`Layout::thread_len`] of it is a thread's.
    pub(super) threads: &'a mut [f32],
}

/// The memory of a thread.
pub(super) struct ThreadScratch<'a> {
    /// For products with many rows.
    pub(super) product: &'a mut [f32],
    /// i8 [`ROWS_PER_USE`] `· cols`.
    pub(super) codes: &'a mut [u8],
    /// [`ROWS_PER_USE`].
    pub(super) absmax: &'a mut [f32],
}

impl Layout {
    pub(super) fn new(n_tokens: usize, cols: usize, geometry: Geometry, n_threads: usize) -> Self {
        let product = if n_tokens < GEMM_TOKENS {
            0
        } else {
            gemm::SCRATCH_LEN.max(crate::gemm::scratch_len(n_tokens, geometry.panel))
        };
        Layout {
            n_tokens,
            cols,
            n_threads,
            product: whole_lines(product),
        }
    }

    /// Words of all.
    pub(super) fn len(&self) -> usize {
        self.codes_len()
            + 2 * whole_lines(self.n_tokens)
            + whole_lines(self.cols.div_ceil(32))
            + whole_lines(self.cols)
            + self.n_threads * self.thread_len()
    }

    /// Divides memory of this length.
    pub(super) fn split<'a>(&self, mut memory: &'a mut [f32]) -> Int8Scratch<'a> {
        let mut take = |n: usize| {
            let (piece, rest) = std::mem::take(&mut memory).split_at_mut(whole_lines(n));
            memory = rest;
            &mut piece[..n]
        };
        Int8Scratch {
            quantized: Quantized {
                codes: take(self.codes_len()),
                padded_cols: self.padded_cols(),
                absmax: take(self.n_tokens),
                code_sums: take(self.n_tokens),
                outlier_bits: bytemuck::cast_slice_mut(take(self.cols.div_ceil(32))),
                outlier_cols: bytemuck::cast_slice_mut(take(self.cols)),
            },
            threads: take(self.n_threads * self.thread_len()),
        }
    }

    /// Divides the piece of a thread.
    pub(super) fn split_thread<'a>(&self, memory: &'a mut [f32]) -> ThreadScratch<'a> {
        let (product, rest) = memory.split_at_mut(self.product);
        let (absmax, codes) = rest.split_at_mut(ROWS_PER_USE);
        ThreadScratch {
            product,
            codes: bytemuck::cast_slice_mut(codes),
            absmax,
        }
    }

    fn padded_cols(&self) -> usize {
        self.cols.next_multiple_of(MAX_STEP)
    }

    fn codes_len(&self) -> usize {
        self.n_tokens * self.padded_cols() / WORD
    }

    /// Words of a thread.
    pub(super) fn thread_len(&self) -> usize {
        self.product + ROWS_PER_USE + whole_lines((ROWS_PER_USE * self.cols).div_ceil(WORD))
    }
}

/// Words that a call of these sizes takes.
pub(crate) fn workspace_len(
    n_tokens: usize,
    cols: usize,
    geometry: Geometry,
    n_threads: usize,
) -> usize {
    Layout::new(n_tokens, cols, geometry, n_threads).len()
}

/// Words rounded up to whole cache lines.
const fn whole_lines(n_words: usize) -> usize {
    n_words.next_multiple_of(16)
}

/// Rows that are encoded together at each use: so many that the activations need not come from far for every few.
pub(super) const ROWS_PER_USE: usize = 32;
/// Bytes of a word.
const WORD: usize = 4;
