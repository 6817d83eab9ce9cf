//! Compression of runs of positions to entries: `kernels/compress.cu`.

use llm_backend::{Batch, Compression, Result, Rows};
use llm_tensor::KvValues;

use super::general::{element, vector};
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue, Index, KvPool};

/// Entries of the sequences of `batch`, whose features and gates are in `pool`, into rows of `out`.
pub(super) fn compress(
    queue: &CudaQueue,
    op: &Compression<'_, Cuda>,
    batch: &Batch<'_, Cuda>,
    pool: &KvPool,
    (entries, entries_index): (&[Rows], &Index),
    out: &mut Buffer,
) -> Result<()> {
    assert_eq!(
        (
            pool.shape.n_kv_heads,
            pool.shape.head_dim,
            pool.shape.values
        ),
        (1, op.features(), KvValues::Own),
        "features as the pool has them"
    );
    assert_eq!(
        (op.bias.rows(), op.bias.cols()),
        (op.rate, op.features()),
        "a bias for each place of a run"
    );
    let n = batch.rows.len();
    assert_eq!(entries.len(), n, "entries of each sequence");
    let ends = entries.iter().map(|rows| rows.first + rows.n_tokens);
    let most = entries.iter().map(|rows| rows.n_tokens).max();
    let words = [op.rate, op.width, usize::from(op.overlaps)]
        .map(|n| i32::try_from(n).expect("sizes of entries fit 31 bits"));
    let launch = queue.launch(kernel!("compress")).structure(&words);
    let launch = vector(launch, Some(op.bias));
    let launch = launch.pointer(entries_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.tables.first(n * batch.table_len));
    let launch = launch.int(batch.table_len).pointer(pool.span());
    let launch = launch.bits(element(pool.shape.dtype));
    let launch = launch.pointer(out.first(ends.max().unwrap_or(0) * op.width));
    let grid = [most.unwrap_or(0), op.width.div_ceil(32), n];
    launch.grid(grid).threads(256).run()
}
