//! Sums, activations, gates and rotary positions.

use llm_backend::{GateFunction, NormOrder, Rotary};
use llm_tensor::{Activation, Pairing};

use crate::dense::DenseView;
use crate::math::{XieluNumbers, activate, sigmoid, xielu};
use crate::norm::{Normalise, scale};
use crate::simd::{Kernel, Simd};

/// Adds `weight · y` to `x`, both of one length.
pub(crate) struct AddScaled<'a> {
    pub(crate) y: &'a [f32],
    pub(crate) weight: f32,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for AddScaled<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weight = simd.splat(self.weight);
        for at in (0..self.x.len()).step_by(S::LANES) {
            let sum = simd.fma(weight, simd.get(self.y, at), simd.get(self.x, at));
            simd.put(self.x, at, sum);
        }
    }
}

/// Multiplies elements by a factor.
pub(crate) struct Scale<'a> {
    pub(crate) factor: f32,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        scale(simd, self.factor, self.x);
    }
}

/// Multiplies each column of rows by a number of its own.
pub(crate) struct ScaleColumns<'a> {
    /// As many as columns.
    pub(crate) by: DenseView<'a>,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for ScaleColumns<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.x.chunks_exact_mut(self.by.cols) {
            for at in (0..row.len()).step_by(S::LANES) {
                let y = simd.mul(self.by.get(simd, at), simd.get(row, at));
                simd.put(row, at, y);
            }
        }
    }
}

/// Applies an activation in place.
pub(crate) struct Activate<'a> {
    pub(crate) activation: Activation,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.x.len()).step_by(S::LANES) {
            let y = activate(simd, self.activation, simd.get(self.x, at));
            simd.put(self.x, at, y);
        }
    }
}

/// Applies xIELU in place.
pub(crate) struct ActivateXielu<'a> {
    pub(crate) numbers: XieluNumbers,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for ActivateXielu<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.x.len()).step_by(S::LANES) {
            let y = xielu(simd, self.numbers, simd.get(self.x, at));
            simd.put(self.x, at, y);
        }
    }
}

/// `activation(gate) · up`, all of one length.
pub(crate) struct Gate<'a> {
    pub(crate) activation: Activation,
    pub(crate) gate: &'a [f32],
    pub(crate) up: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Gate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.out.len()).step_by(S::LANES) {
            let y = activate(simd, self.activation, simd.get(self.gate, at));
            simd.put(self.out, at, simd.mul(y, simd.get(self.up, at)));
        }
    }
}

/// Multiplies heads by functions of gates, and normalises them before or after where there is a norm.
pub(crate) struct GateHeads<'a> {
    /// Its gain a head's, or all heads'.
    pub(crate) norm: Option<(Normalise<'a>, NormOrder)>,
    pub(crate) function: GateFunction,
    pub(crate) head_dim: usize,
    /// As many as elements.
    pub(crate) gates: &'a [f32],
    pub(crate) x: &'a mut [f32],
}

impl Kernel for GateHeads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (before, after) = match self.norm {
            None => (None, None),
            Some((norm, NormOrder::BeforeGates)) => (Some(norm), None),
            Some((norm, NormOrder::AfterGates)) => (None, Some(norm)),
        };
        let gates = self.gates.chunks_exact(self.head_dim);
        let heads = self.x.chunks_exact_mut(self.head_dim).zip(gates);
        for (i, (head, gates)) in heads.enumerate() {
            if let Some(norm) = &before {
                norm.apply(simd, head, i * self.head_dim % norm.gain.cols);
            }
            for at in (0..head.len()).step_by(S::LANES) {
                let (x, gate) = (simd.get(head, at), simd.get(gates, at));
                let factor = match self.function {
                    GateFunction::Identity => gate,
                    GateFunction::Sigmoid => sigmoid(simd, gate),
                    GateFunction::Silu => simd.mul(gate, sigmoid(simd, gate)),
                };
                simd.put(head, at, simd.mul(x, factor));
            }
            if let Some(norm) = &after {
                norm.apply(simd, head, i * self.head_dim % norm.gain.cols);
            }
        }
    }
}

/// Turns the leading heads of rows.
pub(crate) struct Rotate<'a> {
    pub(crate) op: Rotary,
    /// `[n_tokens, cos | sin]`.
    pub(crate) angles: &'a [f32],
    /// `[n_tokens, row_width]`.
    pub(crate) x: &'a mut [f32],
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Rotary {
            n_heads,
            head_dim,
            first,
            rotary_dim,
            pairing,
            row_width,
        } = self.op;
        for (row, angles) in self
            .x
            .chunks_exact_mut(row_width)
            .zip(self.angles.chunks_exact(rotary_dim))
        {
            let (cos, sin) = angles.split_at(rotary_dim / 2);
            for head in row.chunks_exact_mut(head_dim).take(n_heads) {
                let head = &mut head[first..][..rotary_dim];
                match pairing {
                    Pairing::Halves => {
                        let (a, b) = head.split_at_mut(rotary_dim / 2);
                        turn_halves(simd, a, b, cos, sin);
                    }
                    Pairing::Adjacent => turn_pairs(head, cos, sin),
                }
            }
        }
    }
}

#[inline(always)]
fn turn_halves<S: Simd>(simd: S, a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    for at in (0..a.len()).step_by(S::LANES) {
        let (x, y) = (simd.get(a, at), simd.get(b, at));
        let (c, s) = (simd.get(cos, at), simd.get(sin, at));
        simd.put(a, at, simd.sub(simd.mul(x, c), simd.mul(y, s)));
        simd.put(b, at, simd.add(simd.mul(y, c), simd.mul(x, s)));
    }
}

#[inline(always)]
fn turn_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [x, y] = *pair;
        *pair = [x * c - y * s, y * c + x * s];
    }
}
