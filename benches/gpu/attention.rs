//! Attention with the heads of an 8B Llama: of a token to a long context, and of a prompt to itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use llm_backend::{Attention, Backend, Batch, KvColumns, Mask, Ops, Queue, Rows};
use llm_tensor::{DType, KvShape, KvValues, WorkspaceShape};
use serde_json::json;

use crate::Extent;
use crate::timing::seconds;

/// Sequences, positions that they have, and how many of these are the pass's own.
#[derive(Clone, Copy)]
struct Case {
    n_sequences: usize,
    context: usize,
    n_tokens: usize,
}

/// Prints a line of JSON for each case.
///
/// # Errors
/// When the device fails.
pub(crate) fn run<B: Backend>(device: &Arc<B>, extent: Extent, copy: f64) -> Result<()> {
    let decode = |n_sequences, context| Case {
        n_sequences,
        context,
        n_tokens: 1,
    };
    let prompt = |context| Case {
        n_sequences: 1,
        context,
        n_tokens: context,
    };
    let (cases, time) = match extent {
        Extent::Small => (vec![decode(2, 40), prompt(16)], Duration::ZERO),
        Extent::Full => (
            vec![
                decode(1, 1024),
                decode(1, 8192),
                decode(1, 32768),
                decode(8, 1024),
                decode(8, 8192),
                prompt(512),
            ],
            Duration::from_millis(25),
        ),
    };
    cases
        .into_iter()
        .try_for_each(|case| measure(device, case, time, copy))
}

fn measure<B: Backend>(device: &Arc<B>, case: Case, time: Duration, copy: f64) -> Result<()> {
    let Case {
        n_sequences,
        context,
        n_tokens,
    } = case;
    let shape = KvShape {
        n_kv_heads: N_KV_HEADS,
        head_dim: HEAD_DIM,
        values: KvValues::Own,
        capacity: context,
        n_sequences,
        dtype: DType::BF16,
    };
    let (q_width, kv_width) = (N_HEADS * HEAD_DIM, 2 * N_KV_HEADS * HEAD_DIM);
    let mut queue = device.queue(Some(&WorkspaceShape {
        n_tokens: n_sequences * n_tokens.max(PIECE),
        cols: q_width,
        rows: q_width,
        context,
        n_heads: N_HEADS,
        n_kv_heads: N_KV_HEADS,
        head_dim: HEAD_DIM,
        n_selecting: 0,
    }))?;
    let mut pool = device.kv_pool(&shape)?;
    let table_len = shape.table_len(device.kv_block_len(&shape));
    let mut tables = device.alloc_index(n_sequences * table_len)?;
    let blocks: Vec<u32> = (0..(n_sequences * table_len) as u32).collect();
    queue.upload_index(&blocks, &mut tables)?;
    let mut rows_index = device.alloc_index(n_sequences * Rows::N_WORDS)?;
    let rows = |n_tokens: usize, start: usize| -> Vec<Rows> {
        let of = |sequence| Rows {
            first: sequence * n_tokens,
            n_tokens,
            start,
            n_positions: start + n_tokens,
        };
        (0..n_sequences).map(of).collect()
    };
    let words = |rows: &[Rows]| rows.iter().flat_map(Rows::words).collect::<Vec<u32>>();
    let values = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
            .collect()
    };
    // Every position has keys and values.
    let mut kv = device.alloc(n_sequences * PIECE * kv_width)?;
    queue.upload(&values(n_sequences * PIECE * kv_width), &mut kv)?;
    for start in (0..context).step_by(PIECE) {
        let rows = rows(PIECE.min(context - start), start);
        queue.upload_index(&words(&rows), &mut rows_index)?;
        let batch = Batch {
            rows: &rows,
            rows_index: &rows_index,
            tables: &tables,
            table_len,
        };
        let columns = KvColumns {
            first: 0,
            row_width: kv_width,
        };
        queue.append(&kv, &columns, &batch, &mut pool)?;
    }
    let n_rows = n_sequences * n_tokens;
    let mut q = device.alloc(n_rows * q_width)?;
    queue.upload(&values(n_rows * q_width), &mut q)?;
    let mut out = device.alloc(n_rows * q_width)?;
    let rows = rows(n_tokens, context - n_tokens);
    queue.upload_index(&words(&rows), &mut rows_index)?;
    let op = Attention {
        n_heads: N_HEADS,
        n_kv_heads: N_KV_HEADS,
        head_dim: HEAD_DIM,
        row_width: q_width,
        scale: 1.0 / (HEAD_DIM as f32).sqrt(),
        soft_cap: None,
        mask: Mask::Causal { window: None },
        bias: None,
        sinks: None,
        selected: None,
        beside: None,
    };
    let seconds = seconds::<B>(&mut queue, time, |queue| {
        let batch = Batch {
            rows: &rows,
            rows_index: &rows_index,
            tables: &tables,
            table_len,
        };
        Ok(queue.attention(&op, &q, &batch, &pool, &mut out)?)
    })?;
    let n_read = n_sequences * context * kv_width * DType::BF16.size();
    let moved = (n_read + 2 * n_rows * q_width * size_of::<f32>()) as f64;
    // Of a prompt a query sees half of the positions on average.
    let n_seen = context - n_tokens / 2;
    println!(
        "{}",
        json!({
            "what": "attention",
            "n_sequences": n_sequences,
            "context": context,
            "n_tokens": n_tokens,
            "microseconds": seconds * 1e6,
            "bytes_per_second": moved / seconds,
            "share_of_copy": moved / seconds / copy,
            "teraflops": 4.0 * (n_rows * n_seen * q_width) as f64 / seconds / 1e12,
        })
    );
    Ok(())
}

const N_HEADS: usize = 32;
const N_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
/// Positions that are taken to the cache at a time.
const PIECE: usize = 512;
