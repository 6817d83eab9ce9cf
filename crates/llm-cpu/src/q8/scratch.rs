//! Layout of the workspace in a call, in words of four bytes.

use llm_quant::ACTIVATION_BLOCK;

use crate::simd::dot::GROUPS;

/// Parameters of the memory of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    n_tokens: usize,
    /// Blocks of a row: whole pieces of [`GROUPS`].
    n_blocks: usize,
}

/// Destination of rounded activations.
pub(super) struct Rounded<'a> {
    pub(super) n_tokens: usize,
    pub(super) n_blocks: usize,
    /// i8 `[n_tokens, n_blocks · ACTIVATION_BLOCK]`.
    pub(super) codes: &'a mut [f32],
    /// `[n_tokens, n_blocks]`.
    pub(super) scales: &'a mut [f32],
    /// `[n_tokens, 2, n_blocks]`.
    pub(super) half_sums: &'a mut [f32],
    /// `[n_tokens, n_blocks]`.
    pub(super) sums: &'a mut [f32],
}

impl Layout {
    pub(super) fn new(n_tokens: usize, cols: usize) -> Self {
        Layout {
            n_tokens,
            n_blocks: cols.div_ceil(ACTIVATION_BLOCK).next_multiple_of(GROUPS),
        }
    }

    /// Words of all.
    pub(super) fn len(&self) -> usize {
        self.codes_len() + 4 * self.scales_len()
    }

    /// Divides memory of this length.
    pub(super) fn split<'a>(&self, memory: &'a mut [f32]) -> Rounded<'a> {
        let (codes, rest) = memory.split_at_mut(self.codes_len());
        let (scales, rest) = rest.split_at_mut(self.scales_len());
        let (half_sums, rest) = rest.split_at_mut(2 * self.scales_len());
        Rounded {
            n_tokens: self.n_tokens,
            n_blocks: self.n_blocks,
            codes,
            scales,
            half_sums,
            sums: &mut rest[..self.scales_len()],
        }
    }

    fn codes_len(&self) -> usize {
        self.scales_len() * ACTIVATION_BLOCK / size_of::<f32>()
    }

    fn scales_len(&self) -> usize {
        self.n_tokens * self.n_blocks
    }
}

/// Words that a call of these sizes takes.
pub(crate) fn workspace_len(n_tokens: usize, cols: usize) -> usize {
    Layout::new(n_tokens, cols).len()
}
