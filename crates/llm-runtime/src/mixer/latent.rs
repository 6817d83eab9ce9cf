//! Attention to latents, absorbed: queries are brought to where latents are, and results back.
//!
//! A key of head `h` is `K_h · l` of a latent `l`, so that its product with a query `q` is that of `K_hᵀ · q` with `l` itself; and
//! a weighted sum of values `V_h · l` is `V_h` times the weighted sum of latents. So nothing is made of latents but scores and
//! sums, and all heads attend to one key.

use std::slice::from_ref;

use llm_arch::{LatentOf, LatentSpec, LinearOf, RotarySpec};
use llm_backend::{
    Attention, Backend, HeadProducts, KvColumns, Mask, MatrixSide, Ops, Output, Rotary,
};

use super::{index, norm_first, project_back, turn_shared};
use crate::Result;
use crate::activations::{Activations, Selecting};
use crate::projection::{apply, norm_op};
use crate::state::KvState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row sees the latents of its sequence up to its own.
///
/// `attended` has the row's own latent first, then queries, then results; `qkv` has queries of latents, `[n_heads, latent | turned]`;
/// `grouped` has the latent of queries, then sums of latents. Before queries are brought to latents, `qkv` and `grouped` have what
/// positions are selected by.
pub(super) fn forward<B: Backend>(
    weights: &LatentOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    (kv, keys): (&mut KvState<B>, Option<&mut KvState<B>>),
) -> Result<()> {
    let spec = &weights.spec;
    keep(weights, call, input, a, kv)?;
    let mut own = weights.index.as_ref().zip(keys);
    if let Some((index, keys)) = &mut own {
        index::keep::<B>((spec, index), call, input, a, keys)?;
    }
    queries(weights, call, input, a)?;
    let selects = a.selected.is_some() && leaves_some_out(spec, call, kv);
    if let Some((index, keys)) = own.filter(|_| selects) {
        index::select::<B>(weights, index, call, input, a, keys)?;
    }
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let to_latents = HeadProducts {
        carried: spec.rope_dim,
        ..to_latents::<B>(weights)
    };
    queue.head_products(&to_latents, &a.rows.attended, &mut a.rows.qkv, n_tokens)?;
    let op = Attention {
        n_heads: spec.n_heads,
        n_kv_heads: 1,
        head_dim: spec.key_dim(),
        row_width: spec.n_heads * spec.key_dim(),
        scale: spec.scale,
        soft_cap: None,
        mask: Mask::Causal { window: None },
        bias: None,
        sinks: None,
        // Its own layer's, or that of the last layer that selected some.
        selected: a.selected.as_ref().filter(|_| selects).map(Selecting::of),
        beside: None,
    };
    let batch = call.sequences.own.batch(kv.group);
    queue.attention(&op, &a.rows.qkv, &batch, &kv.pool, &mut a.rows.grouped)?;
    queue.head_products(
        &to_values::<B>(weights),
        &a.rows.grouped,
        &mut a.rows.attended,
        n_tokens,
    )?;
    project_back(queue, (&weights.out, 1.0), output, a, n_tokens)
}

/// True if some row of a pass has more positions than are selected.
fn leaves_some_out<B: Backend>(spec: &LatentSpec, call: &Call<'_, B>, kv: &KvState<B>) -> bool {
    let n_selected = spec.index.map_or(usize::MAX, |index| index.n_selected);
    let mut rows = call.sequences.own.batch(kv.group).rows.iter();
    rows.any(|rows| rows.start + rows.n_tokens > n_selected)
}

/// Takes each row's latent, normalised, and the key that all heads share, turned, to the pool.
fn keep<B: Backend>(
    weights: &LatentOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
    kv: &mut KvState<B>,
) -> Result<()> {
    let (spec, input_of) = (&weights.spec, &weights.kv_latent);
    let row_width = spec.key_dim();
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let (n_tokens, project) = (call.n_tokens, from_ref(&input_of.project));
    let out = (Output::Write, &mut a.rows.attended);
    apply::<B>(call.queue, project, x, out, n_tokens)?;
    let norm = norm_op(&input_of.norm);
    norm_first(call, &norm, (spec.kv_rank, row_width), &mut a.rows.attended)?;
    turn(call, spec, (1, row_width), a)?;
    let columns = KvColumns {
        first: 0,
        row_width,
    };
    let batch = call.sequences.own.batch(kv.group);
    Ok(call
        .queue
        .append(&a.rows.attended, &columns, &batch, &mut kv.pool)?)
}

