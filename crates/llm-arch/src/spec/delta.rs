//! Spec of a delta rule: heads, widths and states.

use llm_tensor::Activation;

use super::NormSpec;

/// The gated delta rule (Yang, Kautz and Hatamizadeh 2024) of queries, keys and values that are convolved over a few positions
/// first; its results are normalised by head, and gated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaSpec {
    /// Heads of queries, and of keys.
    pub n_key_heads: usize,
    /// Heads of values; a multiple of `n_key_heads`.
    pub n_value_heads: usize,
    /// Order of the heads of values.
    pub order: ValueOrder,
    /// Elements of a head of queries or keys.
    pub key_dim: usize,
    /// Elements of a head of values.
    pub value_dim: usize,
    /// Positions that a convolution's result is made of, its own included.
    pub kernel: usize,
    /// Applied to what was convolved.
    pub activation: Activation,
    /// Storage of the projections.
    pub packing: DeltaPacking,
    /// Norm of results.
    pub norm: NormSpec,
}

/// Order of heads of values, of which each head of keys has as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueOrder {
    /// Those of a key head follow each other.
    ByKeyHead,
    /// The first of each key head, then the second of each, and so on, as llama.cpp's converter writes Qwen3.5's.
    Across,
}

/// Storage of a delta rule's projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeltaPacking {
    /// Four matrices: queries, keys and values; gates of results; strengths; decays.
    Separate,
    /// Two, whose rows lie by key head: its query, its own, its values' and their gates'; its values' strengths and decays.
    PerKeyHead,
    /// Three: queries, keys and values; gates of results; and strengths and decays, by key head.
    PairsPerKeyHead,
    /// Four, queries, keys, values and strengths, and two each for gates of results and for decays, by way of latents. Each
    /// channel of keys has a decay of its own, gates are sigmoids, and queries, keys and values have taps of their own
    /// (Kimi Delta Attention, Kimi Team 2025).
    Channels {
        /// Elements of both latents.
        rank: usize,
    },
}

impl DeltaSpec {
    /// Features of all queries, and of all keys.
    pub fn keys_width(&self) -> usize {
        self.n_key_heads * self.key_dim
    }

    /// Features of all values, and of the gates of results.
    pub fn values_width(&self) -> usize {
        self.n_value_heads * self.value_dim
    }

    /// Consecutive heads of values that share a key head.
    pub fn n_together(&self) -> usize {
        match self.order {
            ValueOrder::ByKeyHead => self.n_value_heads / self.n_key_heads,
            ValueOrder::Across => 1,
        }
    }

    /// Features that are convolved: queries, keys and values.
    pub fn conv_width(&self) -> usize {
        2 * self.keys_width() + self.values_width()
    }

    /// Decays of a position: one for each head of values, or for each channel of their keys.
    pub fn n_decays(&self) -> usize {
        match self.packing {
            DeltaPacking::Separate | DeltaPacking::PerKeyHead | DeltaPacking::PairsPerKeyHead => {
                self.n_value_heads
            }
            DeltaPacking::Channels { .. } => self.n_value_heads * self.key_dim,
        }
    }

    /// Features that are convolved by each of its convolutions.
    pub fn convolved(&self) -> Vec<usize> {
        match self.packing {
            DeltaPacking::Separate | DeltaPacking::PerKeyHead | DeltaPacking::PairsPerKeyHead => {
                vec![self.conv_width()]
            }
            DeltaPacking::Channels { .. } => {
                vec![self.keys_width(), self.keys_width(), self.values_width()]
            }
        }
    }

    /// Features of results, or of what lies in their place before: latents, and what was convolved.
    pub(super) fn mixed_width(&self) -> usize {
        match self.packing {
            DeltaPacking::Separate | DeltaPacking::PerKeyHead | DeltaPacking::PairsPerKeyHead => {
                self.values_width()
            }
            DeltaPacking::Channels { rank } => self.values_width().max(self.keys_width()).max(rank),
        }
    }

    /// Features of `[q | k | v | gates | strengths | decays]`.
    pub fn projected_width(&self) -> usize {
        self.conv_width() + self.values_width() + self.n_value_heads + self.n_decays()
    }

    /// Elements of a sequence's inputs of the positions before, and of its state.
    pub fn elements(&self) -> [usize; 2] {
        let before = self.conv_width() * (self.kernel - 1);
        [before, self.n_value_heads * self.key_dim * self.value_dim]
    }
}
