use llm_backend::{Heads, NormOp};
use llm_tensor::Norm;

use crate::Cpu;
use crate::dense::DenseView;
use crate::simd::{Kernel, Simd};
use crate::weight::Weight;

/// A normalisation of vectors as wide as the gain.
#[derive(Clone, Copy)]
pub(crate) struct Normalise<'a> {
    pub(crate) norm: Norm,
    pub(crate) eps: f32,
    pub(crate) gain_offset: f32,
    pub(crate) gain: DenseView<'a>,
    pub(crate) bias: Option<DenseView<'a>>,
}

impl<'a> From<&NormOp<'a, Cpu>> for Normalise<'a> {
    fn from(op: &NormOp<'a, Cpu>) -> Self {
        Normalise {
            norm: op.norm,
            eps: op.eps,
            gain_offset: op.gain_offset,
            gain: op.gain.dense(),
            bias: op.bias.map(Weight::dense),
        }
    }
}

impl Normalise<'_> {
    /// Normalised elements of `x`, by its statistics.
    #[inline(always)]
    pub(crate) fn of<S: Simd>(&self, simd: S, x: &[f32]) -> Normalised<'_, S> {
        self.of_from(simd, x, 0)
    }

    /// The same by the elements of the vectors from `first` on.
    #[inline(always)]
    pub(crate) fn of_from<S: Simd>(&self, simd: S, x: &[f32], first: usize) -> Normalised<'_, S> {
        let (shift, variance) = match self.norm {
            Norm::Layer => moments(simd, x),
            Norm::Rms => (Shift::NONE, mean_square(simd, x)),
        };
        Normalised {
            op: self,
            first,
            mean: simd.splat(shift.mean),
            rest: simd.splat(shift.rest),
            scale: simd.splat(1.0 / (variance + self.eps).sqrt()),
            gain_offset: simd.splat(self.gain_offset),
        }
    }
}

impl Normalise<'_> {
    /// Normalises `x` in place by the elements of the vectors from `first` on.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(&self, simd: S, x: &mut [f32], first: usize) {
        let normalised = self.of_from(simd, x, first);
        for at in (0..x.len()).step_by(S::LANES) {
            let y = normalised.get(simd, simd.get(x, at), at);
            simd.put(x, at, y);
        }
    }
}

/// Statistics of a vector, by which its elements are normalised.
pub(crate) struct Normalised<'a, S: Simd> {
    op: &'a Normalise<'a>,
    first: usize,
    mean: S::F32,
    rest: S::F32,
    scale: S::F32,
    gain_offset: S::F32,
}

impl<S: Simd> Normalised<'_, S> {
    /// The result for the elements `x` from `at` on.
    #[inline(always)]
    pub(crate) fn get(&self, simd: S, x: S::F32, at: usize) -> S::F32 {
        let centred = simd.sub(simd.sub(x, self.mean), self.rest);
        let at = self.first + at;
        let gain = simd.add(self.gain_offset, self.op.gain.get(simd, at));
        let y = simd.mul(simd.mul(centred, self.scale), gain);
        match self.op.bias {
            Some(bias) => simd.add(y, bias.get(simd, at)),
            None => y,
        }
    }
}

/// Normalises rows.
pub(crate) struct NormRows<'a> {
    pub(crate) op: Normalise<'a>,
    /// `[n_tokens, width]`, the width being the gain's.
    pub(crate) x: &'a [f32],
    /// `[n_tokens, width]`.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.op.gain.cols;
        for (x, out) in self
            .x
            .chunks_exact(width)
            .zip(self.out.chunks_exact_mut(width))
        {
            let normalised = self.op.of(simd, x);
            for at in (0..width).step_by(S::LANES) {
                let y = normalised.get(simd, simd.get(x, at), at);
                simd.put(out, at, y);
            }
        }
    }
}

/// Normalises heads in place.
pub(crate) struct NormHeads<'a> {
    pub(crate) op: Normalise<'a>,
    /// Each as wide as the gain.
    pub(crate) heads: Heads,
    /// `[n_tokens, row_width]`.
    pub(crate) x: &'a mut [f32],
}

impl Kernel for NormHeads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for head in self.heads.of_rows(self.x) {
            self.op.apply(simd, head, 0);
        }
    }
}

/// Divides heads by the roots of their mean squares, in place.
pub(crate) struct UnitHeads<'a> {
    pub(crate) eps: f32,
    pub(crate) heads: Heads,
    /// `[n_tokens, row_width]`.
    pub(crate) x: &'a mut [f32],
}

impl Kernel for UnitHeads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for head in self.heads.of_rows(self.x) {
            let factor = 1.0 / (mean_square(simd, head) + self.eps).sqrt();
            scale(simd, factor, head);
        }
    }
}

/// Multiplies elements by a factor.
#[inline(always)]
pub(crate) fn scale<S: Simd>(simd: S, factor: f32, x: &mut [f32]) {
    let factor = simd.splat(factor);
    for at in (0..x.len()).step_by(S::LANES) {
        let scaled = simd.mul(factor, simd.get(x, at));
        simd.put(x, at, scaled);
    }
}

/// A mean as the sum of its rounded value and what the rounding left.
pub(crate) struct Shift {
    pub(crate) mean: f32,
    pub(crate) rest: f32,
}

impl Shift {
    const NONE: Shift = Shift {
        mean: 0.0,
        rest: 0.0,
    };
}

/// Mean and variance in two passes, each corrected by the sum of what the rounded mean leaves (Chan, Golub and
/// LeVeque 1983): precise even when the mean is far larger than the deviation.
#[inline(always)]
pub(crate) fn moments<S: Simd>(simd: S, x: &[f32]) -> (Shift, f32) {
    let n = x.len() as f32;
    // The rest of the row goes lane by lane: zeros beside it would be deviations too.
    let (whole, rest) = x.split_at(x.len() - x.len() % S::LANES);
    let mut sum = simd.splat(0.0);
    for at in (0..whole.len()).step_by(S::LANES) {
        sum = simd.add(sum, simd.get(whole, at));
    }
    let mean = (simd.reduce_add(sum) + rest.iter().sum::<f32>()) / n;
    let (mut sum, mut squares) = (simd.splat(0.0), simd.splat(0.0));
    for at in (0..whole.len()).step_by(S::LANES) {
        let deviation = simd.sub(simd.get(whole, at), simd.splat(mean));
        sum = simd.add(sum, deviation);
        squares = simd.fma(deviation, deviation, squares);
    }
    let (mut sum, mut squares) = (simd.reduce_add(sum), simd.reduce_add(squares));
    for x in rest {
        let deviation = x - mean;
        sum += deviation;
        squares += deviation * deviation;
    }
    let rest = sum / n;
    (Shift { mean, rest }, (squares / n - rest * rest).max(0.0))
}

/// Mean of the squares of elements.
#[inline(always)]
pub(crate) fn mean_square<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut squares = simd.splat(0.0);
    for at in (0..x.len()).step_by(S::LANES) {
        let x = simd.get(x, at);
        squares = simd.fma(x, x, squares);
    }
    simd.reduce_add(squares) / x.len() as f32
}
