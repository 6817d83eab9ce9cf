//! Operations without a family of their own yet.

use llm_backend::{
    Attention, Batch, Expert, ExpertBuffers, HeadGroups, Heads, KvColumns, Mask, NormOp, Output,
    Result, Rotary, Routing, Rows,
};
use llm_tensor::{Activation, Norm, Pairing, Weighting};

use super::general::{self, element, stored};
use crate::launch::Launch;
use crate::routes::{List, Routes};
use crate::{Buffer, Cuda, CudaQueue, CudaWeight, Index, KvPool};

/// `width` columns of `n` rows.
fn over(launch: Launch<'_>, width: usize, n: usize) -> Result<()> {
    launch.grid([width.div_ceil(256), n, 1]).threads(256).run()
}

pub(super) fn embed(
    queue: &CudaQueue,
    table: &CudaWeight,
    (ids, n): (&Index, usize),
    scale: f32,
    (output, out): (Output, &mut Buffer),
) -> Result<()> {
    let launch = queue.launch("plain_embed").structure(&stored(table));
    let launch = launch.pointer(ids.first(n)).float(scale);
    let launch = launch.int(usize::from(output == Output::Add));
    over(launch.pointer(out.first(n * table.cols())), table.cols(), n)
}

pub(super) fn gather(
    queue: &CudaQueue,
    x: &Buffer,
    (rows, n): (&Index, usize),
    width: usize,
    out: &mut Buffer,
) -> Result<()> {
    let launch = queue.launch("plain_gather").pointer(x.first(0));
    let launch = launch.pointer(rows.first(n)).pointer_or_null(None).int(n);
    over(launch.int(width).pointer(out.first(n * width)), width, n)
}

pub(super) fn norm(
    queue: &CudaQueue,
    op: &NormOp<'_, Cuda>,
    x: &Buffer,
    out: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let width = op.gain.cols();
    let launch = queue
        .launch("plain_norm")
        .pointer(x.first(n_tokens * width));
    let launch = launch.pointer(out.first(n_tokens * width));
    normalise(launch, op, (width, 0), [n_tokens, 1, 1])
}

pub(super) fn norm_heads(
    queue: &CudaQueue,
    op: &NormOp<'_, Cuda>,
    heads: &Heads,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let x = x.first(n_tokens * heads.row_width);
    let launch = queue.launch("plain_norm").pointer(x).pointer(x);
    normalise(
        launch,
        op,
        (heads.row_width, heads.first),
        [n_tokens, heads.n_heads, 1],
    )
}

fn normalise(
    launch: Launch<'_>,
    op: &NormOp<'_, Cuda>,
    (row_width, first): (usize, usize),
    grid: [usize; 3],
) -> Result<()> {
    let launch = launch.structure(&stored(op.gain));
    let launch = launch.structure(&op.bias.map_or([0; 9], stored));
    let launch = launch.int(row_width).int(first).float(op.eps);
    let launch = launch.float(op.gain_offset).int(match op.norm {
        Norm::Layer => 1,
        Norm::Rms => 0,
    });
    launch.grid(grid).threads(256).run()
}

pub(super) fn rotate(
    queue: &CudaQueue,
    op: &Rotary,
    angles: &Buffer,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let launch = queue.launch("plain_rotate");
    let launch = launch.pointer(x.first(n_tokens * op.row_width));
    let launch = launch.pointer(angles.first(n_tokens * op.rotary_dim));
    let launch = launch.int(op.head_dim).int(op.rotary_dim).int(op.row_width);
    let launch = launch.int(match op.pairing {
        Pairing::Adjacent => 1,
        Pairing::Halves => 0,
    });
    launch.grid([n_tokens, op.n_heads, 1]).threads(256).run()
}

pub(super) fn ungroup(
    queue: &CudaQueue,
    groups: &HeadGroups,
    grouped: &Buffer,
    out: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let width = groups.n_groups * (groups.n_queries + 2) * groups.head_dim;
    let launch = queue.launch("plain_ungroup");
    let launch = launch.pointer(grouped.first(n_tokens * width));
    let launch = launch.pointer(out.first(n_tokens * width));
    let launch = launch.int(groups.n_groups).int(groups.n_queries);
    over(launch.int(groups.head_dim), width, n_tokens)
}

