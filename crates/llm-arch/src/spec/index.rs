//! Selection of the positions that a query attends to (DeepSeek Sparse Attention, DeepSeek-AI 2025).

use llm_tensor::Pairing;

use super::NormSpec;

/// Selection of positions: of those before a query, its own included, the ones that score highest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexSpec {
    /// Positions that are selected, where there are as many.
    pub n_selected: usize,
    /// Heads that score positions; none where a layer sees what the last one before it that has heads selected.
    pub heads: Option<IndexHeads>,
}

/// Heads that score positions by one key of each.
///
/// A score is `Σ weight · max(0, query · key)` over heads, with queries of the latent that attention's are made of, and keys and
/// weights of a layer's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexHeads {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head's queries, and of the key.
    pub head_dim: usize,
    /// Elements that are turned together; they are the first of each head, and not the last as attention has it.
    pub pairing: Pairing,
    /// Norm of keys.
    pub norm: NormSpec,
}

impl IndexHeads {
    /// Features of all heads' queries.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }
}
