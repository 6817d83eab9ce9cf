//! What a model is: plain data, and all that the runtime needs to know of a family.

use llm_tensor::{Activation, DType, Norm};

use crate::rotary::RotarySpec;

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The family's name, as `llama`.
    pub family: &'static str,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Tokens that the embedding and the head know.
    pub vocab: usize,
    /// Positions the model was made for: prompt and continuation together.
    pub context: usize,
    /// The decoder's layers.
    pub decoder: StackSpec,
    /// How hidden states become logits.
    pub head: Head,
    /// The element type that the configuration names for the weights.
    pub dtype: Option<DType>,
}

/// A run of like blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct StackSpec {
    /// Blocks.
    pub n_layers: usize,
    /// How positions enter.
    pub positions: Positions,
    /// Every normalisation of the stack, the final one included.
    pub norm: NormSpec,
    /// What each block is.
    pub block: BlockSpec,
}

/// How a token's position enters the computation.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// A learned vector per position, added to the embedding.
    Learned {
        /// Rows of the table.
        max: usize,
    },
    /// Queries and keys are turned by angles that grow with the position (Su et al. 2021).
    Rotary(RotarySpec),
}

/// A normalisation with its learned vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Which statistic; a LayerNorm has a bias beside its gain.
    pub norm: Norm,
    /// Added under the root.
    pub eps: f32,
}

/// One block: norm, attention, residual; norm, feed-forward, residual.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockSpec {
    /// Self-attention.
    pub attention: AttentionSpec,
    /// Feed-forward.
    pub mlp: MlpSpec,
}

/// Self-attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys, and of values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// How the checkpoint stores the three projections.
    pub packing: Packing,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
}

impl AttentionSpec {
    /// Output features of the query projection.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Output features of the key projection, and of the value projection.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// How a checkpoint stores the query, key and value projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Three matrices.
    Separate,
    /// One matrix, all queries' features, then all keys', then all values'.
    Stacked,
}

/// Feed-forward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpSpec {
    /// Features between the two projections.
    pub width: usize,
    /// The non-linearity.
    pub activation: Activation,
    /// Whether the activated features multiply a second projection's (Shazeer 2020).
    pub gated: bool,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// How hidden states become logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// By the embedding's own table.
    Tied,
    /// By a matrix of its own.
    Separate,
}
