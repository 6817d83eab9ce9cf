//! Gated short convolution.

use std::slice::from_ref;

use llm_arch::ShortConvOf;
use llm_backend::{Backend, ConvRows, Ops, Output, ShortConv};

use super::project_back;
use crate::Result;
use crate::activations::Activations;
use crate::projection::apply;
use crate::state::SlotState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row is convolved with those of its sequence just before it.
pub(super) fn forward<B: Backend>(
    weights: &ShortConvOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    state: &mut SlotState<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let projected = (Output::Write, &mut a.rows.qkv);
    apply::<B>(queue, from_ref(&weights.project), x, projected, n_tokens)?;
    let op = ShortConv {
        taps: &*weights.taps.weight,
        bias: weights.taps.bias.as_deref(),
        n_channels: weights.spec.n_channels,
        kernel: weights.spec.kernel,
        rows: ConvRows::Gated,
    };
    let (batch, mixed) = (call.sequences.states(), &mut a.rows.attended);
    queue.short_conv(&op, &a.rows.qkv, &batch, &mut state.buffer, mixed)?;
    project_back(queue, (&weights.out, 1.0), output, a, n_tokens)
}
