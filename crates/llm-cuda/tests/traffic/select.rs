//! Selection of positions: a row's keys come once for 64 heads, and its scores once for each byte that they are told apart by.

use llm_backend::{Backend, Batch, KvColumns, Ops, Queue, Rows, Selection};
use llm_tensor::{DType, KvShape, KvValues};

use crate::bench::{Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["select_"];

/// Positions whose keys a block has, and before each row here.
const POSITIONS: usize = 128;
const CONTEXT: usize = 12 * POSITIONS;

#[test]
fn keys_are_read_once_for_all_heads() {
    on_each_target(KERNELS, |bench| {
        for (dtype, n_heads) in [(DType::F32, 32), (DType::F16, 64), (DType::BF16, 64)] {
            let op = Selection {
                n_heads,
                head_dim: 128,
                scale: 0.25,
                weight_scale: 0.5,
                rate: 1,
                n_selected: 200,
                row_words: Selection::words(CONTEXT),
            };
            let shape = KvShape {
                n_kv_heads: 1,
                head_dim: op.head_dim,
                values: KvValues::OfKeys(op.head_dim),
                capacity: CONTEXT,
                n_sequences: 1,
                dtype,
            };
            let mut pool = bench.cuda.kv_pool(&shape).expect("a pool");
            let table_len = shape.table_len(bench.cuda.kv_block_len(&shape));
            // Blocks in no order.
            let blocks: Vec<u32> = (0..table_len as u32)
                .map(|i| (i * 7 + 3) % table_len as u32)
                .collect();
            let tables = bench.index(&blocks);
            let keys = bench.buffer(CONTEXT * op.head_dim);
            let n_rows = 2;
            for n_tokens in [CONTEXT, n_rows] {
                let rows = [Rows {
                    first: 0,
                    n_tokens,
                    start: CONTEXT - n_tokens,
                    n_positions: CONTEXT,
                }];
                let rows_index = bench.index(&rows[0].words());
                let batch = Batch {
                    rows: &rows,
                    rows_index: &rows_index,
                    tables: &tables,
                    table_len,
                };
                if n_tokens == CONTEXT {
                    let columns = KvColumns {
                        first: 0,
                        row_width: op.head_dim,
                    };
                    let appended = bench.queue.append(&keys, &columns, &batch, &mut pool);
                    appended.expect("keys");
                    bench.queue.finish().expect("keys");
                    continue;
                }
                let q = bench.buffer(n_rows * op.q_width());
                let weights = bench.buffer(n_rows * n_heads);
                let mut bits = bench.buffer(n_rows * op.row_words);
                let queries = CONTEXT / POSITIONS * 4 * op.q_width();
                let of_keys = CONTEXT * op.head_dim * dtype.size();
                // Written once, read for each byte, and by what sets bits.
                let scores = 6 * 4 * CONTEXT;
                let n_bytes = n_rows * (queries + of_keys + scores);
                let what = format!("{n_heads} heads, keys as {dtype}");
                let needs = Needs::bytes(&what, n_bytes);
                bench.check(&needs, |queue| {
                    queue.select(&op, (&q, &weights), &batch, &pool, &mut bits)
                });
            }
        }
    });
}