/// Queries into `a.rows.attended`, `[n_heads, nope_dim | rope_dim]`, the last of each turned.
fn queries<B: Backend>(
    weights: &LatentOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let (spec, n_tokens) = (&weights.spec, call.n_tokens);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let q = from_ref(&weights.q);
    match &weights.q_latent {
        Some(input_of) => {
            let out = (Output::Write, &mut a.rows.grouped);
            let project = from_ref(&input_of.project);
            apply::<B>(call.queue, project, x, out, n_tokens)?;
            let rank = spec.q_rank.expect("a latent of queries has a rank");
            let norm = norm_op(&input_of.norm);
            norm_first(call, &norm, (rank, rank), &mut a.rows.grouped)?;
            let out = (Output::Write, &mut a.rows.attended);
            apply::<B>(call.queue, q, &a.rows.grouped, out, n_tokens)?;
        }
        None => {
            let out = (Output::Write, &mut a.rows.attended);
            apply::<B>(call.queue, q, x, out, n_tokens)?;
        }
    }
    turn(call, spec, (spec.n_heads, spec.q_dim()), a)
}

/// Turns the last elements of each head of rows of `a.rows.attended`.
fn turn<B: Backend>(
    call: &mut Call<'_, B>,
    spec: &LatentSpec,
    (n_heads, head_dim): (usize, usize),
    a: &mut Activations<B>,
) -> Result<()> {
    let op = |rotary: &RotarySpec| Rotary {
        n_heads,
        head_dim,
        first: head_dim - spec.rope_dim,
        rotary_dim: rotary.dim,
        pairing: rotary.pairing,
        row_width: n_heads * head_dim,
    };
    let x = (&a.rows.angles[..], &mut a.rows.attended);
    turn_shared(call, spec.rotary_idx, op, x)
}

/// Products of queries with what makes keys of latents: by columns, or by rows where keys lie apart from values.
fn to_latents<B: Backend>(weights: &LatentOf<Tensor<B>>) -> HeadProducts<'_, B> {
    let spec = &weights.spec;
    match &weights.values {
        Some(_) => products::<B>(
            spec,
            &weights.kv,
            [spec.kv_rank, 0, spec.kv_rank, spec.nope_dim],
        ),
        None => HeadProducts {
            side: MatrixSide::Columns,
            ..products::<B>(
                spec,
                &weights.kv,
                [spec.kv_dim(), 0, spec.nope_dim, spec.kv_rank],
            )
        },
    }
}

/// Products of sums of latents with what makes values of them.
fn to_values<B: Backend>(weights: &LatentOf<Tensor<B>>) -> HeadProducts<'_, B> {
    let spec = &weights.spec;
    let (value_dim, kv_rank) = (spec.value_dim, spec.kv_rank);
    match &weights.values {
        Some(values) => products::<B>(spec, values, [value_dim, 0, value_dim, kv_rank]),
        None => {
            let shape = [spec.kv_dim(), spec.nope_dim, value_dim, kv_rank];
            products::<B>(spec, &weights.kv, shape)
        }
    }
}

/// Products with rows of each head's matrix: of so many, from one on so many, and their columns.
fn products<'a, B: Backend>(
    spec: &LatentSpec,
    matrices: &'a LinearOf<Tensor<B>>,
    [stride, first, n_rows, cols]: [usize; 4],
) -> HeadProducts<'a, B> {
    HeadProducts {
        weight: &matrices.weight,
        n_heads: spec.n_heads,
        stride,
        first,
        n_rows,
        cols,
        side: MatrixSide::Rows,
        carried: 0,
    }
}
