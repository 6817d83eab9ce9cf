//! Compression of positions: of each, what it has for an entry comes once.

use llm_backend::{Backend, Batch, Compression, Ops, Rows};
use llm_quant::Scheme;
use llm_tensor::{DType, KvShape, KvValues};

use crate::bench::{Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["compress"];

const CONTEXT: usize = 256;
const WIDTH: usize = 512;

#[test]
fn features_and_gates_are_read_once() {
    on_each_target(KERNELS, |bench| {
        for (rate, overlaps, dtype) in [
            (4, true, DType::BF16),
            (128, false, DType::F16),
            (128, false, DType::F32),
        ] {
            let features = if overlaps { 2 * WIDTH } else { WIDTH };
            let (bias, of_bias) = bench.weight(Scheme::Dense(DType::F32), (rate, features));
            let op = Compression {
                rate,
                width: WIDTH,
                overlaps,
                bias: &bias,
            };
            let shape = KvShape {
                n_kv_heads: 1,
                head_dim: features,
                values: KvValues::Own,
                capacity: CONTEXT,
                n_sequences: 1,
                dtype,
            };
            let pool = bench.cuda.kv_pool(&shape).expect("a pool");
            let table_len = shape.table_len(bench.cuda.kv_block_len(&shape));
            let tables: Vec<u32> = (0..table_len as u32).rev().collect();
            let tables = bench.index(&tables);
            let of = |n| Rows {
                first: 0,
                n_tokens: n,
                start: 0,
                n_positions: n,
            };
            let [rows, entries] = [CONTEXT, CONTEXT / rate].map(|n| [of(n)]);
            let [rows_index, entries_index] =
                [rows, entries].map(|rows| bench.index(&rows[0].words()));
            let batch = Batch {
                rows: &rows,
                rows_index: &rows_index,
                tables: &tables,
                table_len,
            };
            let mut out = bench.buffer(CONTEXT / rate * WIDTH);
            // The last run has no other after it.
            let of_series = WIDTH * dtype.size();
            let unread = if overlaps { rate * 2 * of_series } else { 0 };
            let n_bytes = CONTEXT * 2 * features * dtype.size() - unread;
            let n_bytes = n_bytes + of_bias + 4 * CONTEXT / rate * WIDTH;
            let what = format!("runs of {rate} as {dtype}");
            bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                queue.compress(&op, &batch, &pool, (&entries, &entries_index), &mut out)
            });
        }
    });
}
