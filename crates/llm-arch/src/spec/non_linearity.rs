//! Non-linearities of feed-forwards.

use llm_tensor::{Activation, ClampedGate};

/// Non-linearity between the projections of a feed-forward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NonLinearity {
    /// One without numbers of its own.
    Of(Activation),
    /// A gate of clamped features.
    Clamped(ClampedGate),
    /// xIELU (Huang and Schlag 2024), whose numbers each layer learned; without a gate.
    Xielu,
}

impl From<Activation> for NonLinearity {
    fn from(activation: Activation) -> Self {
        NonLinearity::Of(activation)
    }
}
