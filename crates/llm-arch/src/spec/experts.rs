//! Experts, of which each token goes to some.

use llm_tensor::{Gate, GateOrder, Routing};

use super::DenseMlp;

/// Feed-forward experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsSpec {
    /// Number of experts, and their choice.
    pub routing: Routing,
    /// True if the router has a bias that corrects ranks and no weights.
    pub correction: bool,
    /// Features between an expert's projections.
    pub width: usize,
    /// Elements of the rows that experts read and make, where these are projected of the residual and back to it.
    pub latent: Option<usize>,
    /// Gating.
    pub gate: Gate,
    /// True if the router and the projections have biases.
    pub bias: bool,
    /// True if gate and up are one matrix, the gate's rows first.
    pub fused: bool,
    /// True if weights multiply what experts read, and not what they make (Llama 4); each token goes to one expert then.
    pub weighs_inputs: bool,
    /// True if a table says which experts a token goes to, and the router only weighs them (DeepSeek-V4).
    pub by_token: bool,
    /// An expert that all tokens go to.
    pub shared: Option<SharedSpec>,
}

/// A feed-forward beside the chosen experts, for all tokens (DeepSeekMoE, Dai et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedSpec {
    /// The feed-forward: one, where several are shared they lie side by side in it.
    pub mlp: DenseMlp,
    /// How its result joins that of the experts.
    pub join: Join,
}

/// How the result of a feed-forward for all tokens joins that of the experts beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// They are added up.
    Plain,
    /// The sigmoid of a score of the token's multiplies it.
    Gated,
    /// It, the experts and the router each read a norm of the residual; its result and theirs are normalised, then added up (Gemma 4).
    Normed,
}

impl ExpertsSpec {
    /// Elements of the rows that experts read and make, in a residual of `hidden`.
    pub fn row_width(&self, hidden: usize) -> usize {
        self.latent.unwrap_or(hidden)
    }

    /// True if experts read rows of their own, and add up in others, which something makes part of the residual after them.
    pub fn have_own_rows(&self) -> bool {
        self.latent.is_some() || self.is_apart()
    }

    /// True if norms keep them apart from the one that all tokens go to.
    pub fn is_apart(&self) -> bool {
        self.shared
            .is_some_and(|shared| shared.join == Join::Normed)
    }

    /// True if gate and up are one matrix: the rows of one before those of the other, or by turns.
    pub fn is_one_matrix(&self) -> bool {
        match self.gate {
            Gate::Absent(_) => false,
            Gate::Of(_) => self.fused,
            Gate::Clamped(gate) => self.fused || gate.order == GateOrder::Pairs,
        }
    }
}
