//! Streams of a residual.

use crate::{StreamMix, StreamSum, Streams};

pub(super) fn mix(
    op: &StreamMix,
    coefficients: &[f32],
    y: Option<&Vec<f32>>,
    s: &mut [f32],
    n_tokens: usize,
) {
    op.check();
    assert_eq!(y.is_some(), op.added.is_some(), "what is added is there");
    let Streams { n, width } = op.streams;
    for (token, row) in s
        .chunks_exact_mut(op.streams.row_width())
        .take(n_tokens)
        .enumerate()
    {
        let (c, d) = op.of_row(&coefficients[token * op.row_width..][..op.row_width]);
        for at in 0..width {
            let before: Vec<f64> = (0..n).map(|i| row[i * width + at].into()).collect();
            let y = y.map_or(0.0, |y| f64::from(y[token * width + at]));
            for o in 0..n {
                let terms = before.iter().zip(&c[o]).map(|(s, &c)| f64::from(c) * s);
                // What is not added is none of it, whatever it is.
                let added = if d[o] == 0.0 {
                    0.0
                } else {
                    f64::from(d[o]) * y
                };
                row[o * width + at] = (terms.sum::<f64>() + added) as f32;
            }
        }
    }
}

pub(super) fn sum(
    op: &StreamSum,
    coefficients: &[f32],
    s: &[f32],
    out: &mut [f32],
    n_tokens: usize,
) {
    op.check();
    let Streams { n, width } = op.streams;
    let rows = s.chunks_exact(op.streams.row_width());
    let rows = rows.zip(out.chunks_exact_mut(width)).take(n_tokens);
    for (token, (row, out)) in rows.enumerate() {
        let w = op.of_row(&coefficients[token * op.row_width..][..op.row_width]);
        for (at, out) in out.iter_mut().enumerate() {
            let terms = (0..n).map(|i| f64::from(w[i]) * f64::from(row[i * width + at]));
            *out = terms.sum::<f64>() as f32;
        }
    }
}

pub(super) fn match_first(streams: &Streams, floor: f32, s: &mut [f32], n_tokens: usize) {
    let mean_square = |x: &[f32]| {
        let squares = x.iter().map(|&x| f64::from(x).powi(2));
        squares.sum::<f64>() / x.len() as f64
    };
    for row in s.chunks_exact_mut(streams.row_width()).take(n_tokens) {
        let (first, others) = row.split_at_mut(streams.width);
        let of_first = mean_square(first);
        for stream in others.chunks_exact_mut(streams.width) {
            let own = mean_square(stream).max(f64::from(floor));
            let factor = (of_first / own).sqrt();
            stream
                .iter_mut()
                .for_each(|x| *x = (f64::from(*x) * factor) as f32);
        }
    }
}
