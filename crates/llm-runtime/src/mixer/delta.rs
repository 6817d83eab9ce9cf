//! The gated delta rule, with the convolution before and the gates after.

use std::slice::from_ref;

use llm_arch::{DeltaLatentsOf, DeltaOf, DeltaPacking, DeltaSpec};
use llm_backend::{
    Backend, ConvRows, Decays, DeltaGates, DeltaRule, GateFunction, GroupPart, Groups, HeadGates,
    HeadNorm, NormOrder, Ops, Output, ShortConv,
};

use super::project_back;
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op};
use crate::state::SlotState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row corrects its sequence's state, and reads it.
///
/// `qkv` has rows `[q | k | v | gates | strengths | decays]`; `grouped` has them before they are in order, and then what of
/// them was convolved. `attended` has latents of gates and decays, and what one of several convolutions made, before results.
pub(super) fn forward<B: Backend>(
    weights: &DeltaOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    (conv, rule): (&mut [SlotState<B>], &mut SlotState<B>),
) -> Result<()> {
    project(weights, call, input, a)?;
    if let Some(latents) = &weights.latents {
        project_by_latents(latents, (&weights.spec, input), call, a)?;
    }
    convolve(weights, call, a, conv)?;
    let (queue, n_tokens, spec) = (&mut *call.queue, call.n_tokens, &weights.spec);
    let batch = call.sequences.states();
    let row_width = spec.projected_width();
    let (decays, function) = match spec.packing {
        DeltaPacking::Separate | DeltaPacking::PerKeyHead | DeltaPacking::PairsPerKeyHead => {
            (Decays::Head, GateFunction::Silu)
        }
        DeltaPacking::Channels { .. } => (Decays::Channel, GateFunction::Sigmoid),
    };
    let gates = spec.conv_width();
    let strength = gates + spec.values_width();
    let op = DeltaRule {
        n_key_heads: spec.n_key_heads,
        n_value_heads: spec.n_value_heads,
        n_together: spec.n_together(),
        key_dim: spec.key_dim,
        value_dim: spec.value_dim,
        norm_eps: LENGTH_EPS,
        scale: (spec.key_dim as f32).sqrt().recip(),
        rate: &*weights.rate,
        offset: &*weights.offset,
        decays,
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
        function,
        n_heads: spec.n_value_heads,
        head_dim: spec.value_dim,
        first: gates,
        row_width,
    };
    queue.gate_heads(&op, &a.rows.qkv, &mut a.rows.attended, n_tokens)?;
    project_back(queue, (&weights.out, 1.0), output, a, n_tokens)
}

/// Convolves queries, keys and values of `a.rows.qkv` into `a.rows.grouped`, together or by themselves.
fn convolve<B: Backend>(
    weights: &DeltaOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
    conv: &mut [SlotState<B>],
) -> Result<()> {
    let (queue, n_tokens, spec) = (&mut *call.queue, call.n_tokens, &weights.spec);
    let batch = call.sequences.states();
    let taps = weights.taps.parts();
    let mut first = 0;
    for (taps, conv) in taps.iter().zip(conv) {
        let n_channels = conv.n_elements() / (spec.kernel - 1);
        let op = ShortConv {
            taps: &*taps.weight,
            bias: taps.bias.as_deref(),
            n_channels,
            kernel: spec.kernel,
            rows: ConvRows::Columns {
                first,
                row_width: spec.projected_width(),
                activation: Some(spec.activation),
            },
        };
        if n_channels == spec.conv_width() {
            let out = &mut a.rows.grouped;
            return Ok(queue.short_conv(&op, &a.rows.qkv, &batch, &mut conv.buffer, out)?);
        }
        let out = &mut a.rows.attended;
        queue.short_conv(&op, &a.rows.qkv, &batch, &mut conv.buffer, out)?;
        let part = place(n_channels, first, spec.conv_width());
        queue.ungroup(&part, &a.rows.attended, &mut a.rows.grouped, n_tokens)?;
        first += n_channels;
    }
    Ok(())
}

/// Rows of `width` that go to columns of longer ones, from `to` on.
fn place(width: usize, to: usize, out_width: usize) -> Groups {
    Groups {
        n_groups: 1,
        parts: Groups::parts(&[width], 1, to),
        first: 0,
        row_width: width,
        out_width,
    }
}

/// Gates of results and decays into `a.rows.qkv`, each by way of its latent.
fn project_by_latents<B: Backend>(
    latents: &DeltaLatentsOf<Tensor<B>>,
    (spec, input): (&DeltaSpec, Input),
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let gates = spec.conv_width();
    let decays = gates + spec.values_width() + spec.n_value_heads;
    let ways = [
        (
            &latents.gate_down,
            &latents.gate_up,
            gates,
            spec.values_width(),
        ),
        (
            &latents.decay_down,
            &latents.decay_up,
            decays,
            spec.n_decays(),
        ),
    ];
    for (down, up, first, width) in ways {
        let x = match input {
            Input::Residual => &a.rows.x,
            Input::Normed => &a.rows.normed,
        };
        let latent = (Output::Write, &mut a.rows.attended);
        apply::<B>(queue, from_ref(down), x, latent, n_tokens)?;
        let out = (Output::Write, &mut a.rows.grouped);
        apply::<B>(queue, from_ref(up), &a.rows.attended, out, n_tokens)?;
        let part = place(width, first, spec.projected_width());
        queue.ungroup(&part, &a.rows.grouped, &mut a.rows.qkv, n_tokens)?;
    }
    Ok(())
}

/// Projections into `a.rows.qkv`, in order.
fn project<B: Backend>(
    weights: &DeltaOf<Tensor<B>>,
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
        DeltaPacking::Channels { .. } => {
            let grouped = (Output::Write, &mut a.rows.grouped);
            apply::<B>(queue, parts, x, grouped, n_tokens)?;
            let (conv, values) = (spec.conv_width(), spec.values_width());
            let part = |width, to| GroupPart { width, to };
            let mut parts = [GroupPart::default(); Groups::MAX_PARTS];
            parts[0] = part(conv, 0);
            parts[1] = part(spec.n_value_heads, conv + values);
            let groups = Groups {
                n_groups: 1,
                parts,
                first: 0,
                row_width: conv + spec.n_value_heads,
                out_width: spec.projected_width(),
            };
            Ok(queue.ungroup(&groups, &a.rows.grouped, &mut a.rows.qkv, n_tokens)?)
        }
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
        DeltaPacking::Separate | DeltaPacking::PairsPerKeyHead | DeltaPacking::Channels { .. } => {
            groups(1, &[first], 0)
        }
    };
    [before, groups(n_groups, &[of_key, of_key], first)]
}

/// Added to the squared length of queries and keys; no configuration gives another.
const LENGTH_EPS: f32 = 1e-6;
