//! Attention of heads, and to positions, that the tiled kernels do not take: `kernels/attention_wide.cu`.

use llm_backend::{Attention, Batch, Beside, Mask, Result, Rows};

use super::general::{element, vector};
use crate::launch::Launch;
use crate::memory::Span;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue, KvPool};

/// Rows of the longest sequence.
fn most_rows(rows: &[Rows]) -> usize {
    rows.iter().map(|rows| rows.n_tokens).max().unwrap_or(0)
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
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let (window, full) = match op.mask {
        Mask::Causal { window } => (window.unwrap_or(0).min(i32::MAX as usize) as u32, 0),
        Mask::Chunked { len } => (chunked(len), 0),
        Mask::Full => (0, 1),
    };
    let launch = queue.launch(match op.beside {
        None => kernel!("attention_wide"),
        Some(_) => kernel!("attention_entries"),
    });
    let launch = launch.pointer(q.first(n_rows * op.row_width));
    let launch = launch.pointer(batch.rows_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.tables.first(n * batch.table_len));
    let launch = launch.int(batch.table_len).pointer(pool.span());
    let launch = launch.bits(element(pool.shape.dtype)).int(op.n_heads);
    let launch = launch.int(op.n_kv_heads).int(op.head_dim);
    let value_dim = pool.shape.value_dim();
    let launch = launch.int(value_dim).int(pool.n_planes()).int(op.row_width);
    let launch = launch.float(op.scale).float(op.soft_cap.unwrap_or(0.0));
    let launch = launch.bits(window).int(full);
    let bias = op.bias.map(|bias| bias.table.first(op.n_heads * bias.row));
    let launch = launch.pointer_or_null(bias);
    let launch = launch.int(op.bias.map_or(0, |bias| bias.row));
    let launch = launch.int(op.bias.map_or(0, |bias| bias.zero));
    let launch = sinks(launch, op);
    op.check_selected();
    let bits = (op.selected).map(|of| of.bits.first(n_rows * of.row_words));
    let launch = launch.pointer_or_null(bits);
    let launch = launch.int(op.selected.map_or(0, |of| of.row_words));
    let beside = op.beside.map(|beside| {
        assert_eq!(
            (beside.pool.shape.keys_width(), beside.pool.shape.values),
            (pool.shape.keys_width(), pool.shape.values),
            "keys and values as of positions"
        );
        Words::of(&beside, (n, n_rows))
    });
    let launch = match &beside {
        None => launch,
        Some(words) => launch.structure(words),
    };
    let launch = launch.pointer(out.first(n_rows * op.n_heads * value_dim));
    let grid = [most_rows(batch.rows), n, op.n_heads];
    // Where some are selected, those of so many.
    let of_entries = op.beside.and_then(|beside| beside.selected);
    let places = match op.selected.or(of_entries) {
        None => 0,
        Some(_) => STRETCH * size_of::<u16>(),
    };
    launch.grid(grid).threads(256).shared(places).run()
}

/// `Beside` of `attention_wide.cu`.
#[derive(Debug, Clone, Copy, bytemuck::NoUninit)]
#[repr(C)]
struct Words {
    pool: u64,
    tables: u64,
    selected: u64,
    dtype: u32,
    table_len: u32,
    rate: u32,
    row_words: u32,
}

impl Words {
    /// Of so many sequences, and rows of a pass.
    fn of(beside: &Beside<'_, Cuda>, (n_sequences, n_rows): (usize, usize)) -> Self {
        let selected = (beside.selected).map(|of| of.bits.first(n_rows * of.row_words));
        let number = |n: usize| i32::try_from(n).expect("sizes of pools fit 31 bits") as u32;
        let tables = beside.tables.first(n_sequences * beside.table_len);
        Words {
            pool: beside.pool.span().address(),
            tables: tables.address(),
            selected: selected.map_or(0, Span::address),
            dtype: element(beside.pool.shape.dtype),
            table_len: number(beside.table_len),
            rate: number(beside.rate),
            row_words: number(beside.selected.map_or(0, |of| of.row_words)),
        }
    }
}

/// Positions or entries of a row that are looked through at a time where it selects some.
const STRETCH: usize = 8192;

/// Chunks of `len` positions as kernels are told of them: negative, and one position as a window.
fn chunked(len: usize) -> u32 {
    match len {
        0 | 1 => 1,
        len => (len.min(i32::MAX as usize) as u32).wrapping_neg(),
    }
}

/// Tells a kernel of the heads' sinks.
pub(super) fn sinks<'a>(launch: Launch<'a>, op: &Attention<'_, Cuda>) -> Launch<'a> {
    if let Some(sinks) = op.sinks {
        assert_eq!(
            sinks.rows() * sinks.cols(),
            op.n_heads,
            "a sink for each head"
        );
    }
    vector(launch, op.sinks)
}
