//! The words for a block's arithmetic: a model's descriptor names them, a device carries them out.
//!
//! Exhaustive on purpose: whoever adds a variant is led by the compiler to every place that has to know it.

/// Normalisation of a row before its learned gain (and bias) is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Zero mean, unit variance (LayerNorm, Ba et al. 2016).
    Layer,
    /// Unit root mean square (RMSNorm, Zhang and Sennrich 2019).
    Rms,
}

/// The non-linearity of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// max(0, x)² (So et al. 2021), as `relu2`.
    ReluSquared,
    /// x · Φ(x), by the error function.
    Gelu,
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016), as `gelu_new` and `gelu_pytorch_tanh`.
    GeluTanh,
    /// x · σ(x), also called swish.
    Silu,
}

/// Gating of features by those of a second projection, and their non-linearity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// `activation(gate) · up` of rows `[gate | up]`.
    Of(Activation),
    /// The clamped form of gpt-oss and of DeepSeek-V4.
    Clamped(ClampedGate),
    /// `activation(up)` of rows `[up]`, which nothing gates.
    Absent(Activation),
}

/// SwiGLU of clamped features with something added to the second (gpt-oss, OpenAI 2025): `g · σ(alpha · g) · (u + added)`, `g`
/// being the gate's feature but at most `limit`, `u` the other within `±limit`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClampedGate {
    /// Multiplies the sigmoid's argument.
    pub alpha: f32,
    /// Bounds the features; above zero.
    pub limit: f32,
    /// Added to the second feature.
    pub added: f32,
    /// Order of features in a row.
    pub order: GateOrder,
}

impl ClampedGate {
    /// Places of the gate's feature `i`, and of the one that it gates, in a row of `2 · width`.
    pub fn features(&self, width: usize, i: usize) -> [usize; 2] {
        match self.order {
            GateOrder::Halves => [i, width + i],
            GateOrder::Pairs => [2 * i, 2 * i + 1],
        }
    }
}

/// Order of the features of a gate and of what it gates in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateOrder {
    /// `[gate | up]`.
    Halves,
    /// A feature of the gate, then the one that it gates.
    Pairs,
}

/// Two elements of a head that one rotary angle turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Elements 2i and 2i + 1, as RoFormer (Su et al. 2021) has it.
    Adjacent,
    /// Elements i and i + dim / 2, as transformers stores most checkpoints.
    Halves,
}

/// Weights of the results of a router's chosen experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weighting {
    /// The router's probabilities over all experts.
    Probability,
    /// These, brought to a sum of one over the chosen.
    Normalised,
    /// Of each chosen one its share in the softmax over those that were not chosen before it and are nearly as good: `p` is near to
    /// the best of them, `b`, unless `(b − p) / max(|p|, b)` exceeds the tolerance (SparseMixer, Liu et al. 2023, as Phi-3.5-MoE
    /// infers with it).
    NearTies {
        /// Relative distance of what is near.
        tolerance: f32,
    },
}
