//! Parameters of state spaces.

use crate::Backend;

/// A state space (Mamba-2: Dao and Gu 2024): a state `S` `[head_dim, state_dim]` for each head, which each position lets fade,
/// adds to, and reads.
///
/// With Δ = clamp(softplus(δ + `offset`)), δ projected of the input, and γ = exp(−exp(`rate`) · Δ):
/// `S ← γ S + Δ x ⊗ b`, and the result is `S c + skip · x`, b and c being those of the head's group.
#[derive(Debug)]
pub struct StateSpace<'a, B: Backend> {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head of x.
    pub head_dim: usize,
    /// Elements of b, and of c.
    pub state_dim: usize,
    /// Groups of consecutive heads that share b and c; divides `n_heads`.
    pub n_groups: usize,
    /// `[n_heads]`, how fast each head's state fades, as a logarithm.
    pub rate: &'a B::Weight,
    /// `[n_heads]`, added to δ.
    pub offset: &'a B::Weight,
    /// `[n_heads]`, multiplies x beside the state.
    pub skip: &'a B::Weight,
    /// Where δ is, and what bounds Δ.
    pub steps: Steps,
}

/// Steps of positions, one for each head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// Column of the first head's.
    pub first: usize,
    /// Elements of a row.
    pub row_width: usize,
    /// Smallest and largest step.
    pub limits: [f32; 2],
}

impl<B: Backend> Clone for StateSpace<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for StateSpace<'_, B> {}

impl<B: Backend> StateSpace<'_, B> {
    /// Elements of a sequence's state, `[n_heads, head_dim, state_dim]`.
    pub fn state_elements(&self) -> usize {
        self.out_width() * self.state_dim
    }

    /// Elements of a row `[x | b | c]`, b and c of all groups.
    pub fn row_width(&self) -> usize {
        self.out_width() + 2 * self.n_groups * self.state_dim
    }

    /// Elements of a result.
    pub fn out_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// # Panics
    /// When groups are not shared evenly, or steps leave their rows.
    pub fn check(&self) {
        let Steps {
            first,
            row_width,
            limits: [least, most],
        } = self.steps;
        assert!(
            self.n_heads.is_multiple_of(self.n_groups),
            "{} heads share {} groups",
            self.n_heads,
            self.n_groups
        );
        assert!(
            first + self.n_heads <= row_width && least <= most,
            "{:?}",
            self.steps
        );
    }
}
