//! Arguments of all sublayers of a pass.

use llm_arch::{Side, StackSpec};
use llm_backend::Backend;

use crate::relative::BiasTable;
use crate::state::SequenceBlocks;

/// Arguments of all blocks of a pass.
pub(crate) struct Call<'a, B: Backend> {
    pub(crate) queue: &'a mut B::Queue,
    pub(crate) side: Side,
    pub(crate) stack: &'a StackSpec,
    pub(crate) bias: Option<&'a BiasTable<B>>,
    pub(crate) n_tokens: usize,
    /// Where the layer leaves keys and values for other devices, if it does.
    pub(crate) lends: Option<LentColumns>,
    /// Blocks for the rows of each sequence.
    pub(crate) sequences: &'a SequenceBlocks<B>,
}

/// Columns of `a.rows.lent` that are a layer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LentColumns {
    /// The first.
    pub(crate) first: usize,
    /// Columns of all layers.
    pub(crate) row_width: usize,
}

/// Input of a sublayer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// `a.x`.
    Residual,
    /// `a.normed`.
    Normed,
}
