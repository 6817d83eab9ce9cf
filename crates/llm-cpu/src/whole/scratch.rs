//! Layout of the workspace in a call, in words of four bytes.

use llm_quant::ACTIVATION_BLOCK;

use super::activations::Rounded;
use super::gemm::SCRATCH_LEN;
use crate::digits::Digits;
use crate::matvec::GEMM_TOKENS;
use crate::simd::dot::GROUPS;

/// Parameters of the memory of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    digits: Digits,
    n_tokens: usize,
    /// Blocks of a row: whole pieces of [`GROUPS`].
    n_blocks: usize,
    n_threads: usize,
}

/// The memory of a call.
pub(super) struct WholeScratch<'a> {
    pub(super) rounded: Rounded<'a>,
    /// [`Layout::thread_len`] of it is a thread's.
    pub(super) threads: &'a mut [f32],
}

impl Layout {
    pub(super) fn new(digits: Digits, n_tokens: usize, cols: usize, n_threads: usize) -> Self {
        Layout {
            digits,
            n_tokens,
            n_blocks: cols.div_ceil(ACTIVATION_BLOCK).next_multiple_of(GROUPS),
            n_threads,
        }
    }

    /// Words of all.
    pub(super) fn len(&self) -> usize {
        self.codes_len()
            + 2 * whole_lines(self.scales_len())
            + whole_lines(2 * self.scales_len())
            + self.n_threads * self.thread_len()
    }

    /// Divides memory of this length.
    pub(super) fn split<'a>(&self, mut memory: &'a mut [f32]) -> WholeScratch<'a> {
        let mut take = |n: usize| {
            let (piece, rest) = std::mem::take(&mut memory).split_at_mut(whole_lines(n));
            memory = rest;
            &mut piece[..n]
        };
        WholeScratch {
            rounded: Rounded {
                digits: self.digits,
                n_tokens: self.n_tokens,
                n_blocks: self.n_blocks,
                codes: take(self.codes_len()),
                scales: take(self.scales_len()),
                half_sums: take(2 * self.scales_len()),
                sums: take(self.scales_len()),
            },
            threads: take(self.n_threads * self.thread_len()),
        }
    }

    /// Words of a thread, for panels.
    pub(super) fn thread_len(&self) -> usize {
        if self.n_tokens < GEMM_TOKENS {
            0
        } else {
            SCRATCH_LEN
        }
    }

    /// Whole lines.
    fn codes_len(&self) -> usize {
        self.digits.n() * self.scales_len() * ACTIVATION_BLOCK / size_of::<f32>()
    }

    fn scales_len(&self) -> usize {
        self.n_tokens * self.n_blocks
    }
}

/// Words that a call of these sizes takes.
pub(crate) fn workspace_len(
    digits: Digits,
    n_tokens: usize,
    cols: usize,
    n_threads: usize,
) -> usize {
    let n_tokens = match digits {
        Digits::One => n_tokens,
        Digits::Three => n_tokens.min(GEMM_TOKENS - 1),
    };
    Layout::new(digits, n_tokens, cols, n_threads).len()
}

/// Words rounded up to whole cache lines.
const fn whole_lines(n_words: usize) -> usize {
    n_words.next_multiple_of(16)
}
