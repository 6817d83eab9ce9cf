//! Products of heads.

use super::Reference;
use crate::{HeadProducts, MatrixSide};

/// `x` `[n_tokens, n_heads, from + carried]` into `out` `[n_tokens, n_heads, to + carried]`.
pub(super) fn products(
    op: &HeadProducts<'_, Reference>,
    x: &[f32],
    out: &mut [f32],
    n_tokens: usize,
) {
    let weight = op.weight.decoded();
    op.check((weight.rows, weight.cols));
    let (from, to) = op.dims();
    let heads = x.chunks_exact(from + op.carried);
    let heads = heads.zip(out.chunks_exact_mut(to + op.carried));
    for (i, (x, out)) in heads.take(n_tokens * op.n_heads).enumerate() {
        let first = i % op.n_heads * op.stride + op.first;
        let (x, carried) = x.split_at(from);
        let (out, behind) = out.split_at_mut(to);
        behind.copy_from_slice(carried);
        for (j, out) in out.iter_mut().enumerate() {
            let element = |k: usize| match op.side {
                MatrixSide::Rows => weight.row(first + j)[k],
                MatrixSide::Columns => weight.row(first + k)[j],
            };
            let products =
                (x.iter().enumerate()).map(|(k, &x)| f64::from(x) * f64::from(element(k)));
            *out = products.sum::<f64>() as f32;
        }
    }
}
