//! Streams of a residual, and features cut off by their own statistics.

use llm_backend::{CutOff, StreamMix, StreamSum, Streams};

use crate::math::tanh;
use crate::norm::{mean_square, moments, scale};
use crate::simd::{Kernel, Simd};

/// Makes streams of rows of all of them, and of rows beside, in place.
pub(crate) struct MixStreams<'a> {
    pub(crate) op: StreamMix,
    /// `[n_tokens, row_width]`.
    pub(crate) coefficients: &'a [f32],
    /// `[n_tokens, width]`.
    pub(crate) y: Option<&'a [f32]>,
    /// `[n_tokens, n · width]`.
    pub(crate) s: &'a mut [f32],
}

impl Kernel for MixStreams<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Streams { n, width } = self.op.streams;
        let row_width = self.op.row_width;
        for (token, row) in self.s.chunks_exact_mut(n * width).enumerate() {
            let (c, d) = self
                .op
                .of_row(&self.coefficients[token * row_width..][..row_width]);
            let y = self.y.map(|y| &y[token * width..][..width]);
            for at in (0..width).step_by(S::LANES) {
                let mut before = [simd.splat(0.0); Streams::MOST];
                for (i, before) in before.iter_mut().take(n).enumerate() {
                    *before = simd.get(&row[i * width..][..width], at);
                }
                let y = y.map(|y| simd.get(y, at));
                for o in 0..n {
                    let mut sum = simd.splat(0.0);
                    for (before, &c) in before.iter().zip(&c[o]).take(n) {
                        sum = simd.fma(simd.splat(c), *before, sum);
                    }
                    // What is not added is none of it, whatever it is.
                    if let Some(y) = y
                        && d[o] != 0.0
                    {
                        sum = simd.fma(simd.splat(d[o]), y, sum);
                    }
                    simd.put(&mut row[o * width..][..width], at, sum);
                }
            }
        }
    }
}

/// Adds up the streams of rows, each times its coefficient.
pub(crate) struct SumStreams<'a> {
    pub(crate) op: StreamSum,
    /// `[n_tokens, row_width]`.
    pub(crate) coefficients: &'a [f32],
    /// `[n_tokens, n · width]`.
    pub(crate) s: &'a [f32],
    /// `[n_tokens, width]`.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for SumStreams<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Streams { n, width } = self.op.streams;
        let row_width = self.op.row_width;
        let rows = self.s.chunks_exact(n * width);
        let rows = rows.zip(self.out.chunks_exact_mut(width)).enumerate();
        for (token, (row, out)) in rows {
            let w = self
                .op
                .of_row(&self.coefficients[token * row_width..][..row_width]);
            for at in (0..width).step_by(S::LANES) {
                let mut sum = simd.splat(0.0);
                for (stream, &w) in row.chunks_exact(width).zip(&w) {
                    sum = simd.fma(simd.splat(w), simd.get(stream, at), sum);
                }
                simd.put(out, at, sum);
            }
        }
    }
}

/// Gives all streams of rows the root mean square of the first.
pub(crate) struct MatchStreams<'a> {
    pub(crate) streams: Streams,
    pub(crate) floor: f32,
    /// `[n_tokens, n · width]`.
    pub(crate) s: &'a mut [f32],
}

impl Kernel for MatchStreams<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Streams { n, width } = self.streams;
        for row in self.s.chunks_exact_mut(n * width) {
            let (first, others) = row.split_at_mut(width);
            let target = mean_square(simd, first).sqrt();
            for stream in others.chunks_exact_mut(width) {
                let own = mean_square(simd, stream).max(self.floor).sqrt();
                scale(simd, target / own, stream);
            }
        }
    }
}

/// Cuts off the leading columns of rows.
pub(crate) struct CutRows<'a> {
    pub(crate) op: CutOff,
    /// `[n_tokens, row_width]`.
    pub(crate) x: &'a mut [f32],
}

impl Kernel for CutRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.x.chunks_exact_mut(self.op.row_width) {
            let row = &mut row[..self.op.width];
            let (mean, variance) = moments(simd, row);
            let above = self.op.deviations * variance.sqrt();
            let (mean, rest) = (simd.splat(mean.mean), simd.splat(mean.rest + above));
            for at in (0..row.len()).step_by(S::LANES) {
                let distance = simd.sub(simd.sub(simd.get(row, at), mean), rest);
                simd.put(row, at, simd.max(simd.splat(0.0), distance));
            }
        }
    }
}

/// The hyperbolic tangent of elements.
pub(crate) struct Tanh<'a> {
    pub(crate) x: &'a mut [f32],
}

impl Kernel for Tanh<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.x.len()).step_by(S::LANES) {
            let y = tanh(simd, simd.get(self.x, at));
            simd.put(self.x, at, y);
        }
    }
}
