//! Weights as they are applied: a norm's vectors, and matrices that share their input.

use std::slice::from_ref;

use llm_arch::{LinearOf, NormOf, NormSpec};
use llm_backend::{Backend, LinearPart, NormOp, Ops, OutColumns, Output, Run};

use crate::Result;
use crate::stream::{Tensor, product};

/// A normalisation by its vectors.
pub(crate) fn norm_op<B: Backend>(norm: &NormOf<Tensor<B>>) -> NormOp<'_, B> {
    let NormSpec {
        norm: statistic,
        eps,
        gain_offset,
        bias: _,
    } = norm.spec;
    NormOp {
        norm: statistic,
        eps,
        gain_offset,
        gain: &norm.gain,
        bias: norm.bias.as_deref(),
    }
}

/// A matrix and its bias.
pub(crate) fn part<B: Backend>(linear: &LinearOf<Tensor<B>>) -> LinearPart<'_, B> {
    LinearPart {
        weight: &linear.weight,
        bias: linear.bias.as_deref(),
    }
}

/// Matrices on the stack, the last repeated to fill up: the hot path allocates nothing.
pub(crate) fn parts<B: Backend>(parts: &[LinearOf<Tensor<B>>]) -> [LinearPart<'_, B>; MAX_PARTS] {
    std::array::from_fn(|i| part(&parts[i.min(parts.len() - 1)]))
}

/// `x` `[n_tokens, in]` times all of `linears`, side by side in `out`.
pub(crate) fn apply<B: Backend>(
    queue: &mut B::Queue,
    linears: &[LinearOf<Tensor<B>>],
    x: &B::Buffer,
    (output, out): (Output, &mut B::Buffer),
    n_tokens: usize,
) -> Result<()> {
    if linears.iter().all(|linear| linear.weight.is_here()) {
        let parts = &parts(linears)[..linears.len()];
        return Ok(queue.linear(parts, x, output, out, n_tokens)?);
    }
    let width = linears.iter().map(|linear| linear.weight.n_rows()).sum();
    let mut first = 0;
    for LinearOf { weight, bias } in linears {
        let columns = (output, OutColumns { first, width });
        product(queue, (weight, bias.as_ref()), x, columns, out, n_tokens)?;
        first += weight.n_rows();
    }
    Ok(())
}

/// `x` `[n_tokens, in]` times a matrix to `hidden` columns, times `factor`: added to `residual`, or written to `beside`.
pub(crate) fn apply_back<B: Backend>(
    queue: &mut B::Queue,
    (linear, factor): (&LinearOf<Tensor<B>>, f32),
    x: &B::Buffer,
    (output, residual, beside): (Output, &mut B::Buffer, &mut B::Buffer),
    (hidden, n_tokens): (usize, usize),
) -> Result<()> {
    let linear = from_ref(linear);
    match output {
        Output::Add if factor == 1.0 => {
            return apply::<B>(queue, linear, x, (Output::Add, residual), n_tokens);
        }
        Output::Add | Output::Write => {
            apply::<B>(queue, linear, x, (Output::Write, &mut *beside), n_tokens)?;
        }
    }
    scale::<B>(queue, factor, beside, (hidden, n_tokens))?;
    match output {
        Output::Add => Ok(queue.add(beside, residual, hidden, n_tokens)?),
        Output::Write => Ok(()),
    }
}

/// Multiplies rows `[n_tokens, width]`; by zero whatever lies there becomes zero.
pub(crate) fn scale<B: Backend>(
    queue: &mut B::Queue,
    factor: f32,
    rows: &mut B::Buffer,
    (width, n_tokens): (usize, usize),
) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    let run = Run {
        n_columns: width,
        factor,
    };
    Ok(queue.scale(&[run], rows, n_tokens)?)
}

/// What the gated delta rule projects; attention has three.
const MAX_PARTS: usize = 4;
