use std::borrow::Cow;

use llm_tensor::Norm;

use super::Reference;
use super::weight::{Decoded, ReferenceWeight};
use crate::NormOp;

/// Divides a vector by the root of its mean square.
pub(super) fn to_unit(eps: f32, x: &mut [f32]) {
    let squares = x.iter().map(|&v| f64::from(v) * f64::from(v));
    let mean = squares.sum::<f64>() / x.len() as f64;
    let root = (mean + f64::from(eps)).sqrt();
    x.iter_mut()
        .for_each(|x| *x = (f64::from(*x) / root) as f32);
}

/// A normalisation with its vectors decoded.
pub(super) struct Normalisation<'a> {
    norm: Norm,
    eps: f64,
    gain_offset: f64,
    gain: Cow<'a, Decoded>,
    bias: Option<Cow<'a, Decoded>>,
}

impl<'a> Normalisation<'a> {
    pub(super) fn of(op: &NormOp<'a, Reference>) -> Self {
        Normalisation {
            norm: op.norm,
            eps: f64::from(op.eps),
            gain_offset: f64::from(op.gain_offset),
            gain: op.gain.decoded(),
            bias: op.bias.map(ReferenceWeight::decoded),
        }
    }

    pub(super) fn width(&self) -> usize {
        self.gain.cols
    }

    pub(super) fn apply(&self, x: &mut [f32]) {
        self.apply_from(0, x);
    }

    /// The same by the elements of the vectors from `first` on.
    pub(super) fn apply_from(&self, first: usize, x: &mut [f32]) {
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            x.iter().map(|&v| f(f64::from(v))).sum::<f64>() / x.len() as f64
        };
        let mean = match self.norm {
            Norm::Layer => mean_of(&|v| v),
            Norm::Rms => 0.0,
        };
        let scale = 1.0 / (mean_of(&|v| (v - mean) * (v - mean)) + self.eps).sqrt();
        for (i, x) in x.iter_mut().enumerate() {
            let gain = self.gain_offset + f64::from(self.gain.values[first + i]);
            let bias = self
                .bias
                .as_ref()
                .map_or(0.0, |b| f64::from(b.values[first + i]));
            *x = ((f64::from(*x) - mean) * scale * gain + bias) as f32;
        }
    }
}
