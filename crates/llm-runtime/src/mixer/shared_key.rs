//! Attention of all heads to one key, which is their value too, and to what runs of earlier positions are compressed to.

use std::slice::from_ref;

use llm_arch::{
    CompressedOf, EntriesOf, EntryIndexOf, EntryKind, LinearOf, Positions, RotarySpec, SharedKeyOf,
    SharedKeySpec,
};
use llm_backend::{
    Attention, Backend, Beside, Compression, HeadProducts, Heads, KvColumns, Mask, MatrixSide,
    NormOp, Ops, Output, Rotary,
};

use super::index::choose;
use super::norm_first;
use crate::Result;
use crate::activations::{Activations, Selecting};
use crate::projection::{apply, apply_back, norm_op};
use crate::state::{EntryState, KvState};
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row sees the keys of its sequence's last positions, and entries of those before.
///
/// `attended` has what goes to pools on its way and weights of heads that select, then results; `qkv` has queries; `grouped` has the
/// latent of queries, then what groups of heads make.
pub(super) fn forward<B: Backend>(
    weights: &SharedKeyOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    (kv, entries): (&mut KvState<B>, &mut [Option<EntryState<B>>; 2]),
) -> Result<()> {
    let (spec, n_tokens) = (&weights.spec, call.n_tokens);
    let width = spec.head_dim;
    project(from_ref(&weights.k.project), call, input, a)?;
    norm_first(
        call,
        &norm_op(&weights.k.norm),
        (width, width),
        &mut a.rows.attended,
    )?;
    let kind = spec.rotary_idx;
    turn::<B>(
        spec,
        call,
        (1, width),
        kind,
        &a.rows.angles,
        &mut a.rows.attended,
    )?;
    let columns = KvColumns {
        first: 0,
        row_width: width,
    };
    let batch = call.sequences.own.batch(kv.group);
    let own = (&batch, &mut kv.pool);
    call.queue
        .append(&a.rows.attended, &columns, own.0, own.1)?;
    let [seen, compared] = entries;
    if let (Some(of), Some(state)) = (&weights.entries, seen.as_mut()) {
        compress(weights, (of, &of.keys, width), call, input, a, state)?;
    }
    if let (Some(of), Some(state)) = (&weights.entries, compared.as_mut())
        && let Some(index) = &of.index
    {
        let width = index.spec.head_dim;
        compress(weights, (of, &index.keys, width), call, input, a, state)?;
    }
    query_latents(weights, call, input, a)?;
    let index = weights.entries.as_ref().and_then(|of| of.index.as_ref());
    let index = index.zip(compared.as_ref());
    let selects = index.is_some_and(|(index, keys)| leaves_some_out(index, call, keys));
    if let Some((index, keys)) = index.filter(|_| selects) {
        select(weights, index, call, input, a, keys)?;
    }
    let out = (Output::Write, &mut a.rows.qkv);
    apply::<B>(
        call.queue,
        from_ref(&weights.q),
        &a.rows.grouped,
        out,
        n_tokens,
    )?;
    let heads = Heads {
        first: 0,
        n_heads: spec.n_heads,
        head_dim: width,
        row_width: spec.q_width(),
    };
    call.queue
        .unit_heads(spec.norm.eps, &heads, &mut a.rows.qkv, n_tokens)?;
    let of_heads = (spec.n_heads, width);
    turn::<B>(spec, call, of_heads, kind, &a.rows.angles, &mut a.rows.qkv)?;
    let op = Attention {
        n_heads: spec.n_heads,
        n_kv_heads: 1,
        head_dim: width,
        row_width: spec.q_width(),
        scale: spec.scale,
        soft_cap: None,
        mask: Mask::Causal {
            window: Some(spec.window),
        },
        bias: None,
        sinks: Some(&*weights.sinks),
        selected: None,
        beside: seen.as_ref().map(|seen| {
            let batch = call.sequences.own.batch(seen.entries.group);
            Beside {
                pool: &seen.entries.pool,
                tables: batch.tables,
                table_len: batch.table_len,
                rate: seen.rate,
                selected: a.selected.as_ref().filter(|_| selects).map(Selecting::of),
            }
        }),
    };
    let batch = call.sequences.own.batch(kv.group);
    call.queue
        .attention(&op, &a.rows.qkv, &batch, &kv.pool, &mut a.rows.attended)?;
    turn::<B>(
        spec,
        call,
        of_heads,
        spec.back_idx,
        &a.rows.angles,
        &mut a.rows.attended,
    )?;
    let by_group = HeadProducts {
        weight: &*weights.groups.weight,
        n_heads: spec.n_groups,
        stride: spec.group_rank,
        first: 0,
        n_rows: spec.group_rank,
        cols: spec.group_width(),
        side: MatrixSide::Rows,
        carried: 0,
    };
    let rows = &mut a.rows;
    call.queue
        .head_products(&by_group, &rows.attended, &mut rows.grouped, n_tokens)?;
    let to = (output, &mut rows.x, &mut rows.delta);
    let by = (&weights.out, 1.0);
    apply_back::<B>(call.queue, by, &rows.grouped, to, (a.hidden, n_tokens))
}

/// Products of the input with some matrices, side by side, into `a.rows.attended`.
fn project<B: Backend>(
    parts: &[LinearOf<Tensor<B>>],
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let out = (Output::Write, &mut a.rows.attended);
    apply::<B>(call.queue, parts, x, out, call.n_tokens)
}

