use llm_tensor::Norm;

use crate::simd::{Kernel, Simd};
use crate::weight::WeightView;

/// Normalises rows.
pub(crate) struct NormRows<'a> {
    pub(crate) norm: Norm,
    pub(crate) eps: f32,
    pub(crate) gain: WeightView<'a>,
    pub(crate) bias: Option<WeightView<'a>>,
    /// `[n_tokens, width]`, the width being the gain's.
    pub(crate) x: &'a [f32],
    /// `[n_tokens, width]`.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for NormRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.gain.cols;
        for (x, out) in self
            .x
            .chunks_exact(width)
            .zip(self.out.chunks_exact_mut(width))
        {
            let (shift, variance) = match self.norm {
                Norm::Layer => moments(simd, x),
                Norm::Rms => (Shift::NONE, mean_square(simd, x)),
            };
            let scale = simd.splat(1.0 / (variance + self.eps).sqrt());
            let (mean, rest) = (simd.splat(shift.mean), simd.splat(shift.rest));
            for at in (0..width).step_by(S::LANES) {
                let centred = simd.sub(simd.sub(simd.get(x, at), mean), rest);
                let y = simd.mul(simd.mul(centred, scale), self.gain.get(simd, at));
                let y = match self.bias {
                    Some(bias) => simd.add(y, bias.get(simd, at)),
                    None => y,
                };
                simd.put(out, at, y);
            }
        }
    }
}

/// A mean as the sum of its rounded value and what the rounding left.
struct Shift {
    mean: f32,
    rest: f32,
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
fn moments<S: Simd>(simd: S, x: &[f32]) -> (Shift, f32) {
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

#[inline(always)]
fn mean_square<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut squares = simd.splat(0.0);
    for at in (0..x.len()).step_by(S::LANES) {
        let x = simd.get(x, at);
        squares = simd.fma(x, x, squares);
    }
    simd.reduce_add(squares) / x.len() as f32
}
