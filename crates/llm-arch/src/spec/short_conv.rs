//! Gated short convolutions.

/// A gated short convolution (LFM2): `out · (C · conv(B · x))`, with B, C and x projected of the input. The convolution is
/// causal, and each channel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortConvSpec {
    /// Channels.
    pub n_channels: usize,
    /// Positions that a result is made of, its own included.
    pub kernel: usize,
    /// True if the projections and the convolution have biases.
    pub bias: bool,
}

impl ShortConvSpec {
    /// Features of `[B | C | x]`.
    pub fn projected_width(&self) -> usize {
        3 * self.n_channels
    }

    /// Elements of a sequence's state: the inputs of the positions before.
    pub fn state_elements(&self) -> usize {
        self.n_channels * (self.kernel - 1)
    }
}