/// The latents of queries into `a.rows.grouped`.
fn query_latents<B: Backend>(
    weights: &SharedKeyOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
) -> Result<()> {
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let (rank, n_tokens) = (weights.spec.q_rank, call.n_tokens);
    let out = (Output::Write, &mut a.rows.grouped);
    apply::<B>(
        call.queue,
        from_ref(&weights.q_latent.project),
        x,
        out,
        n_tokens,
    )?;
    let norm = norm_op(&weights.q_latent.norm);
    norm_first(call, &norm, (rank, rank), &mut a.rows.grouped)
}

/// Takes each row's features and gates to their pool, and the entries that end in the pass, normalised and turned, to theirs.
fn compress<B: Backend>(
    weights: &SharedKeyOf<Tensor<B>>,
    (of, made, width): (&EntriesOf<Tensor<B>>, &CompressedOf<Tensor<B>>, usize),
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
    state: &mut EntryState<B>,
) -> Result<()> {
    let spec = &weights.spec;
    project(made.project.parts(), call, input, a)?;
    let columns = KvColumns {
        first: 0,
        row_width: 2 * of.spec.features(width),
    };
    let blocks = &call.sequences.own;
    let features = blocks.batch(state.features.group);
    let pool = &mut state.features.pool;
    call.queue
        .append(&a.rows.attended, &columns, &features, pool)?;
    let (rows, index) = blocks.entry_rows(of.spec.rate);
    let n_entries: usize = rows.iter().map(|rows| rows.n_tokens).sum();
    if n_entries == 0 {
        return Ok(());
    }
    let op = Compression {
        rate: of.spec.rate,
        width,
        overlaps: of.spec.overlaps,
        bias: &*made.places,
    };
    let pool = &state.features.pool;
    call.queue
        .compress(&op, &features, pool, (rows, index), &mut a.rows.attended)?;
    let norm: NormOp<'_, B> = norm_op(&made.norm);
    let one = Heads {
        first: 0,
        n_heads: 1,
        head_dim: width,
        row_width: width,
    };
    call.queue
        .norm_heads(&norm, &one, &mut a.rows.attended, n_entries)?;
    let kinds = call.stack.entry_kinds();
    let kind = EntryKind {
        rate: of.spec.rate,
        rotary_idx: spec.rotary_idx,
    };
    let at = kinds.iter().position(|of| *of == kind);
    let at = at.expect("a kind of the stack's entries") + call.stack.positions.rotary().len();
    let rotary = rotary_of::<B>(call, spec.rotary_idx);
    let op = turning(spec, rotary, (1, width));
    call.queue
        .rotate(&op, &a.rows.angles[at], &mut a.rows.attended, n_entries)?;
    let columns = KvColumns {
        first: 0,
        row_width: width,
    };
    let entries = call.sequences.own.entry_batch(state.entries.group);
    let pool = &mut state.entries.pool;
    Ok(call
        .queue
        .append(&a.rows.attended, &columns, &entries, pool)?)
}

/// True if some row of a pass sees more entries than are selected.
fn leaves_some_out<B: Backend>(
    index: &EntryIndexOf<Tensor<B>>,
    call: &Call<'_, B>,
    keys: &EntryState<B>,
) -> bool {
    let mut rows = call.sequences.own.rows().0.iter();
    rows.any(|rows| (rows.start + rows.n_tokens) / keys.rate > index.spec.n_selected)
}

/// Selects each row's entries. The latent of queries is in `grouped`; `qkv` has queries, and `attended` weights of heads.
fn select<B: Backend>(
    weights: &SharedKeyOf<Tensor<B>>,
    index: &EntryIndexOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    input: Input,
    a: &mut Activations<B>,
    keys: &EntryState<B>,
) -> Result<()> {
    let (heads, n_tokens) = (index.spec, call.n_tokens);
    let spec = &weights.spec;
    let out = (Output::Write, &mut a.rows.qkv);
    apply::<B>(
        call.queue,
        from_ref(&index.q),
        &a.rows.grouped,
        out,
        n_tokens,
    )?;
    let kind = spec.rotary_idx;
    let of_heads = (heads.n_heads, heads.head_dim);
    turn::<B>(spec, call, of_heads, kind, &a.rows.angles, &mut a.rows.qkv)?;
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let out = (Output::Write, &mut a.rows.attended);
    apply::<B>(call.queue, from_ref(&index.weigh), x, out, n_tokens)?;
    let of_keys = (heads.n_selected, keys.rate);
    let inputs = (&a.rows.qkv, &a.rows.attended);
    choose(
        call,
        of_heads,
        of_keys,
        inputs,
        &keys.entries,
        &mut a.selected,
    )
}

/// Turns the last elements of each head of rows of `x`, as the stack's rotary positions of index `kind` say.
fn turn<B: Backend>(
    spec: &SharedKeySpec,
    call: &mut Call<'_, B>,
    heads: (usize, usize),
    kind: usize,
    angles: &[B::Buffer],
    x: &mut B::Buffer,
) -> Result<()> {
    let op = turning(spec, rotary_of::<B>(call, kind), heads);
    let n_tokens = call.n_tokens;
    Ok(call.queue.rotate(&op, &angles[kind], x, n_tokens)?)
}

fn rotary_of<'a, B: Backend>(call: &Call<'a, B>, kind: usize) -> &'a RotarySpec {
    let Positions::Rotary(kinds) = &call.stack.positions else {
        unreachable!("keys that heads share are turned")
    };
    &kinds[kind]
}

fn turning(
    spec: &SharedKeySpec,
    rotary: &RotarySpec,
    (n_heads, head_dim): (usize, usize),
) -> Rotary {
    Rotary {
        n_heads,
        head_dim,
        first: head_dim - spec.rope_dim,
        rotary_dim: rotary.dim,
        pairing: rotary.pairing,
        row_width: n_heads * head_dim,
    }
}
