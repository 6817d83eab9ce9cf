//! Head: hidden states to logits.

/// Head: hidden states to logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSpec {
    /// Kind of matrix.
    pub matrix: HeadMatrix,
    /// True if a bias is added.
    pub bias: bool,
    /// Multiplies the logits.
    pub scale: f32,
    /// Bounds them: `cap · tanh(logit / cap)`.
    pub soft_cap: Option<f32>,
}

impl HeadSpec {
    /// A matrix and nothing else.
    pub const fn plain(matrix: HeadMatrix) -> Self {
        HeadSpec {
            matrix,
            bias: false,
            scale: 1.0,
            soft_cap: None,
        }
    }

    /// True where logits are not the matrix's products as they are, a bias aside.
    pub fn changes_logits(&self) -> bool {
        self.scale != 1.0 || self.soft_cap.is_some()
    }
}

/// Matrix that makes the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadMatrix {
    /// The embedding's own table.
    Tied,
    /// One of its own.
    Separate,
}
