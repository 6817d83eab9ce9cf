//! Weights by which blocks read and write a residual of several streams.

use crate::{Backend, Streams};

/// Weights of streams in what a block reads, of what it makes in each stream, and of the streams in each other (manifold-constrained
/// hyper-connections, Xie et al. 2026).
///
/// With `a` the product of a row, divided by the root of the mean square of all its streams, times the scale of its part, plus its
/// base: a stream is read by `σ(a) + eps`, and gets `2 σ(a)` of what is made. What it gets of the others is a matrix `[from, to]`:
/// the softmax over `to` plus `eps`, brought to sums of one over `from`, then in `n_rounds - 1` rounds over `to` and again over
/// `from`, with `eps` added to each sum (Sinkhorn and Knopp 1967).
#[derive(Debug)]
pub struct StreamWeights<'a, B: Backend> {
    /// The streams.
    pub streams: Streams,
    /// Added to the mean square of streams.
    pub norm_eps: f32,
    /// Multiplies products: `[3]`, of each part; `[1]` where streams are but read.
    pub scale: &'a B::Weight,
    /// Added to them: `[read n | made n | matrix n · n]`, or `[n]`.
    pub base: &'a B::Weight,
    /// Floor of weights.
    pub eps: f32,
    /// Times that the matrix is brought to sums of one.
    pub n_rounds: usize,
    /// True if streams are but read.
    pub only_read: bool,
}

impl<B: Backend> Clone for StreamWeights<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for StreamWeights<'_, B> {}

impl<B: Backend> StreamWeights<'_, B> {
    /// Weights of a row: `[read n | made n | matrix n · n]`, the rows of the matrix being what a stream gets of each.
    pub fn n_weights(&self) -> usize {
        let n = self.streams.n;
        match self.only_read {
            true => n,
            false => n * (2 + n),
        }
    }
}