/// Rows of the longest sequence.
fn most_rows(rows: &[Rows]) -> usize {
    rows.iter().map(|rows| rows.n_tokens).max().unwrap_or(0)
}

pub(super) fn append(
    queue: &CudaQueue,
    kv: &Buffer,
    columns: &KvColumns,
    batch: &Batch<'_, Cuda>,
    pool: &mut KvPool,
) -> Result<()> {
    let n = batch.rows.len();
    let launch = queue.launch("plain_append").pointer(kv.first(0));
    let launch = launch.int(columns.first).int(columns.row_width);
    let launch = launch.pointer(batch.rows_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.tables.first(n * batch.table_len));
    let launch = launch.int(batch.table_len).pointer(pool.span());
    let launch = launch.bits(element(pool.shape.dtype));
    let launch = launch.int(pool.shape.n_kv_heads).int(pool.shape.head_dim);
    launch
        .grid([most_rows(batch.rows), n, 1])
        .threads(256)
        .run()
}

pub(super) fn copy_blocks(
    queue: &CudaQueue,
    pool: &mut KvPool,
    blocks: &[(u32, u32)],
) -> Result<()> {
    let n = pool.block_bytes();
    let memory = pool.memory.raw();
    for &(from, to) in blocks.iter().filter(|(from, to)| from != to) {
        let (from, to) = (from as usize * n, to as usize * n);
        queue.told(queue.stream.copy((memory, from), (memory, to), n))?;
    }
    Ok(())
}

pub(super) fn attention(
    queue: &CudaQueue,
    op: &Attention<'_, Cuda>,
    q: &Buffer,
    batch: &Batch<'_, Cuda>,
    (pool, out): (&KvPool, &mut Buffer),
) -> Result<()> {
    assert_eq!(
        (pool.shape.n_kv_heads, pool.shape.head_dim),
        (op.n_kv_heads, op.head_dim),
        "heads of the pool"
    );
    let n = batch.rows.len();
    let (window, full) = match op.mask {
        Mask::Causal { window } => (window.unwrap_or(0), 0),
        Mask::Full => (0, 1),
    };
    let launch = queue.launch("plain_attention").pointer(q.first(0));
    let launch = launch.pointer(batch.rows_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.tables.first(n * batch.table_len));
    let launch = launch.int(batch.table_len).pointer(pool.span());
    let launch = launch.bits(element(pool.shape.dtype)).int(op.n_heads);
    let launch = launch.int(op.n_kv_heads).int(op.head_dim).int(op.row_width);
    let launch = launch.float(op.scale).float(op.soft_cap.unwrap_or(0.0));
    let launch = launch.int(window.min(i32::MAX as usize)).int(full);
    let bias = op.bias.map(|bias| bias.table.first(op.n_heads * bias.row));
    let launch = launch.pointer_or_null(bias);
    let launch = launch.int(op.bias.map_or(0, |bias| bias.row));
    let launch = launch.int(op.bias.map_or(0, |bias| bias.zero));
    let launch = launch.pointer(out.first(0));
    let grid = [most_rows(batch.rows), n, op.n_heads];
    launch.grid(grid).threads(256).run()
}

pub(super) fn add(queue: &CudaQueue, y: &Buffer, x: &mut Buffer, n: usize) -> Result<()> {
    let launch = queue.launch("plain_add").pointer(y.first(n));
    over(launch.pointer(x.first(n)).long(n), n, 1)
}

/// A function's number.
fn function(activation: Activation) -> usize {
    match activation {
        Activation::Relu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
    }
}

pub(super) fn activate(
    queue: &CudaQueue,
    activation: Activation,
    x: &mut Buffer,
    n: usize,
) -> Result<()> {
    let launch = queue.launch("plain_activate").int(function(activation));
    over(launch.pointer(x.first(n)).long(n), n, 1)
}

pub(super) fn gate(
    queue: &CudaQueue,
    activation: Activation,
    gate_up: &Buffer,
    out: &mut Buffer,
    (width, n): (usize, usize),
) -> Result<()> {
    let launch = queue.launch("plain_gate").int(function(activation));
    let launch = launch.pointer(gate_up.first(2 * width * n));
    over(launch.pointer(out.first(width * n)).int(width), width, n)
}

