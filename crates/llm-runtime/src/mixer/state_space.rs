//! A state space, with the convolution before, and the gates and the norm after.

use std::slice::from_ref;

use llm_arch::StateSpaceOf;
use llm_backend::{
    Backend, ConvRows, GateFunction, HeadGates, HeadNorm, NormOrder, Ops, Output, Run, ShortConv,
    StateSpace, Steps,
};

use super::project_back;
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op};
use crate::state::SlotState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row adds to its sequence's state, and reads it.
///
/// `qkv` has rows `[gates | values | written by | read by | steps]`; `grouped` has what of them was convolved.
pub(super) fn forward<B: Backend>(
    weights: &StateSpaceOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    (conv, space): (&mut SlotState<B>, &mut SlotState<B>),
) -> Result<()> {
    let (queue, n_tokens, spec) = (&mut *call.queue, call.n_tokens, &weights.spec);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let projected = (Output::Write, &mut a.rows.qkv);
    apply::<B>(queue, from_ref(&weights.project), x, projected, n_tokens)?;
    let batch = call.sequences.states();
    let (row_width, values) = (spec.projected_width(), spec.values_width());
    if let Some(factors) = spec.scales {
        let of_groups = spec.n_groups * spec.state_dim;
        let columns = [values, values, of_groups, of_groups, spec.n_heads];
        let runs: [Run; 5] = std::array::from_fn(|i| Run {
            n_columns: columns[i],
            factor: factors[i],
        });
        queue.scale(&runs, &mut a.rows.qkv, n_tokens)?;
    }
    let op = ShortConv {
        taps: &*weights.taps.weight,
        bias: weights.taps.bias.as_deref(),
        n_channels: spec.conv_width(),
        kernel: spec.kernel,
        rows: ConvRows::Columns {
            first: values,
            row_width,
            activation: Some(spec.activation),
        },
    };
    let convolved = &mut a.rows.grouped;
    queue.short_conv(&op, &a.rows.qkv, &batch, &mut conv.buffer, convolved)?;
    let op = StateSpace {
        n_heads: spec.n_heads,
        head_dim: spec.head_dim,
        state_dim: spec.state_dim,
        n_groups: spec.n_groups,
        rate: &*weights.rate,
        offset: &*weights.offset,
        skip: &*weights.skip,
        steps: Steps {
            first: values + spec.conv_width(),
            row_width,
            limits: spec.step_limits,
        },
    };
    let inputs = (&a.rows.grouped, &a.rows.qkv);
    let mixed = &mut a.rows.attended;
    queue.state_space(&op, inputs, &batch, &mut space.buffer, mixed)?;
    let n_groups = spec.norm.map_or(1, |of| of.n_groups);
    let op = HeadGates {
        norm: weights.norm.as_ref().map(|norm| HeadNorm {
            op: norm_op(norm),
            order: NormOrder::AfterGates,
        }),
        function: GateFunction::Silu,
        n_heads: n_groups,
        head_dim: values / n_groups,
        first: 0,
        row_width,
    };
    queue.gate_heads(&op, &a.rows.qkv, &mut a.rows.attended, n_tokens)?;
    let out = (&weights.out, spec.result_scale);
    project_back(queue, out, output, a, n_tokens)
}
