//! Inputs of layers: rows that each layer takes in beside the residual stream.

use llm_tensor::Activation;

/// Per-layer embeddings (Gemma 3n): each token has a row for each layer, of a table of its own. To it is added what a matrix makes
/// of the token's vector, normalised; and each layer's part, gated by the residual, is projected to it.
///
/// ```text
/// token ─ table · √width ────────── + ─ / √2 ─ rows of all layers, one of width each
/// x ─ project / √hidden ─ norm ─────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerLayerSpec {
    /// Tokens that the table knows; others have the row of the first.
    pub vocab: usize,
    /// Elements of a layer's part.
    pub width: usize,
    /// Applied to the gate of each.
    pub activation: Activation,
}

/// A layer's part of the rows of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerLayerPart {
    /// Elements.
    pub width: usize,
    /// Column of the first.
    pub first: usize,
    /// Columns of all layers'.
    pub row_width: usize,
    /// Applied to the gate.
    pub activation: Activation,
}
