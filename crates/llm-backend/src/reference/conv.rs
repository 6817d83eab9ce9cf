//! Short convolutions over the positions of sequences.

use super::scalar::activated;
use super::weight::ReferenceWeight;
use super::{Reference, slots};
use crate::{ConvRows, ShortConv, StateBatch};

/// See [`crate::Ops::short_conv`].
pub(super) fn short_conv(
    op: &ShortConv<'_, Reference>,
    x: &[f32],
    batch: &StateBatch<'_, Reference>,
    state: &mut [f32],
    out: &mut [f32],
) {
    let (n, row_width) = (op.n_channels, op.row_width());
    let (taps, bias) = (op.taps.decoded(), op.bias.map(ReferenceWeight::decoded));
    assert_eq!((taps.rows, taps.cols), (n, op.kernel), "taps of channels");
    for (rows, slot) in slots(batch) {
        let state = &mut state[slot * op.state_elements()..][..op.state_elements()];
        let mut inputs = match rows.start {
            0 => vec![0.0; state.len()],
            _ => state.to_vec(),
        };
        for i in 0..rows.n_tokens {
            let row = &x[(rows.first + i) * row_width..][..row_width];
            match op.rows {
                ConvRows::Columns { first, .. } => inputs.extend(&row[first..first + n]),
                ConvRows::Gated => inputs.extend((0..n).map(|c| row[c] * row[2 * n + c])),
            }
            let out = &mut out[(rows.first + i) * n..][..n];
            for (c, out) in out.iter_mut().enumerate() {
                let taps = &taps.values[c * op.kernel..][..op.kernel];
                let taken = inputs[i * n + c..].iter().step_by(n);
                let products = taps.iter().zip(taken);
                let sum: f64 = products.map(|(&t, &x)| f64::from(t) * f64::from(x)).sum();
                let sum = sum + bias.as_ref().map_or(0.0, |b| f64::from(b.values[c]));
                let result = match op.rows {
                    ConvRows::Columns { activation, .. } => {
                        activation.map_or(sum, |activation| activated(activation, sum))
                    }
                    ConvRows::Gated => sum * f64::from(row[n + c]),
                };
                *out = result as f32;
            }
        }
        state.copy_from_slice(&inputs[rows.n_tokens * n..]);
    }
}
