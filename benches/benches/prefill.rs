//! Prompts multiply every weight with many rows: matrix times matrix, and attention, against multiplying and adding
//! in registers only.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::sync::Arc;

use llm_backend::{Attention, Backend, Batch, KvColumns, Mask, Ops, Queue, Rows};
use llm_benches::{cpu, four_bit_weights, interleaved, products, weights};
use llm_cpu::Cpu;
use llm_quant::{BlockSize, Code, FourBit, Scheme};
use llm_tensor::{DType, KvShape, KvValues, WorkspaceShape};

fn main() {
    for cpu in [cpu(Some(1)), cpu(None)] {
        println!("{}", cpu.info().name);
        for (rows, cols) in [(1536, 576), (576, 1536), (5632, 2048), (2048, 5632)] {
            for dtype in [DType::BF16, DType::F16, DType::F32] {
                gemm(&cpu, Scheme::Dense(dtype), rows, cols, 512);
            }
            for double_quant in [false, true] {
                let format = FourBit {
                    code: Code::Nf4,
                    block_size: BlockSize::DEFAULT,
                    double_quant,
                };
                gemm(&cpu, Scheme::FourBit(format), rows, cols, 512);
            }
        }
        for n_tokens in [1, 4, 8, 11, 12, 16, 32, 64, 128] {
            gemm(&cpu, Scheme::Dense(DType::BF16), 3072, 576, n_tokens);
        }
        attention(&cpu, 512);
    }
}

const WORKS: &str = "a processor's operations do not fail";

fn gemm(cpu: &Arc<Cpu>, scheme: Scheme, rows: usize, cols: usize, n_tokens: usize) {
    let weight = match scheme {
        Scheme::Dense(dtype) => weights(dtype, &[(rows, cols)]).0.remove(0),
        Scheme::FourBit(format) => four_bit_weights(format, &[(rows, cols)]).0.remove(0),
        Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => return,
    };
    let weights = [cpu.load(weight).expect(WORKS)];
    let what = format!("{scheme} {n_tokens} tokens, {rows} x {cols}");
    let mut product = products(cpu, &weights, (rows, cols), n_tokens);
    report(cpu, &what, 2 * n_tokens * rows * cols, &mut product);
}

/// The heads of SmolLM2-135M.
fn attention(cpu: &Arc<Cpu>, n_tokens: usize) {
    let (n_heads, n_kv_heads, head_dim) = (9, 3, 64);
    let columns = KvColumns {
        first: n_heads * head_dim,
        row_width: (n_heads + 2 * n_kv_heads) * head_dim,
    };
    let op = Attention {
        n_heads,
        n_kv_heads,
        head_dim,
        row_width: columns.row_width,
        scale: 0.125,
        soft_cap: None,
        mask: Mask::Causal { window: None },
        bias: None,
        sinks: None,
        selected: None,
        beside: None,
    };
    let shape = WorkspaceShape {
        n_tokens,
        cols: 1,
        rows: 1,
        context: n_tokens,
        n_heads,
        n_kv_heads,
        head_dim,
        n_selecting: 0,
    };
    let mut queue = cpu.queue(Some(&shape)).expect(WORKS);
    let shape = KvShape {
        n_kv_heads,
        head_dim,
        values: KvValues::Own,
        capacity: n_tokens,
        n_sequences: 1,
        dtype: DType::BF16,
    };
    let mut pool = cpu.kv_pool(&shape).expect(WORKS);
    let table_len = shape.table_len(cpu.kv_block_len(&shape));
    let qkv = cpu.alloc(n_tokens * columns.row_width).expect(WORKS);
    let mut out = cpu.alloc(n_tokens * n_heads * head_dim).expect(WORKS);
    let rows = Rows {
        first: 0,
        n_tokens,
        start: 0,
        n_positions: n_tokens,
    };
    let mut rows_index = cpu.alloc_index(Rows::N_WORDS).expect(WORKS);
    queue
        .upload_index(&rows.words(), &mut rows_index)
        .expect(WORKS);
    let mut tables = cpu.alloc_index(table_len).expect(WORKS);
    let blocks: Vec<u32> = (0..table_len as u32).collect();
    queue.upload_index(&blocks, &mut tables).expect(WORKS);
    let what = format!("attention of {n_tokens} tokens");
    // Half of all pairs, twice their products with keys and with values.
    let n_operations = 2 * n_heads * head_dim * n_tokens * (n_tokens + 1);
    report(cpu, &what, n_operations, &mut || {
        let batch = Batch {
            rows: &[rows],
            rows_index: &rows_index,
            tables: &tables,
            table_len,
        };
        queue
            .append(&qkv, &columns, &batch, &mut pool)
            .expect(WORKS);
        queue
            .attention(&op, &qkv, &batch, &pool, &mut out)
            .expect(WORKS);
    });
}

/// Prints the speed of `run` beside that of multiplying and adding in registers.
fn report(cpu: &Arc<Cpu>, what: &str, n_operations: usize, run: &mut dyn FnMut()) {
    let mut n_peak = 0;
    let mut peak = || n_peak = cpu.multiply_add(200_000);
    let seconds = interleaved(15, &mut [&mut peak, run]);
    let limit = n_peak as f64 / seconds[0];
    let speed = n_operations as f64 / seconds[1];
    println!(
        "  {what:32} {:7.1} GFLOP/s, {:8.3} ms | {:3.0}% of {:.0}",
        speed / 1e9,
        seconds[1] * 1e3,
        100.0 * speed / limit,
        limit / 1e9,
    );
}
