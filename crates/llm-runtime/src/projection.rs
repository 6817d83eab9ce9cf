//! Weights as they are applied: a norm's vectors, and matrices that share their input.

use llm_arch::{LinearOf, NormOf, NormSpec};
use llm_backend::{Backend, LinearPart, NormOp, Output};

use crate::Result;

/// A normalisation by its vectors.
pub(crate) fn norm_op<B: Backend>(norm: &NormOf<B::Weight>) -> NormOp<'_, B> {
    let NormSpec {
        norm: statistic,
        eps,
        gain_offset,
    } = norm.spec;
    NormOp {
        norm: statistic,
        eps,
        gain_offset,
        gain: &norm.gain,
        bias: norm.bias.as_ref(),
    }
}

/// `x` `[n_tokens, in]` times all `parts`, side by side in `out`.
pub(crate) fn apply<B: Backend>(
    backend: &B,
    parts: &[LinearOf<B::Weight>],
    x: &B::Buffer,
    (output, out): (Output, &mut B::Buffer),
    n_tokens: usize,
    workspace: &mut B::Workspace,
) -> Result<()> {
    let n_parts = parts.len();
    // On the stack, the last part repeated to fill up: the hot path allocates nothing.
    let parts: [_; MAX_PARTS] = std::array::from_fn(|i| {
        let LinearOf { weight, bias } = &parts[i.min(n_parts - 1)];
        LinearPart {
            weight,
            bias: bias.as_ref(),
        }
    });
    Ok(backend.linear(&parts[..n_parts], x, output, out, n_tokens, workspace)?)
}

/// Queries, keys and values.
const MAX_PARTS: usize = 3;
