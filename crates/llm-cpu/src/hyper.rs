//! Weights of streams.

use llm_backend::StreamWeights;

use crate::Cpu;
use crate::dense::DenseView;
use crate::norm::mean_square;
use crate::simd::{Kernel, Simd};

/// Weights of rows `[n_weights]`, which are products, of rows of `s` `[n · width]`.
pub(crate) struct Weigh<'a> {
    pub(crate) op: StreamWeights<'a, Cpu>,
    pub(crate) scale: DenseView<'a>,
    pub(crate) base: DenseView<'a>,
    pub(crate) s: &'a [f32],
    pub(crate) weights: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (n, n_weights) = (self.op.streams.n, self.op.n_weights());
        let rows = self.s.chunks_exact(self.op.streams.row_width());
        for (s, row) in rows.zip(self.weights.chunks_exact_mut(n_weights)) {
            let factor = 1.0 / (mean_square(simd, s) + self.op.norm_eps).sqrt();
            for (i, weight) in row.iter_mut().enumerate() {
                let part = (i / n).min(2);
                let scale = self.scale.element(part) * factor;
                *weight = weight.mul_add(scale, self.base.element(i));
            }
            weigh(row, n, self.op.eps, self.op.n_rounds);
        }
    }
}

/// Weights of a row of their arguments.
fn weigh(row: &mut [f32], n: usize, eps: f32, n_rounds: usize) {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let (read, rest) = row.split_at_mut(n);
    read.iter_mut().for_each(|x| *x = sigmoid(*x) + eps);
    if rest.is_empty() {
        return;
    }
    let (made, matrix) = rest.split_at_mut(n);
    made.iter_mut().for_each(|x| *x = 2.0 * sigmoid(*x));
    for from in matrix.chunks_exact_mut(n) {
        let most = from.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        from.iter_mut().for_each(|x| *x = (*x - most).exp());
        let total: f32 = from.iter().sum();
        from.iter_mut().for_each(|x| *x = *x / total + eps);
    }
    by_columns(matrix, n, eps);
    for _ in 1..n_rounds {
        for from in matrix.chunks_exact_mut(n) {
            let total = from.iter().sum::<f32>() + eps;
            from.iter_mut().for_each(|x| *x /= total);
        }
        by_columns(matrix, n, eps);
    }
    for from in 0..n {
        for to in from + 1..n {
            matrix.swap(from * n + to, to * n + from);
        }
    }
}

/// Brings columns to sums of one.
fn by_columns(matrix: &mut [f32], n: usize, eps: f32) {
    for to in 0..n {
        let total = matrix.iter().skip(to).step_by(n).sum::<f32>() + eps;
        let column = matrix.iter_mut().skip(to).step_by(n);
        column.for_each(|x| *x /= total);
    }
}
