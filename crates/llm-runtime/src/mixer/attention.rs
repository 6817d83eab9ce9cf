//! Self-attention.

use std::slice::from_ref;

use llm_arch::{AttentionOf, AttentionSpec, NormOver, Positions, Side};
use llm_backend::{Backend, Groups, Heads, KvColumns, Mask, Ops, Output, Rotary};

use super::attention_op;
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op};
use crate::relative::BiasTable;
use crate::state::KvState;
use crate::sublayer::{Call, Input};

/// Each row sees its sequence up to itself; an encoder's see all of it.
pub(super) fn forward<B: Backend>(
    weights: &AttentionOf<B::Weight>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    kv: &mut KvState<B>,
) -> Result<()> {
    project(weights, call, input, a)?;
    let (spec, queue) = (&weights.spec, &mut *call.queue);
    let row_width = spec.qkv_width();
    let columns = KvColumns {
        first: spec.q_width(),
        row_width,
    };
    let batch = call.sequences.own.batch(kv.group);
    queue.append(&a.rows.qkv, &columns, &batch, &mut kv.pool)?;
    let mask = match call.side {
        Side::Encoder => Mask::Full,
        Side::Decoder => Mask::Causal {
            window: spec.window,
        },
    };
    let op = attention_op(spec, row_width, mask, call.bias.map(BiasTable::op));
    queue.attention(&op, &a.rows.qkv, &batch, &kv.pool, &mut a.rows.attended)?;
    let out = match output {
        Output::Write => &mut a.rows.delta,
        Output::Add => &mut a.rows.x,
    };
    let (linear, out) = (from_ref(&weights.out), (output, out));
    apply::<B>(queue, linear, &a.rows.attended, out, call.n_tokens)
}

/// Queries, keys and values into `a.rows.qkv`, normalised and turned.
fn project<B: Backend>(
    weights: &AttentionOf<B::Weight>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let spec = &weights.spec;
    let AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        rotary_idx,
        ..
    } = *spec;
    let row_width = spec.qkv_width();
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let grouped = spec.grouped();
    let qkv = match grouped {
        Some(_) => &mut a.rows.grouped,
        None => &mut a.rows.qkv,
    };
    let qkv = (Output::Write, qkv);
    let parts = weights.qkv.parts();
    apply::<B>(queue, parts, x, qkv, n_tokens)?;
    if let Some(n_queries) = grouped {
        let parts = [n_queries * head_dim, head_dim, head_dim];
        let groups = Groups {
            n_groups: n_kv_heads,
            parts: Groups::parts(&parts, n_kv_heads, 0),
            first: 0,
            row_width,
            out_width: row_width,
        };
        queue.ungroup(&groups, &a.rows.grouped, &mut a.rows.qkv, n_tokens)?;
    }
    let over = spec.qk_norm.map(|qk| qk.over);
    if let (Some(q_norm), Some(over)) = (&weights.q_norm, over) {
        let q = normed(over, 0, n_heads, spec);
        queue.norm_heads(&norm_op(q_norm), &q, &mut a.rows.qkv, n_tokens)?;
    }
    if let (Some(k_norm), Some(over)) = (&weights.k_norm, over) {
        let k = normed(over, n_heads, n_kv_heads, spec);
        queue.norm_heads(&norm_op(k_norm), &k, &mut a.rows.qkv, n_tokens)?;
    }
    if let (Positions::Rotary(kinds), Some(rotary_idx)) = (&call.stack.positions, rotary_idx) {
        let rotary = &kinds[rotary_idx];
        let op = Rotary {
            n_heads: n_heads + n_kv_heads,
            head_dim,
            rotary_dim: rotary.dim,
            pairing: rotary.pairing,
            row_width,
        };
        queue.rotate(&op, &a.rows.angles[rotary_idx], &mut a.rows.qkv, n_tokens)?;
    }
    Ok(())
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
        row_width: spec.qkv_width(),
    }
}
