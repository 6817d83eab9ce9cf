//! The gated delta rule, with the convolution before and the gates after.

use llm_arch::{DeltaOf, DeltaPacking, DeltaSpec};
use llm_backend::{
    Backend, ConvRows, DeltaGates, DeltaRule, GateFunction, Groups, HeadGates, HeadNorm, NormOrder,
    Ops, Output, ShortConv,
};

use super::project_back;
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op};
use crate::state::SlotState;
use crate::sublayer::{Call, Input};

/// Each row corrects its sequence's state, and reads it.
///
/// `qkv` has rows `[q | k | v | gates | strengths | decays]`; `grouped` has them before they are in order, and then what of
/// them was convolved.
pub(super) fn forward<B: Backend>(
    weights: &DeltaOf<B::Weight>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    (conv, rule): (&mut SlotState<B>, &mut SlotState<B>),
) -> Result<()> {
    project(weights, call, input, a)?;
    let (queue, n_tokens, spec) = (&mut *call.queue, call.n_tokens, &weights.spec);
    let batch = call.sequences.states();
    let row_width = spec.projected_width();
    let op = ShortConv {
        taps: &weights.taps.weight,
        bias: weights.taps.bias.as_ref(),
        n_channels: spec.conv_width(),
        kernel: spec.kernel,
        rows: ConvRows::Columns {
            first: 0,
            row_width,
            activation: Some(spec.activation),
        },
    };
    let convolved = &mut a.rows.grouped;
    queue.short_conv(&op, &a.rows.qkv, &batch, &mut conv.buffer, convolved)?;
    let gates = spec.conv_width();
    let strength = gates + spec.values_width();
    let op = DeltaRule {
        n_key_heads: spec.n_key_heads,
        n_value_heads: spec.n_value_heads,
        key_dim: spec.key_dim,
        value_dim: spec.value_dim,
        norm_eps: LENGTH_EPS,
        scale: (spec.key_dim as f32).sqrt().recip(),
        rate: &weights.rate,
        offset: &weights.offset,
        gates: DeltaGates {
            decay: strength + spec.n_value_heads,
            strength,
            row_width,
        },
    };
    let inputs = (&a.rows.grouped, &a.rows.qkv);
    queue.delta_rule(&op, inputs, &batch, &mut rule.buffer, &mut a.rows.attended)?;
    let op = HeadGates {
        norm: Some(HeadNorm {
            op: norm_op(&weights.norm),
            order: NormOrder::BeforeGates,
        }),
        function: GateFunction::Silu,
        n_heads: spec.n_value_heads,
        head_dim: spec.value_dim,
        first: gates,
        row_width,
    };
    queue.gate_heads(&op, &a.rows.qkv, &mut a.rows.attended, n_tokens)?;
    project_back(queue, &weights.out, output, a, n_tokens)
}

/// Projections into `a.rows.qkv`, in order.
fn project<B: Backend>(
    weights: &DeltaOf<B::Weight>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens, spec) = (&mut *call.queue, call.n_tokens, &weights.spec);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let parts = weights.project.parts();
    match spec.packing {
        DeltaPacking::Separate => {
            apply::<B>(queue, parts, x, (Output::Write, &mut a.rows.qkv), n_tokens)
        }
        DeltaPacking::PerKeyHead | DeltaPacking::PairsPerKeyHead => {
            let grouped = (Output::Write, &mut a.rows.grouped);
            apply::<B>(queue, parts, x, grouped, n_tokens)?;
            for groups in groups(spec) {
                queue.ungroup(&groups, &a.rows.grouped, &mut a.rows.qkv, n_tokens)?;
            }
            Ok(())
        }
    }
}

/// Groups of what projections make: strengths and decays by key head, and what is before them by key head too, or in order.
fn groups(spec: &DeltaSpec) -> [Groups; 2] {
    let n_groups = spec.n_key_heads;
    let of_key = spec.n_value_heads / n_groups;
    let (keys, values) = (spec.key_dim, of_key * spec.value_dim);
    let first = spec.conv_width() + spec.values_width();
    let row_width = spec.projected_width();
    let groups = |n_groups, widths: &[usize], first| Groups {
        n_groups,
        parts: Groups::parts(widths, n_groups, first),
        first,
        row_width,
        out_width: row_width,
    };
    let before = match spec.packing {
        DeltaPacking::PerKeyHead => groups(n_groups, &[keys, keys, values, values], 0),
        DeltaPacking::Separate | DeltaPacking::PairsPerKeyHead => groups(1, &[first], 0),
    };
    [before, groups(n_groups, &[of_key, of_key], first)]
}

/// Added to the squared length of queries and keys; no configuration gives another.
const LENGTH_EPS: f32 = 1e-6;