pub(super) fn route(
    queue: &CudaQueue,
    op: &Routing,
    scores: &Buffer,
    routes: &mut Routes,
    n_tokens: usize,
) -> Result<()> {
    let layout = routes.layout();
    assert!(
        (op.n_experts, op.n_active) == (layout.n_experts, layout.n_active)
            && n_tokens <= layout.n_tokens,
        "{op:?} of {n_tokens} rows in room for {layout:?}"
    );
    routes.n_tokens = n_tokens;
    let launch = queue.launch("plain_choose");
    let launch = launch.pointer(scores.first(n_tokens * op.n_experts));
    let launch = launch.int(op.n_experts).int(op.n_active);
    let launch = launch.int(match op.weighting {
        Weighting::Probability => 0,
        Weighting::Normalised => 1,
    });
    let (chosen, weights) = (routes.span(List::Chosen), routes.span(List::Weights));
    let launch = launch.pointer(chosen).pointer(weights);
    launch.grid([n_tokens, 1, 1]).run()?;
    let launch = queue.launch("plain_lists").pointer(chosen).pointer(weights);
    let launch = launch.int(n_tokens).int(op.n_active).int(op.n_experts);
    let launch = launch.pointer(routes.span(List::Starts));
    let launch = launch.pointer(routes.span(List::Rows));
    launch.pointer(routes.span(List::RowWeights)).run()
}

pub(super) fn chosen(queue: &mut CudaQueue, routes: &Routes, n_rows: &mut [usize]) -> Result<()> {
    let mut starts = vec![0u32; n_rows.len() + 1];
    let at = routes.starts().start;
    queue.read(&routes.memory, at, bytemuck::cast_slice_mut(&mut starts))?;
    for (n, bounds) in n_rows.iter_mut().zip(starts.windows(2)) {
        *n = (bounds[1] - bounds[0]) as usize;
    }
    Ok(())
}

pub(super) fn expert(
    queue: &CudaQueue,
    expert: &Expert<'_, Cuda>,
    x: &Buffer,
    routes: &Routes,
    (scratch, out): (ExpertBuffers<'_, Cuda>, &mut Buffer),
) -> Result<()> {
    let ExpertBuffers {
        gathered,
        up,
        gated,
        delta,
    } = scratch;
    let (number, width) = (expert.expert, expert.width);
    let rows = (routes.n_tokens, Some(routes.bounds(number)));
    gather_routed(queue, (routes, number), x, expert.hidden, gathered)?;
    general::linear(queue, expert.gate_up, gathered, (Output::Write, up), rows)?;
    gate(
        queue,
        expert.activation,
        up,
        gated,
        (width, routes.n_tokens),
    )?;
    general::linear(queue, &[expert.down], gated, (Output::Write, delta), rows)?;
    scatter_routed(queue, (routes, number), delta, expert.hidden, out)
}

pub(super) fn gather_routed(
    queue: &CudaQueue,
    (routes, expert): (&Routes, usize),
    x: &Buffer,
    width: usize,
    out: &mut Buffer,
) -> Result<()> {
    let n = routes.n_tokens;
    let launch = queue.launch("plain_gather").pointer(x.first(n * width));
    let launch = launch.pointer(routes.span(List::Rows));
    let launch = launch.pointer(routes.bounds(expert)).int(n).int(width);
    over(launch.pointer(out.first(n * width)), width, n)
}

pub(super) fn scatter_routed(
    queue: &CudaQueue,
    (routes, expert): (&Routes, usize),
    y: &Buffer,
    width: usize,
    x: &mut Buffer,
) -> Result<()> {
    let n = routes.n_tokens;
    let launch = queue.launch("plain_scatter").pointer(y.first(n * width));
    let launch = launch.pointer(routes.span(List::Rows));
    let launch = launch.pointer(routes.span(List::RowWeights));
    let launch = launch.pointer(routes.bounds(expert)).int(width);
    over(launch.pointer(x.first(n * width)), width, n)
}
