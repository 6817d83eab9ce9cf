//! Selection of the positions that latent attention sees, by heads of its own.

use std::slice::from_ref;

use llm_arch::{IndexOf, LatentOf, LatentSpec, RotarySpec};
use llm_backend::{Backend, KvColumns, Ops, Output, Rotary, Selection};

use super::{norm_first, turn_shared};
use crate::Result;
use crate::activations::{Activations, Selecting};
use crate::projection::{apply, norm_op};
use crate::state::KvState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Takes each row's key to the pool of keys; `qkv` has it on its way.
pub(super) fn keep<B: Backend>(
    (spec, index): (&LatentSpec, &IndexOf<Tensor<B>>),
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
    keys: &mut KvState<B>,
) -> Result<()> {
    let (head_dim, n_tokens) = (index.spec.head_dim, call.n_tokens);
    let out = (Output::Write, &mut a.rows.qkv);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    apply::<B>(call.queue, from_ref(&index.k), x, out, n_tokens)?;
    let norm = norm_op(&index.k_norm);
    norm_first(call, &norm, (head_dim, head_dim), &mut a.rows.qkv)?;
    turn((spec, index), call, 1, a)?;
    let columns = KvColumns {
        first: 0,
        row_width: head_dim,
    };
    let batch = call.sequences.own.batch(keys.group);
    Ok(call
        .queue
        .append(&a.rows.qkv, &columns, &batch, &mut keys.pool)?)
}

/// Selects each row's positions. The latent of queries is in `grouped`, which has weights of heads then; `qkv` has queries.
pub(super) fn select<B: Backend>(
    weights: &LatentOf<Tensor<B>>,
    index: &IndexOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
    keys: &KvState<B>,
) -> Result<()> {
    let (heads, n_tokens) = (index.spec, call.n_tokens);
    let out = (Output::Write, &mut a.rows.qkv);
    apply::<B>(
        call.queue,
        from_ref(&index.q),
        &a.rows.grouped,
        out,
        n_tokens,
    )?;
    turn((&weights.spec, index), call, heads.n_heads, a)?;
    let out = (Output::Write, &mut a.rows.grouped);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    apply::<B>(call.queue, from_ref(&index.weigh), x, out, n_tokens)?;
    let spec = weights.spec.index.expect("a layer that selects");
    let heads = (heads.n_heads, heads.head_dim);
    let inputs = (&a.rows.qkv, &a.rows.grouped);
    choose(
        call,
        heads,
        (spec.n_selected, 1),
        inputs,
        keys,
        &mut a.selected,
    )
}

/// Selects up to a number of keys for each row, by queries and weights of heads; each key stands for so many positions.
pub(super) fn choose<B: Backend>(
    call: &mut Call<'_, B>,
    (n_heads, head_dim): (usize, usize),
    (n_selected, rate): (usize, usize),
    inputs: (&B::Buffer, &B::Buffer),
    keys: &KvState<B>,
    selected: &mut Option<Selecting<B>>,
) -> Result<()> {
    // One over the root of a count, which scores are scaled by.
    let root = |n: usize| (n as f64).sqrt().recip() as f32;
    let selected = selected.as_mut().expect("room for what is selected");
    let op = Selection {
        n_heads,
        head_dim,
        scale: root(head_dim),
        weight_scale: root(n_heads),
        rate,
        n_selected,
        row_words: selected.row_words,
    };
    let batch = call.sequences.own.batch(keys.group);
    Ok(call
        .queue
        .select(&op, inputs, &batch, &keys.pool, &mut selected.bits)?)
}

/// Turns the first elements of each head of rows of `qkv`.
fn turn<B: Backend>(
    (spec, index): (&LatentSpec, &IndexOf<Tensor<B>>),
    call: &mut Call<'_, B>,
    n_heads: usize,
    a: &mut Activations<B>,
) -> Result<()> {
    let head_dim = index.spec.head_dim;
    let op = |rotary: &RotarySpec| Rotary {
        n_heads,
        head_dim,
        first: 0,
        rotary_dim: rotary.dim,
        pairing: index.spec.pairing,
        row_width: n_heads * head_dim,
    };
    let x = (&a.rows.angles[..], &mut a.rows.qkv);
    turn_shared(call, spec.rotary_idx, op, x)
}
