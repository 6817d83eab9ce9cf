//! State spaces, position by position.

use super::scalar::softplus;
use super::{Reference, slots};
use crate::{StateBatch, StateSpace};

/// See [`crate::Ops::state_space`].
pub(super) fn state_space(
    op: &StateSpace<'_, Reference>,
    (x, steps): (&[f32], &[f32]),
    batch: &StateBatch<'_, Reference>,
    state: &mut [f32],
    out: &mut [f32],
) {
    op.check();
    let (row_width, values) = (op.row_width(), op.out_width());
    let n = op.head_dim * op.state_dim;
    let [least, most] = op.steps.limits.map(f64::from);
    for (rows, slot) in slots(batch) {
        let slot = slot * op.state_elements();
        let slot = &mut state[slot..][..op.state_elements()];
        if rows.start == 0 {
            slot.fill(0.0);
        }
        for head in 0..op.n_heads {
            let group = head / (op.n_heads / op.n_groups);
            let [rate, offset, skip] =
                [op.rate, op.offset, op.skip].map(|vector| vector.element(head));
            let stored = &mut slot[head * n..][..n];
            let mut s: Vec<f64> = stored.iter().map(|&s| f64::from(s)).collect();
            for row in rows.first..rows.first + rows.n_tokens {
                let (x, by) = x[row * row_width..][..row_width].split_at(values);
                let x = &x[head * op.head_dim..][..op.head_dim];
                let (b, c) = by.split_at(op.n_groups * op.state_dim);
                let [b, c] = [b, c].map(|by| &by[group * op.state_dim..][..op.state_dim]);
                let step = f64::from(steps[row * op.steps.row_width + op.steps.first + head]);
                let step = softplus(step + offset).clamp(least, most);
                let fading = (-rate.exp() * step).exp();
                let out = &mut out[row * values + head * op.head_dim..][..op.head_dim];
                let kept = s.chunks_exact_mut(op.state_dim);
                for ((out, &x), kept) in out.iter_mut().zip(x).zip(kept) {
                    let x = f64::from(x);
                    let mut read = skip * x;
                    for ((s, &b), &c) in kept.iter_mut().zip(b).zip(c) {
                        *s = fading * *s + step * x * f64::from(b);
                        read += *s * f64::from(c);
                    }
                    *out = read as f32;
                }
            }
            for (stored, s) in stored.iter_mut().zip(s) {
                *stored = s as f32;
            }
        }
    }
}
