//! Attention over the block tables: one row a sequence, several, and prompts.

use llm_backend::{Attention, Backend, Batch, Beside, KvColumns, Mask, Ops, Queue, Rows};
use llm_tensor::{DType, KvShape, KvValues};

use crate::bench::{Bench, Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["attention_rows", "attention_merge", "attention_tile"];

/// Sequences that attend, alike.
pub(crate) struct Case {
    pub(crate) dtype: DType,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
    /// Positions of a run, where there are entries beside positions: the first keys once more.
    pub(crate) rate: Option<usize>,
    /// Rows of each sequence, and positions that it has in the end.
    pub(crate) n_tokens: usize,
    pub(crate) n_positions: usize,
    pub(crate) n_sequences: usize,
    /// What it may move beyond what it must, and how much of its sectors it must fill.
    pub(crate) bound: f64,
    pub(crate) filled: f64,
}

pub(crate) const CASE: Case = Case {
    dtype: DType::F16,
    n_heads: 8,
    n_kv_heads: 2,
    head_dim: 64,
    window: None,
    rate: None,
    n_tokens: 1,
    n_positions: 1500,
    n_sequences: 2,
    bound: 1.1,
    filled: 0.9,
};

impl Case {
    /// The same without a bound.
    pub(crate) fn run(self, bench: &mut Bench) {
        let case = Case {
            bound: f64::INFINITY,
            filled: 0.0,
            ..self
        };
        case.check(bench);
    }

    fn check(&self, bench: &mut Bench) {
        let Case {
            dtype,
            n_heads,
            n_kv_heads,
            head_dim,
            window,
            rate,
            n_tokens,
            n_positions,
            n_sequences,
            bound,
            filled,
        } = *self;
        let shape = KvShape {
            n_kv_heads,
            head_dim,
            values: KvValues::Own,
            capacity: 1536,
            n_sequences,
            dtype,
        };
        let mut pool = bench.cuda.kv_pool(&shape).expect("a pool");
        let table_len = shape.table_len(bench.cuda.kv_block_len(&shape));
        // Blocks in no order.
        let n_blocks = (n_sequences * table_len) as u32;
        let tables: Vec<u32> = (0..n_blocks).map(|i| (i * 7 + 3) % n_blocks).collect();
        let tables = bench.index(&tables);
        let width = (n_heads + 2 * n_kv_heads) * head_dim;
        for (n, end) in [(n_positions, n_positions), (n_tokens, n_positions)] {
            let rows: Vec<Rows> = (0..n_sequences)
                .map(|i| Rows {
                    first: i * n,
                    n_tokens: n,
                    start: end - n,
                    n_positions: end,
                })
                .collect();
            let words: Vec<u32> = rows.iter().flat_map(Rows::words).collect();
            let rows_index = bench.index(&words);
            let batch = Batch {
                rows: &rows,
                rows_index: &rows_index,
                tables: &tables,
                table_len,
            };
            let q = bench.buffer(n_sequences * n * width);
            if n == n_positions && n != n_tokens {
                let columns = KvColumns {
                    first: n_heads * head_dim,
                    row_width: width,
                };
                let queue = &mut bench.queue;
                queue
                    .append(&q, &columns, &batch, &mut pool)
                    .expect("keys and values");
                queue.finish().expect("keys and values");
                continue;
            }
            let op = Attention {
                n_heads,
                n_kv_heads,
                head_dim,
                row_width: width,
                scale: 0.125,
                soft_cap: None,
                mask: Mask::Causal { window },
                bias: None,
                sinks: None,
                selected: None,
                beside: rate.map(|rate| Beside {
                    pool: &pool,
                    tables: &tables,
                    table_len,
                    rate,
                    selected: None,
                }),
            };
            let mut out = bench.buffer(n_sequences * n * n_heads * head_dim);
            let n_seen = window.map_or(end, |window| end.min(window + n - 1));
            let what = format!(
                "{dtype}, {n_heads} heads of {head_dim} on {n_kv_heads}, window {window:?}, {n_sequences} × {n} rows at {end}"
            );
            let keys_and_values = 2 * n_seen * n_kv_heads * head_dim * dtype.size();
            let queries_and_results = 2 * n * n_heads * head_dim * 4;
            let n_bytes = n_sequences * (keys_and_values + queries_and_results);
            let needs = Needs::bytes(&what, n_bytes).at_most(bound).filling(filled);
            bench.check(&needs, |queue| {
                queue.attention(&op, &q, &batch, &pool, &mut out)
            });
        }
    }
}

#[test]
fn keys_and_values_are_read_once_for_all_heads_that_share_them() {
    on_each_target(&["attention_rows", "attention_merge"], |bench| {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // Eight heads that share one leave sums of each of its pieces, an eighth of what a piece of 128 positions has.
            for (n_heads, n_kv_heads, head_dim, bound) in
                [(8, 2, 64, 1.1), (2, 2, 64, 1.1), (8, 1, 128, 1.15)]
            {
                Case {
                    dtype,
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    bound,
                    ..CASE
                }
                .check(bench);
            }
        }
        Case {
            n_heads: 6,
            head_dim: 80,
            ..CASE
        }
        .check(bench);
        for window in [100, 600, 3000] {
            Case {
                window: Some(window),
                ..CASE
            }
            .check(bench);
        }
        for n_tokens in [2, 4] {
            Case { n_tokens, ..CASE }.check(bench);
        }
    });
}

#[test]
fn prompts_read_keys_and_values_once() {
    on_each_target(&["attention_tile"], |bench| {
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            for head_dim in [64, 128, 256] {
                Case {
                    dtype,
                    head_dim,
                    n_tokens: 64,
                    n_positions: 96,
                    n_sequences: 1,
                    ..CASE
                }
                .check(bench);
            }
        }
    });
}
