//! Self-attention.

use llm_arch::{AttentionOf, AttentionSpec, NormOrder, NormOver, Positions, Side};
use llm_backend::{
    Backend, GateFunction, Groups, HeadGates, Heads, KvColumns, Mask, Ops, Output, Rotary,
};

use super::{attention_op, project_back};
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op};
use crate::relative::BiasTable;
use crate::state::KvState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row sees its sequence up to itself; an encoder's see all of it. `kv` is the layer's own, or that of the one whose keys and
/// values it sees.
pub(super) fn forward<B: Backend>(
    weights: &AttentionOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    kv: &mut KvState<B>,
) -> Result<()> {
    project(weights, call, input, a)?;
    let (spec, queue) = (&weights.spec, &mut *call.queue);
    let row_width = spec.row_width();
    let columns = KvColumns {
        first: spec.q_width(),
        row_width,
    };
    let batch = call.sequences.own.batch(kv.group);
    if spec.keys_of.is_none() {
        queue.append(&a.rows.qkv, &columns, &batch, &mut kv.pool)?;
    }
    if let Some(to) = call.lends {
        let groups = Groups {
            n_groups: 1,
            parts: Groups::parts(&[spec.own_kv_width()], 1, to.first),
            first: columns.first,
            row_width,
            out_width: to.row_width,
        };
        queue.ungroup(&groups, &a.rows.qkv, &mut a.rows.lent, call.n_tokens)?;
    }
    let mask = match call.side {
        Side::Encoder => Mask::Full,
        Side::Decoder => match spec.window {
            Some(len) if spec.chunked => Mask::Chunked { len },
            window => Mask::Causal { window },
        },
    };
    let op = attention_op(
        spec,
        row_width,
        mask,
        call.bias.map(BiasTable::op),
        weights.sinks.as_deref(),
    );
    queue.attention(&op, &a.rows.qkv, &batch, &kv.pool, &mut a.rows.attended)?;
    if spec.output_gate {
        let op = HeadGates {
            norm: None,
            function: GateFunction::Sigmoid,
            n_heads: spec.n_heads,
            head_dim: spec.head_dim,
            first: spec.qkv_width(),
            row_width,
        };
        queue.gate_heads(&op, &a.rows.qkv, &mut a.rows.attended, call.n_tokens)?;
    }
    let out = (&weights.out, spec.result_scale);
    project_back(queue, out, output, a, call.n_tokens)
}

/// Queries, keys and values into `a.rows.qkv`, normalised and turned.
fn project<B: Backend>(
    weights: &AttentionOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let spec = &weights.spec;
    let (n_heads, n_kv_heads) = (spec.n_heads, spec.n_own_kv_heads());
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let qkv = match spec.is_in_groups() {
        true => &mut a.rows.grouped,
        false => &mut a.rows.qkv,
    };
    let qkv = (Output::Write, qkv);
    let parts = weights.qkv.parts();
    apply::<B>(queue, parts, x, qkv, n_tokens)?;
    for groups in groups(spec).into_iter().flatten() {
        queue.ungroup(&groups, &a.rows.grouped, &mut a.rows.qkv, n_tokens)?;
    }
    if let Some(eps) = spec.v_norm.filter(|_| n_kv_heads > 0) {
        let v = normed(NormOver::Head, n_heads + n_kv_heads, n_kv_heads, spec);
        queue.unit_heads(eps, &v, &mut a.rows.qkv, n_tokens)?;
    }
    let n_turned = n_heads + n_kv_heads;
    match spec.qk_norm.map(|qk| qk.order) {
        None => turn(spec, spec.rotary_idx, n_turned, call, a)?,
        Some(NormOrder::BeforePositions) => {
            normalise(weights, call, a)?;
            turn(spec, spec.rotary_idx, n_turned, call, a)?;
        }
        Some(NormOrder::AfterPositions) => {
            turn(spec, spec.rotary_idx, n_turned, call, a)?;
            normalise(weights, call, a)?;
        }
    }
    if let Some(eps) = spec.turned_norm {
        let qk = normed(NormOver::Head, 0, n_turned, spec);
        let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
        queue.unit_heads(eps, &qk, &mut a.rows.qkv, n_tokens)?;
    }
    // Queries alone.
    turn(spec, spec.growth_idx, n_heads, call, a)
}

