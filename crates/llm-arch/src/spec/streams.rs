//! Streams of a residual that has several.

/// A residual of several streams, each as wide as the model: a block computes with one row of it, and its result goes to all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamsSpec {
    /// Streams; two at least.
    pub n: usize,
    /// How blocks read and write them.
    pub join: StreamsJoin,
}

/// Ways of blocks with several streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StreamsJoin {
    /// Alternating updates (AltUp: Baykal et al. 2023; Gemma 3n): the streams are predicted, a block computes with the first, and what
    /// it made of that corrects all.
    AltUp(AltUpSpec),
    /// Manifold-constrained hyper-connections (Xie et al. 2026; DeepSeek-V4): each sublayer reads a weighted sum of all streams, and
    /// they are made of all of them and of what it makes.
    Hyper(HyperSpec),
}

/// Alternating updates.
///
/// ```text
/// s ─ predict ─┬──────────────────────────────────────── + ─┬──────────────────────── + ─► s
///              │                        block − first ───┘  │                         │ not to the first
///              └─ first ─ block ────────┘                   └─ first · scale ─ inputs ┘
///
/// block    x ─┬─ norm ─┬─ mixer ─ norm ─ + ─ + ─ / √2 ─┬─ norm ─ mlp ─ norm ─ + ─►
///             │        ├─ down ─ up ─ norm + ─┘        └──────────────────────┘
///             │        └───────────────────┘
///             └──────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AltUpSpec {
    /// Features between the projections of the learned residual beside the mixer (LAuReL, Menghani et al. 2024).
    pub laurel_rank: usize,
    /// True if learned numbers multiply the first stream where the layer's inputs are gated by it.
    pub scales_first: bool,
}

/// Hyper-connections.
///
/// ```text
/// s ─┬─ weights ─┬──────────────────── matrix ─ + ─► s      and so for the feed-forward
///    │           └─ sum ─ norm ─ mixer ─ each ──┘
///    └────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HyperSpec {
    /// Times that the matrix by which streams are made of each other is brought to sums of one.
    pub n_rounds: usize,
    /// Floor of weights.
    pub eps: f32,
}

impl StreamsSpec {
    /// Elements of a row of all streams.
    pub fn row_width(&self, hidden: usize) -> usize {
        self.n * hidden
    }

    /// Coefficients of a row by which streams are made of each other.
    pub fn n_coefficients(&self) -> usize {
        match self.join {
            StreamsJoin::AltUp(_) => self.n * self.n,
            // By which they are read and written, too.
            StreamsJoin::Hyper(_) => self.n * (2 + self.n),
        }
    }

    /// Features of the widest of the narrow rows that are computed beside a block.
    pub fn beside_width(&self) -> usize {
        match self.join {
            StreamsJoin::AltUp(of) => self.n.max(of.laurel_rank),
            StreamsJoin::Hyper(_) => 0,
        }
    }
}
