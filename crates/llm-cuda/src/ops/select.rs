//! Selection of the positions that rows attend to: `kernels/select.cu`.

use llm_backend::{Batch, Result, Rows, Selection};
use llm_tensor::WorkspaceShape;

use super::general::element;
use crate::memory::bytes_of;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue, KvPool, workspace};

/// Bits `[_, row_words]` of the positions that rows of `q` and `weights` select.
pub(super) fn select(
    queue: &CudaQueue,
    op: &Selection,
    (q, weights): (&Buffer, &Buffer),
    batch: &Batch<'_, Cuda>,
    pool: &KvPool,
    bits: &mut Buffer,
) -> Result<()> {
    assert_eq!(
        (pool.shape.n_kv_heads, pool.shape.head_dim, pool.n_planes()),
        (1, op.head_dim, 1),
        "a key of each position"
    );
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let stride = pool.shape.capacity;
    let n_slots = (queue.workspace.n_bytes() / bytes_of(stride)).min(SLOTS);
    assert!(n_slots > 0, "scratch memory for the scores of a row");
    for (i, sequences) in batch.rows.chunks(n_slots).enumerate() {
        let (first, n) = (i * n_slots, sequences.len());
        let [rows, tables] = [
            (batch.rows_index, Rows::N_WORDS),
            (batch.tables, batch.table_len),
        ]
        .map(|(index, words)| {
            let part = bytes_of(first * words)..bytes_of((first + n) * words);
            index.first((first + n) * words).part(part)
        });
        let most = sequences.iter().map(|rows| rows.n_tokens).max();
        let at_once = n_slots / n;
        let n_positions = sequences.iter().map(|rows| rows.start + rows.n_tokens);
        let n_keys = n_positions.max().unwrap_or(0) / op.rate;
        for skip in (0..most.unwrap_or(0)).step_by(at_once) {
            let n_here = at_once.min(most.unwrap_or(0) - skip);
            let [scores] = queue.workspace.areas([bytes_of(n * n_here * stride)]);
            if n_keys > op.n_selected {
                let launch = queue.launch(kernel!("select_scores"));
                let launch = launch.pointer(q.first(n_rows * op.q_width()));
                let launch = launch.pointer(weights.first(n_rows * op.n_heads));
                let launch = launch.pointer(rows).pointer(tables).int(batch.table_len);
                let launch = launch.pointer(pool.span());
                let launch = launch.bits(element(pool.shape.dtype));
                let launch = launch.int(op.n_heads).int(op.head_dim);
                let launch = launch.float(op.scale).float(op.weight_scale);
                let launch = launch.int(op.rate).int(op.n_selected).int(skip);
                let launch = launch.pointer(scores).int(stride);
                let grid = [n_keys.div_ceil(POSITIONS), n_here, n];
                launch.grid(grid).threads(256).run()?;
            }
            let launch = queue.launch(kernel!("select_bits")).pointer(rows);
            let launch = launch.int(op.rate).int(op.n_selected).int(skip);
            let launch = launch.pointer(scores).int(stride);
            let launch = launch.pointer(bits.first(n_rows * op.row_words));
            let launch = launch.int(op.row_words);
            launch.grid([n_here, n, 1]).threads(1024).run()?;
        }
    }
    Ok(())
}

/// Bytes of the scores of rows within `shape`.
pub(super) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    match shape.n_selecting {
        0 => 0,
        _ => workspace::bytes([bytes_of(shape.n_tokens.min(SLOTS) * shape.context)]),
    }
}

/// Rows whose scores are in memory at a time, at most.
const SLOTS: usize = 64;
/// Positions that a block scores.
const POSITIONS: usize = 128;