/// Normalises queries and keys.
fn normalise<B: Backend>(
    weights: &AttentionOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, spec) = (&mut *call.queue, &weights.spec);
    let Some(over) = spec.qk_norm.map(|qk| qk.over) else {
        return Ok(());
    };
    let heads = [
        (&weights.q_norm, 0, spec.n_heads),
        (&weights.k_norm, spec.n_heads, spec.n_kv_heads),
    ];
    for (norm, first, n_heads) in heads {
        if let Some(norm) = norm {
            let heads = normed(over, first, n_heads, spec);
            queue.norm_heads(&norm_op(norm), &heads, &mut a.rows.qkv, call.n_tokens)?;
        }
    }
    Ok(())
}

/// Turns the first `n_heads` heads of each row, or multiplies them, by the rotary positions of index `idx`, if there are any.
fn turn<B: Backend>(
    spec: &AttentionSpec,
    idx: Option<usize>,
    n_heads: usize,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    if let (Positions::Rotary(kinds), Some(idx)) = (&call.stack.positions, idx) {
        let rotary = &kinds[idx];
        let op = Rotary {
            n_heads,
            head_dim: spec.head_dim,
            first: 0,
            rotary_dim: rotary.dim,
            pairing: rotary.pairing,
            row_width: spec.row_width(),
        };
        let n_tokens = call.n_tokens;
        call.queue
            .rotate(&op, &a.rows.angles[idx], &mut a.rows.qkv, n_tokens)?;
    }
    Ok(())
}

/// Groups in which projections' results lie: of each key head its queries, its own and its values, or of each query head its
/// query and the gates of its result, with keys and values behind.
fn groups(spec: &AttentionSpec) -> [Option<Groups>; 2] {
    let AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        ..
    } = *spec;
    let row_width = spec.row_width();
    let groups = |n_groups, widths: &[usize], first| Groups {
        n_groups,
        parts: Groups::parts(widths, n_groups, first),
        first,
        row_width,
        out_width: row_width,
    };
    if spec.output_gate {
        let mut heads = groups(n_heads, &[head_dim, head_dim], 0);
        heads.parts[1].to = spec.qkv_width();
        let mut rest = groups(1, &[2 * spec.kv_width()], spec.gated_q_width());
        rest.parts[0].to = spec.q_width();
        return [Some(heads), Some(rest)];
    }
    if spec.keys_are_values() {
        // The row is `[q | k]`, whose keys go to two places.
        let projected = spec.q_width() + spec.kv_width();
        let part = |from, width, to| Groups {
            row_width: projected,
            parts: Groups::parts(&[width], 1, to),
            ..groups(1, &[], from)
        };
        let values = part(spec.q_width(), spec.kv_width(), projected);
        return [Some(part(0, projected, 0)), Some(values)];
    }
    let grouped = spec.grouped().map(|n_queries| {
        let widths = [n_queries * head_dim, head_dim, head_dim];
        groups(n_kv_heads, &widths, 0)
    });
    [grouped, None]
}

/// What a norm of `n_heads` heads from the head `first` on takes for one.
fn normed(over: NormOver, first: usize, n_heads: usize, spec: &AttentionSpec) -> Heads {
    let AttentionSpec { head_dim, .. } = *spec;
    let (first, n_heads, head_dim) = match over {
        NormOver::Head => (first, n_heads, head_dim),
        // As many query heads as the key heads divide lie before.
        NormOver::AllHeads => (first / n_heads, 1, n_heads * head_dim),
    };
    Heads {
        first,
        n_heads,
        head_dim,
        row_width: spec.row_width(),
    }
}
