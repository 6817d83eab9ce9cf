//! Parameters of the gated delta rule, and of the gates around mixers.

use crate::{Backend, NormOp};

/// The gated delta rule (Yang, Kautz and Hatamizadeh 2024): a state `S` `[key_dim, value_dim]` for each value head, which
/// each position decays, corrects by what it holds at the position's key, and reads at its query.
///
/// With γ = exp(−exp(`rate`) · softplus(a + `offset`)) and β = sigmoid(b), a and b projected of the input, k and q of
/// length one, q times `scale`: `S ← γ S + k ⊗ β (v − γ Sᵀ k)`, and the result is `Sᵀ q`.
#[derive(Debug)]
pub struct DeltaRule<'a, B: Backend> {
    /// Heads of queries, and of keys.
    pub n_key_heads: usize,
    /// Heads of values, a multiple of `n_key_heads`.
    pub n_value_heads: usize,
    /// Consecutive heads of values that share a key head; those behind have the next, and after the last the first again.
    pub n_together: usize,
    /// Elements of a head of queries or keys.
    pub key_dim: usize,
    /// Elements of a head of values.
    pub value_dim: usize,
    /// Added to the squared length of queries and keys.
    pub norm_eps: f32,
    /// Multiplies queries.
    pub scale: f32,
    /// `[n_value_heads]`, how fast each head decays, as a logarithm.
    pub rate: &'a B::Weight,
    /// `[n_value_heads]`, or `[n_value_heads · key_dim]`, added to the decay's step.
    pub offset: &'a B::Weight,
    /// What decays alike.
    pub decays: Decays,
    /// Where a and b are.
    pub gates: DeltaGates,
}

/// Parts of states that decay alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decays {
    /// A head's: γ is a number.
    Head,
    /// A row's, of each channel of keys: γ is a diagonal (Kimi Delta Attention, Kimi Team 2025).
    Channel,
}

/// Columns of a position's gates: strengths, one for each value head, and decays, as many or one for each channel of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaGates {
    /// The first of the decay's steps, a.
    pub decay: usize,
    /// The first of the corrections' strengths, b.
    pub strength: usize,
    /// Elements of a row.
    pub row_width: usize,
}

impl<B: Backend> Clone for DeltaRule<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for DeltaRule<'_, B> {}

impl<B: Backend> DeltaRule<'_, B> {
    /// Elements of a sequence's state, `[n_value_heads, key_dim, value_dim]`.
    pub fn state_elements(&self) -> usize {
        self.n_value_heads * self.key_dim * self.value_dim
    }

    /// Head of queries and keys that a head of values has.
    pub fn key_head(&self, head: usize) -> usize {
        head / self.n_together % self.n_key_heads
    }

    /// Elements of a row `[queries | keys | values]`.
    pub fn row_width(&self) -> usize {
        2 * self.n_key_heads * self.key_dim + self.out_width()
    }

    /// Elements of a result.
    pub fn out_width(&self) -> usize {
        self.n_value_heads * self.value_dim
    }

    /// Decays of a position.
    pub fn n_decays(&self) -> usize {
        match self.decays {
            Decays::Head => self.n_value_heads,
            Decays::Channel => self.n_value_heads * self.key_dim,
        }
    }

    /// # Panics
    /// When heads are not shared evenly, or gates leave their rows.
    pub fn check(&self) {
        let DeltaGates {
            decay,
            strength,
            row_width,
        } = self.gates;
        assert!(
            (self.n_value_heads / self.n_key_heads).is_multiple_of(self.n_together)
                && self.n_value_heads.is_multiple_of(self.n_key_heads),
            "{} value heads share {} key heads, {} in a row",
            self.n_value_heads,
            self.n_key_heads,
            self.n_together
        );
        assert!(
            decay + self.n_decays() <= row_width && strength + self.n_value_heads <= row_width,
            "{:?}",
            self.gates
        );
    }
}

/// Gates on a mixer's heads: each element times a function of one that was projected of the input.
pub struct HeadGates<'a, B: Backend> {
    /// A norm of each head, its gain `[head_dim]`, or `[n_heads · head_dim]` where each head has its own.
    pub norm: Option<HeadNorm<'a, B>>,
    /// Function of a gate.
    pub function: GateFunction,
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Column of the first gate.
    pub first: usize,
    /// Elements of a row of gates.
    pub row_width: usize,
}

/// A norm of heads that are gated.
pub struct HeadNorm<'a, B: Backend> {
    /// The norm.
    pub op: NormOp<'a, B>,
    /// When it is applied.
    pub order: NormOrder,
}

/// Place of a norm beside gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// What is normalised is gated.
    BeforeGates,
    /// What is gated is normalised.
    AfterGates,
}

impl<B: Backend> HeadGates<'_, B> {
    /// Elements of all heads.
    pub fn width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// # Panics
    /// When gates leave their rows.
    pub fn check(&self) {
        assert!(
            self.first + self.width() <= self.row_width,
            "gates {}.. of {} elements in rows of {}",
            self.first,
            self.width(),
            self.row_width
        );
    }
}

/// Function of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateFunction {
    /// x: gates are factors.
    Identity,
    /// 1 / (1 + exp(−x)).
    Sigmoid,
    /// x / (1 + exp(−x)).
    Silu,
}
