//! Non-linearities of feed-forwards.

use llm_tensor::Activation;

/// Non-linearity between the projections of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonLinearity {
    /// One without numbers of its own.
    Of(Activation),
    /// xIELU (Huang and Schlag 2024), whose numbers each layer learned; without a gate.
    Xielu,
}

impl From<Activation> for NonLinearity {
    fn from(activation: Activation) -> Self {
        NonLinearity::Of(activation)
    }
}
