//! Self-attention.

use std::slice::from_ref;

use llm_arch::{AttentionOf, AttentionSpec, Positions, Side};
use llm_backend::{Backend, HeadGroups, Heads, KvColumns, Output, Rotary, Seen};

use super::attention_op;
use crate::Result;
use crate::activations::Activations;
use crate::block::{Call, Input};
use crate::projection::{apply, norm_op};
use crate::relative::BiasTable;
use crate::state::LayerState;

/// Each row sees its sequence up to itself; an encoder's see all of it.
pub(super) fn forward<B: Backend>(
    weights: &AttentionOf<B::Weight>,
    call: &Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    states: &mut [LayerState<B>],
) -> Result<()> {
    project(weights, call, input, a)?;
    let (spec, backend) = (&weights.spec, call.backend);
    let row_width = spec.qkv_width();
    let columns = KvColumns {
        first: spec.q_width(),
        row_width,
    };
    for &(sequence, rows) in call.sequences {
        let kv = states[sequence].kv();
        kv.append(backend, &a.qkv, &columns, rows)?;
        let seen = match call.side {
            Side::Encoder => Seen::All {
                n_positions: rows.n_tokens,
            },
            Side::Decoder => Seen::Past {
                window: spec.window,
            },
        };
        let op = attention_op(spec, row_width, seen, call.bias.map(BiasTable::op));
        let (attended, workspace) = (&mut a.attended, &mut a.workspace);
        backend.attention(&op, &a.qkv, rows, &kv.cache, attended, workspace)?;
    }
    let out = match output {
        Output::Write => &mut a.delta,
        Output::Add => &mut a.x,
    };
    apply(
        backend,
        from_ref(&weights.out),
        &a.attended,
        (output, out),
        call.n_tokens,
        &mut a.workspace,
    )
}

/// Queries, keys and values into `a.qkv`, normalised and turned.
fn project<B: Backend>(
    weights: &AttentionOf<B::Weight>,
    call: &Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let Call {
        backend,
        stack,
        n_tokens,
        ..
    } = *call;
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
        Input::Stream => &a.x,
        Input::Normed => &a.normed,
    };
    let grouped = spec.grouped();
    let qkv = match grouped {
        Some(_) => &mut a.grouped,
        None => &mut a.qkv,
    };
    let qkv = (Output::Write, qkv);
    let parts = weights.qkv.parts();
    apply(backend, parts, x, qkv, n_tokens, &mut a.workspace)?;
    if let Some(n_queries) = grouped {
        let groups = HeadGroups {
            n_groups: n_kv_heads,
            n_queries,
            head_dim,
        };
        backend.ungroup(&groups, &a.grouped, &mut a.qkv, n_tokens)?;
    }
    if let Some([q_norm, k_norm]) = &weights.qk_norm {
        let q = Heads {
            first: 0,
            n_heads,
            head_dim,
            row_width,
        };
        let k = Heads {
            first: n_heads,
            n_heads: n_kv_heads,
            head_dim,
            row_width,
        };
        backend.norm_heads(&norm_op(q_norm), &q, &mut a.qkv, n_tokens)?;
        backend.norm_heads(&norm_op(k_norm), &k, &mut a.qkv, n_tokens)?;
    }
    if let Positions::Rotary(kinds) = &stack.positions {
        let rotary = &kinds[rotary_idx];
        let op = Rotary {
            n_heads: n_heads + n_kv_heads,
            head_dim,
            rotary_dim: rotary.dim,
            pairing: rotary.pairing,
            row_width,
        };
        backend.rotate(&op, &a.angles[rotary_idx], &mut a.qkv, n_tokens)?;
    }
    Ok(())
}
