//! Keys and values into blocks: `kernels/kv.cu`.

use llm_backend::{Batch, KvColumns, Result, Rows};

use super::general::element;
use crate::kv_pool::KvPool;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue};

/// Takes keys and values of all sequences' rows to their positions.
pub(super) fn append(
    queue: &CudaQueue,
    kv: &Buffer,
    columns: &KvColumns,
    batch: &Batch<'_, Cuda>,
    pool: &mut KvPool,
) -> Result<()> {
    let n = batch.rows.len();
    let width = pool.shape.width();
    assert!(
        columns.first + width <= columns.row_width && batch.table_len > 0,
        "{columns:?} of {width} elements, blocks of {}",
        batch.table_len
    );
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let kernels = kernel!["kv_append_f32", "kv_append_f16", "kv_append_bf16"];
    let launch = queue.launch(kernels[element(pool.shape.dtype) as usize]);
    let launch = launch.pointer(kv.first(n_rows * columns.row_width));
    let launch = launch.int(columns.row_width).int(columns.first);
    let launch = launch.pointer(batch.rows_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.tables.first(n * batch.table_len));
    let launch = launch.int(batch.table_len).pointer(pool.span());
    let launch = launch.int(pool.n_blocks()).int(pool.n_planes());
    let launch = launch.int(pool.shape.n_kv_heads).int(pool.shape.head_dim);
    let most = batch.rows.iter().map(|rows| rows.n_tokens).max();
    let grid = [most.unwrap_or(0), width.div_ceil(256), n];
    launch.grid(grid).threads(256).run()
}

/// Copies blocks, in order where one is the source or the end of two copies.
pub(super) fn copy_blocks(
    queue: &CudaQueue,
    pool: &mut KvPool,
    blocks: &[(u32, u32)],
) -> Result<()> {
    let n_blocks = pool.n_blocks();
    let fits = |block: u32| (block as usize) < n_blocks;
    assert!(
        blocks.iter().all(|&(from, to)| fits(from) && fits(to)),
        "copies {blocks:?} of {n_blocks} blocks"
    );
    let n_words = pool.block_bytes() / 16;
    for apart in launches(blocks) {
        let mut pairs = [0u32; 2 * PAIRS];
        for (i, &(from, to)) in apart.iter().enumerate() {
            (pairs[i], pairs[PAIRS + i]) = (from, to);
        }
        let launch = queue
            .launch(kernel!("kv_copy_blocks"))
            .pointer(pool.span().aligned(16));
        let launch = launch.int(n_words).structure(&pairs);
        let grid = [n_words.div_ceil(4 * 256), apart.len(), 1];
        launch.grid(grid).threads(256).run()?;
    }
    Ok(())
}

/// Copies of one launch.
const PAIRS: usize = 32;

/// The copies, in runs within which no block is written that another copy reads or writes.
fn launches(blocks: &[(u32, u32)]) -> impl Iterator<Item = &[(u32, u32)]> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        // A block copied to itself is where it belongs.
        while rest.first().is_some_and(|(from, to)| from == to) {
            rest = &rest[1..];
        }
        let is_apart = |i: &usize| {
            let (from, to) = rest[*i];
            let mut earlier = rest[..*i].iter();
            from != to && earlier.all(|&(f, t)| t != from && t != to && f != to)
        };
        let n = (0..rest.len().min(PAIRS)).take_while(is_apart).count();
        let (run, after) = rest.split_at(n);
        rest = after;
        (n > 0).then_some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_meet_go_one_after_the_other() {
        type Pairs<'a> = &'a [(u32, u32)];
        let many: Vec<(u32, u32)> = (0..70).map(|i| (i, 100 + i)).collect();
        let cases: [(Pairs<'_>, &[usize]); 7] = [
            (&[], &[]),
            (&[(3, 3)], &[]),
            (&[(0, 1), (0, 2), (3, 4)], &[3]),
            (&[(0, 1), (1, 2)], &[1, 1]),
            (&[(0, 1), (2, 1)], &[1, 1]),
            (&[(0, 1), (5, 5), (2, 0), (4, 3)], &[1, 2]),
            (&many, &[32, 32, 6]),
        ];
        for (blocks, expected) in cases {
            let found: Vec<usize> = launches(blocks).map(<[_]>::len).collect();
            assert_eq!(found, expected, "{blocks:?}");
            let all = launches(blocks).flatten().copied();
            let needed = blocks.iter().filter(|(from, to)| from != to);
            assert!(all.eq(needed.copied()), "{blocks:?}");
        }
    }
}
