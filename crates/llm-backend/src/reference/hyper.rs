//! Weights of streams.

use super::Reference;
use super::scalar::sigmoid;
use crate::StreamWeights;

/// Weights of rows of `weights` `[n_tokens, n_weights]`, which are products, of rows of `s`.
pub(super) fn weigh_streams(
    op: &StreamWeights<'_, Reference>,
    s: &[f32],
    weights: &mut [f32],
    n_tokens: usize,
) {
    let (n, eps) = (op.streams.n, f64::from(op.eps));
    let (scale, base) = (op.scale.decoded(), op.base.decoded());
    let rows = weights.chunks_exact_mut(op.n_weights()).take(n_tokens);
    for (row, s) in rows.zip(s.chunks_exact(op.streams.row_width())) {
        let squares = s.iter().map(|&x| f64::from(x) * f64::from(x));
        let mean = squares.sum::<f64>() / s.len() as f64;
        let root = (mean + f64::from(op.norm_eps)).sqrt();
        let term = |part: usize, i: usize, product: f32| {
            f64::from(product) / root * f64::from(scale.values[part]) + f64::from(base.values[i])
        };
        for (i, weight) in row[..n].iter_mut().enumerate() {
            *weight = (sigmoid(term(0, i, *weight)) + eps) as f32;
        }
        if op.only_read {
            continue;
        }
        for (i, weight) in row[n..2 * n].iter_mut().enumerate() {
            *weight = (2.0 * sigmoid(term(1, n + i, *weight))) as f32;
        }
        let products = row[2 * n..].iter().enumerate();
        let terms = products.map(|(i, &product)| term(2, 2 * n + i, product));
        let mut matrix: Vec<f64> = terms.collect();
        for from in matrix.chunks_exact_mut(n) {
            let most = from.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            from.iter_mut().for_each(|x| *x = (*x - most).exp());
            let total: f64 = from.iter().sum();
            from.iter_mut().for_each(|x| *x = *x / total + eps);
        }
        by_columns(&mut matrix, n, eps);
        for _ in 1..op.n_rounds {
            for from in matrix.chunks_exact_mut(n) {
                let total: f64 = from.iter().sum::<f64>() + eps;
                from.iter_mut().for_each(|x| *x /= total);
            }
            by_columns(&mut matrix, n, eps);
        }
        for (i, weight) in row[2 * n..].iter_mut().enumerate() {
            *weight = matrix[i % n * n + i / n] as f32;
        }
    }
}

/// Brings columns to sums of one.
fn by_columns(matrix: &mut [f64], n: usize, eps: f64) {
    for to in 0..n {
        let total: f64 = matrix.iter().skip(to).step_by(n).sum::<f64>() + eps;
        let column = matrix.iter_mut().skip(to).step_by(n);
        column.for_each(|x| *x /= total);
    }
}
