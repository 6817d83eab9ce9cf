//! Weights in the formats of published files: products and tables, of every format that there are kernels for.

use std::num::NonZeroU64;

use llm_backend::{LinearPart, Ops, Output};
use llm_cuda::computes_with;
use llm_quant::{Fp8, GgmlType, GroupCode, Grouped, Scheme};
use llm_tensor::DType;

use crate::bench::{Bench, Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["packed_rows", "packed_tile", "packed_split", "packed_embed"];

/// Whole blocks of every format.
const COLS: usize = 512;

/// Formats that there are kernels for.
pub(crate) fn schemes() -> Vec<Scheme> {
    let fp8 = [DType::F8E4M3, DType::F8E5M2].map(|dtype| {
        Scheme::Fp8(Fp8 {
            dtype,
            scale: DType::F32,
            block: [128, 128],
        })
    });
    let grouped = [GroupCode::Int4, GroupCode::E2M1, GroupCode::Int8].map(|code| {
        Scheme::Grouped(Grouped {
            code,
            scale: DType::F16,
            group: NonZeroU64::new(128),
            zeros: false,
            global: None,
            order: false,
        })
    });
    let ggml = GgmlType::ALL.map(Scheme::Ggml).into_iter();
    let ggml = ggml.filter(|&scheme| computes_with(scheme, COLS));
    ggml.chain(fp8).chain(grouped).collect()
}

/// Rows of activations times a weight.
fn product(bench: &mut Bench, scheme: Scheme, (rows, cols): (usize, usize), n: usize) {
    let (weight, n_bytes) = bench.weight(scheme, (rows, cols));
    let x = bench.buffer(n * cols);
    let mut out = bench.buffer(n * rows);
    let what = format!("{scheme}, {rows} × {cols}, {n} rows");
    // Blocks share columns of tiles in two pieces, which are written and read.
    let n_pieces = if n > 8 { 2 } else { 0 };
    let n_bytes = n_bytes + 4 * n * (cols + rows) + 2 * 4 * n_pieces * n * rows;
    // Several rows are written as halves for tensor cores, with sums of 16 or 32 columns, and read again.
    let sums = 4 * n.next_multiple_of(8) * cols / 16;
    let n_bytes = n_bytes + if n > 1 { 2 * (4 * n * cols + sums) } else { 0 };
    let part = LinearPart {
        weight: &weight,
        bias: None,
    };
    bench.check(&Needs::bytes(&what, n_bytes), |queue| {
        queue.linear(&[part], &x, Output::Write, &mut out, n)
    });
}

#[test]
fn packed_weights_are_read_once() {
    on_each_target(&["packed_rows", "packed_tile", "packed_split"], |bench| {
        for scheme in schemes() {
            for n in [1, 8] {
                product(bench, scheme, (64, COLS), n);
            }
            product(bench, scheme, (64, 256), 12);
        }
    });
}

#[test]
fn rows_of_packed_tables_are_read_alone() {
    on_each_target(&["packed_embed"], |bench| {
        for scheme in schemes() {
            // As long as those of models: a row begins and ends within sectors.
            let cols = 8 * COLS;
            let (table, n_bytes) = bench.weight(scheme, (32, cols));
            let ids = bench.index(&[3, 31]);
            let mut out = bench.buffer(2 * cols);
            let needs = n_bytes / 16 + 4 * 2 * cols;
            let what = format!("rows in {scheme}");
            bench.check(&Needs::bytes(&what, needs), |queue| {
                queue.embed(&table, &ids, 2, 1.0, &mut out)
            });
        }
    });
}
