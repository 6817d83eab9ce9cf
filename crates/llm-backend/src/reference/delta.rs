//! The gated delta rule, position by position, and gates on heads.

use super::norm::Normalisation;
use super::scalar::{sigmoid, softplus};
use super::{Reference, slots};
use crate::{Decays, DeltaRule, GateFunction, HeadGates, NormOrder, StateBatch};

/// See [`crate::Ops::delta_rule`].
pub(super) fn delta_rule(
    op: &DeltaRule<'_, Reference>,
    (x, gates): (&[f32], &[f32]),
    batch: &StateBatch<'_, Reference>,
    state: &mut [f32],
    out: &mut [f32],
) {
    op.check();
    let (row_width, out_width) = (op.row_width(), op.out_width());
    let keys = op.n_key_heads * op.key_dim;
    for (rows, slot) in slots(batch) {
        let slot = slot * op.state_elements();
        let slot = &mut state[slot..][..op.state_elements()];
        if rows.start == 0 {
            slot.fill(0.0);
        }
        for head in 0..op.n_value_heads {
            let n = op.key_dim * op.value_dim;
            let stored = &mut slot[head * n..][..n];
            let mut s: Vec<f64> = stored.iter().map(|&s| f64::from(s)).collect();
            for row in rows.first..rows.first + rows.n_tokens {
                let x = &x[row * row_width..][..row_width];
                let key = op.key_head(head) * op.key_dim;
                let q = unit(&x[key..][..op.key_dim], op.norm_eps, op.scale);
                let k = unit(&x[keys + key..][..op.key_dim], op.norm_eps, 1.0);
                let v = &x[2 * keys + head * op.value_dim..][..op.value_dim];
                let gates = &gates[row * op.gates.row_width..][..op.gates.row_width];
                let decay = |at: usize| {
                    let step = f64::from(gates[op.gates.decay + at]) + op.offset.element(at);
                    (-op.rate.element(head).exp() * softplus(step)).exp()
                };
                let strength = sigmoid(f64::from(gates[op.gates.strength + head]));
                for (i, row) in s.chunks_exact_mut(op.value_dim).enumerate() {
                    let decay = match op.decays {
                        Decays::Head => decay(head),
                        Decays::Channel => decay(head * op.key_dim + i),
                    };
                    row.iter_mut().for_each(|s| *s *= decay);
                }
                let out = &mut out[row * out_width + head * op.value_dim..][..op.value_dim];
                for (j, out) in out.iter_mut().enumerate() {
                    let column = || (0..op.key_dim).map(move |i| i * op.value_dim + j);
                    let held: f64 = column().zip(&k).map(|(at, k)| s[at] * k).sum();
                    let correction = strength * (f64::from(v[j]) - held);
                    column().zip(&k).for_each(|(at, k)| s[at] += k * correction);
                    *out = column().zip(&q).map(|(at, q)| s[at] * q).sum::<f64>() as f32;
                }
            }
            for (stored, s) in stored.iter_mut().zip(s) {
                *stored = s as f32;
            }
        }
    }
}

/// See [`crate::Ops::gate_heads`].
pub(super) fn gate_heads(
    op: &HeadGates<'_, Reference>,
    gates: &[f32],
    x: &mut [f32],
    n_tokens: usize,
) {
    op.check();
    let norm = op.norm.as_ref();
    let norm = norm.map(|norm| (Normalisation::of(&norm.op), norm.order));
    let normalise = |x: &mut [f32], when| {
        let Some((norm, _)) = norm.as_ref().filter(|(_, order)| *order == when) else {
            return;
        };
        assert!([op.head_dim, op.width()].contains(&norm.width()), "a gain");
        for (i, head) in x.chunks_exact_mut(op.head_dim).enumerate() {
            norm.apply_from(i * op.head_dim % norm.width(), head);
        }
    };
    let rows = gates.chunks_exact(op.row_width);
    for (gates, x) in rows.zip(x.chunks_exact_mut(op.width())).take(n_tokens) {
        normalise(x, NormOrder::BeforeGates);
        for (x, &gate) in x.iter_mut().zip(&gates[op.first..]) {
            let gate = f64::from(gate);
            let factor = match op.function {
                GateFunction::Identity => gate,
                GateFunction::Sigmoid => sigmoid(gate),
                GateFunction::Silu => gate * sigmoid(gate),
            };
            *x = (f64::from(*x) * factor) as f32;
        }
        normalise(x, NormOrder::AfterGates);
    }
}

/// `x` at length one, times `scale`.
fn unit(x: &[f32], eps: f32, scale: f32) -> Vec<f64> {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let factor = f64::from(scale) / (squares + f64::from(eps)).sqrt();
    x.iter().map(|&x| f64::from(x) * factor).collect()
}
