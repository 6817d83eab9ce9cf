//! Attention over the block tables: which kernel for which rows and card, and its launch.

use std::ops::RangeInclusive;

use llm_backend::{Attention, Batch, Mask, Result, Rows};
use llm_tensor::{DType, KvValues, WorkspaceShape};

use crate::kv_pool::{BLOCK, KvPool};
use crate::launch::Launch;
use crate::memory::{Span, bytes_of};
use crate::module::{Kernel, kernel};
use crate::ops::attention_wide::{self, sinks};
use crate::ops::general::element;
use crate::{Buffer, Cuda, CudaQueue, workspace};

pub(super) fn attention(
    queue: &CudaQueue,
    op: &Attention<'_, Cuda>,
    q: &Buffer,
    batch: &Batch<'_, Cuda>,
    (pool, out): (&KvPool, &mut Buffer),
) -> Result<()> {
    // Where chunks begin takes the tiled kernels a third of the warps that a multiprocessor has, of all models.
    let is_chunked = matches!(op.mask, Mask::Chunked { .. });
    let is_wide = op.head_dim > MAX_HEAD_DIM || pool.shape.values != KvValues::Own;
    if is_wide || is_chunked || op.selected.is_some() || op.beside.is_some() {
        return attention_wide::attention(queue, op, q, batch, (pool, out));
    }
    let call = Call::new(queue, op, q, batch, (pool, out));
    let long = call.sequences(call.tiled_from..=usize::MAX);
    if !long.are_none() {
        call.tiles(&long)?;
    }
    let short = call.sequences(1..=call.tiled_from - 1);
    if !short.are_none() {
        call.rows(&short)?;
    }
    Ok(())
}

/// What is chosen by.
#[derive(Debug, Clone, Copy)]
struct Card {
    compute_capability: (u32, u32),
    n_multiprocessors: usize,
}

/// How blocks share the work of sequences that are not tiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    /// Query vectors of a block: 1, 4 or 8.
    n_vectors: usize,
    /// Pieces of the positions.
    n_pieces: usize,
}

/// Rows of a sequence from which on it goes to tensor cores.
fn tiled_from(card: Card, dtype: DType, head_dim: usize, group: usize) -> usize {
    let exact = matches!(dtype, DType::F16 | DType::BF16);
    match exact && head_dim.is_multiple_of(8) && card.compute_capability >= (8, 0) {
        true => TILED_VECTORS.div_ceil(group),
        false => usize::MAX,
    }
}

/// For sequences with so many query vectors of a key head each, of which none sees more than `context` positions.
fn choice(
    card: Card,
    (head_dim, n_kv_heads): (usize, usize),
    vectors: impl Iterator<Item = usize> + Clone,
    context: usize,
) -> Choice {
    let n_vectors = match vectors.clone().max() {
        _ if !head_dim.is_multiple_of(8) => 4,
        None | Some(0..=1) => 1,
        Some(2..=4) => 4,
        Some(_) => 8,
    };
    let n_chunks: usize = vectors.map(|n| n.div_ceil(n_vectors)).sum();
    let wanted = BLOCKS_A_MULTIPROCESSOR * card.n_multiprocessors.min(MAX_MULTIPROCESSORS);
    Choice {
        n_vectors,
        n_pieces: (wanted / (n_chunks * n_kv_heads).max(1)).clamp(1, max_pieces(context)),
    }
}

/// A piece has at least a block of the pool for each warp.
fn max_pieces(context: usize) -> usize {
    context.div_ceil(BLOCK * WARPS).clamp(1, MAX_PIECES)
}

/// Bytes of the pieces' results within `shape`, on any card.
pub(super) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    let (n, most) = (shape.n_tokens * shape.n_heads, max_pieces(shape.context));
    // There are pieces while blocks are fewer than wanted, and a block has at most 8 query vectors.
    let wanted = 8 * BLOCKS_A_MULTIPROCESSOR * MAX_MULTIPROCESSORS;
    match most {
        1 => 0,
        _ => workspace::bytes(area((n * most).min(wanted), shape.head_dim)),
    }
}

/// Bytes of the sums, maxima and totals of pieces of query vectors.
fn area(n: usize, head_dim: usize) -> [usize; 1] {
    [bytes_of(n * (head_dim + 2))]
}

/// Arguments that all launches have.
struct Call<'a> {
    queue: &'a CudaQueue,
    op: &'a Attention<'a, Cuda>,
    q: &'a Buffer,
    batch: &'a Batch<'a, Cuda>,
    pool: &'a KvPool,
    out: &'a Buffer,
    card: Card,
    group: usize,
    tiled_from: usize,
}

/// Sequences of a pass that have so many rows.
struct Sequences<'a> {
    all: &'a [Rows],
    n_tokens: RangeInclusive<usize>,
}

impl<'a> Sequences<'a> {
    fn iter(&self) -> impl Iterator<Item = &'a Rows> + Clone {
        let n_tokens = self.n_tokens.clone();
        let all = self.all.iter();
        all.filter(move |rows| n_tokens.contains(&rows.n_tokens))
    }

    fn are_none(&self) -> bool {
        self.iter().next().is_none()
    }

    fn n_rows(&self) -> usize {
        self.iter().map(|rows| rows.n_tokens).sum()
    }
}

/// `AttentionShape` of `attention.cuh`.
type Shape = [u32; 14];

impl<'a> Call<'a> {
    fn new(
        queue: &'a CudaQueue,
        op: &'a Attention<'a, Cuda>,
        q: &'a Buffer,
        batch: &'a Batch<'a, Cuda>,
        (pool, out): (&'a KvPool, &'a Buffer),
    ) -> Self {
        assert_eq!(
            (pool.shape.n_kv_heads, pool.shape.head_dim),
            (op.n_kv_heads, op.head_dim),
            "heads of the pool"
        );
        assert!(
            op.n_heads.is_multiple_of(op.n_kv_heads) && batch.table_len > 0,
            "{} heads of queries for {} of keys, tables of {} blocks",
            op.n_heads,
            op.n_kv_heads,
            batch.table_len
        );
        let card = Card {
            compute_capability: queue.card.facts.compute_capability,
            n_multiprocessors: queue.card.facts.n_multiprocessors as usize,
        };
        let group = op.n_heads / op.n_kv_heads;
        Call {
            tiled_from: tiled_from(card, pool.shape.dtype, op.head_dim, group),
            queue,
            op,
            q,
            batch,
            pool,
            out,
            card,
            group,
        }
    }

    fn sequences(&self, n_tokens: RangeInclusive<usize>) -> Sequences<'a> {
        Sequences {
            all: self.batch.rows,
            n_tokens,
        }
    }

    /// Sequences with many rows.
    fn tiles(&self, sequences: &Sequences<'a>) -> Result<()> {
        let widths = [64, 128, MAX_HEAD_DIM].into_iter().enumerate();
        let mut fitting = widths.filter(|&(_, width)| self.op.head_dim <= width);
        let (i, width) = fitting.next().expect("larger heads go elsewhere");
        let n_vectors = if width == MAX_HEAD_DIM { 32 } else { 64 };
        let (kernels, n_parts) = match self.pool.shape.dtype == DType::F16 {
            true => (TILES_F16, 2),
            false => (TILES_BF16, 3),
        };
        let line = (width + 8) * 2;
        let queries = if width == 64 {
            0
        } else {
            n_parts * n_vectors * line
        };
        self.launch(kernels[i], sequences)
            .structure(&self.shape(sequences))
            .grid([self.n_chunks(sequences, n_vectors), self.op.n_kv_heads, 1])
            .threads(128)
            .shared(2 * BLOCK * line + queries)
            .run()
    }

    /// Sequences with few rows, or without tensor cores for them.
    fn rows(&self, sequences: &Sequences<'a>) -> Result<()> {
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.op;
        let vectors = sequences.iter().map(|rows| rows.n_tokens * self.group);
        let context = sequences.iter().map(|rows| self.context(rows)).max();
        let Choice {
            n_vectors,
            n_pieces,
        } = choice(
            self.card,
            (head_dim, n_kv_heads),
            vectors,
            context.unwrap_or(0),
        );
        let n_rows = sequences.n_rows();
        let pieces = (n_pieces > 1).then(|| {
            let [pieces] = self
                .queue
                .workspace
                .areas(area(n_rows * n_heads * n_pieces, head_dim));
            pieces
        });
        let dtype = element(self.pool.shape.dtype) as usize;
        let kernel = match n_vectors {
            _ if !head_dim.is_multiple_of(8) => ANY[dtype],
            1 => ROWS[dtype][0],
            4 => ROWS[dtype][1],
            _ => ROWS[dtype][2],
        };
        self.launch(kernel, sequences)
            .pointer_or_null(pieces)
            .structure(&self.shape(sequences))
            .grid([self.n_chunks(sequences, n_vectors), n_kv_heads, n_pieces])
            .threads(32 * WARPS)
            .run()?;
        let Some(pieces) = pieces else { return Ok(()) };
        let merge = self.queue.launch(MERGE[dtype]).pointer(pieces);
        let merge = merge.pointer(self.rows_index()).pointer(self.out.first(0));
        let merge = merge.int(n_pieces).structure(&self.shape(sequences));
        merge.grid([n_rows, n_heads, 1]).threads(128).run()
    }

    /// A launch with the arguments that come first.
    fn launch(&self, kernel: Kernel, sequences: &Sequences<'a>) -> Launch<'a> {
        let ends = sequences.iter().map(|rows| rows.first + rows.n_tokens);
        let n_rows = ends.max().unwrap_or(0);
        let width = self.op.n_heads * self.op.head_dim;
        assert!(width <= self.op.row_width, "queries within their rows");
        let q = self.q.first((n_rows - 1) * self.op.row_width + width);
        let tables = self.batch.rows.len() * self.batch.table_len;
        let launch = self.queue.launch(kernel).pointer(q);
        let launch = launch.pointer(self.pool.span().aligned(16));
        let launch = launch.pointer(self.rows_index());
        let launch = launch.pointer(self.batch.tables.first(tables));
        let bias = self.op.bias;
        let bias = bias.map(|bias| bias.table.first(self.op.n_heads * bias.row));
        let launch = launch.pointer_or_null(bias);
        let launch = sinks(launch, self.op);
        launch.pointer(self.out.first(n_rows * width))
    }

    fn shape(&self, sequences: &Sequences<'a>) -> Shape {
        let op = self.op;
        let window = match op.mask {
            Mask::Causal { window: None } => 0,
            Mask::Causal { window: Some(n) } => number(n.clamp(1, i32::MAX as usize)),
            Mask::Full => u32::MAX,
            Mask::Chunked { .. } => unreachable!("{WIDE}"),
        };
        let [bias_row, bias_zero] = op.bias.map_or([1, 0], |bias| [bias.row, bias.zero]);
        [
            number(self.batch.rows.len()),
            number(sequences.n_rows()),
            number(*sequences.n_tokens.start()),
            number((*sequences.n_tokens.end()).min(i32::MAX as usize)),
            number(op.n_heads),
            number(op.n_kv_heads),
            number(op.head_dim),
            number(op.row_width),
            number(self.batch.table_len),
            window,
            op.scale.to_bits(),
            op.soft_cap.unwrap_or(0.0).to_bits(),
            number(bias_row),
            number(bias_zero),
        ]
    }

    fn rows_index(&self) -> Span<'a> {
        let n = self.batch.rows.len() * Rows::N_WORDS;
        self.batch.rows_index.first(n)
    }

    /// Positions that some row of a sequence sees.
    fn context(&self, rows: &Rows) -> usize {
        match self.op.mask {
            Mask::Causal { window } => {
                let window = window.unwrap_or(usize::MAX).saturating_add(rows.n_tokens);
                rows.n_positions.min(window)
            }
            Mask::Full => rows.n_positions,
            Mask::Chunked { .. } => unreachable!("{WIDE}"),
        }
    }

    /// Blocks a key head, of so many query vectors each.
    fn n_chunks(&self, sequences: &Sequences<'a>, n_vectors: usize) -> usize {
        let vectors = sequences.iter().map(|rows| rows.n_tokens * self.group);
        vectors.map(|n| n.div_ceil(n_vectors)).sum()
    }
}

fn number(n: usize) -> u32 {
    let fits = i32::try_from(n).ok();
    fits.unwrap_or_else(|| panic!("{n} is not below 2^31")) as u32
}

/// Why no launch here has a chunk.
const WIDE: &str = "chunks are the wide kernel's";

/// Of the kernels; larger ones go element by element.
const MAX_HEAD_DIM: usize = 256;

/// Warps of a block that is not tiled.
const WARPS: usize = 4;

/// By width of heads.
const TILES_F16: [Kernel; 3] = kernel![
    "attention_tile_f16_64_2",
    "attention_tile_f16_128_2",
    "attention_tile_f16_256_2"
];
const TILES_BF16: [Kernel; 3] = kernel![
    "attention_tile_bf16_64_3",
    "attention_tile_bf16_128_3",
    "attention_tile_bf16_256_3"
];
/// By element type, for 1, 4 and 8 query vectors.
const ROWS: [[Kernel; 3]; 3] = [
    kernel![
        "attention_rows_f32_1",
        "attention_rows_f32_4",
        "attention_rows_f32_8"
    ],
    kernel![
        "attention_rows_f16_1",
        "attention_rows_f16_4",
        "attention_rows_f16_8"
    ],
    kernel![
        "attention_rows_bf16_1",
        "attention_rows_bf16_4",
        "attention_rows_bf16_8"
    ],
];
/// By element type.
const ANY: [Kernel; 3] = kernel![
    "attention_any_f32_4",
    "attention_any_f16_4",
    "attention_any_bf16_4"
];
const MERGE: [Kernel; 3] = kernel![
    "attention_merge_f32",
    "attention_merge_f16",
    "attention_merge_bf16"
];

/// Query vectors of a key head from which on tiles of 16 are worth it.
const TILED_VECTORS: usize = 33;

/// Blocks that a multiprocessor is kept busy with.
const BLOCKS_A_MULTIPROCESSOR: usize = 3;

/// Multiprocessors that pieces are made for: the scratch memory is the same on all cards.
const MAX_MULTIPROCESSORS: usize = 160;

/// Pieces that are merged at once.
const MAX_PIECES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Card = Card {
        compute_capability: (9, 0),
        n_multiprocessors: 132,
    };
    const T4: Card = Card {
        compute_capability: (7, 5),
        n_multiprocessors: 40,
    };

    #[test]
    fn tensor_cores_take_what_they_multiply_exactly() {
        let cases = [
            (H100, DType::BF16, 128, 4, 9),
            (H100, DType::F16, 80, 1, 33),
            (H100, DType::F16, 80, 71, 1),
            (H100, DType::F32, 128, 4, usize::MAX),
            (H100, DType::F16, 20, 1, usize::MAX),
            (T4, DType::F16, 128, 4, usize::MAX),
        ];
        for (card, dtype, head_dim, group, expected) in cases {
            assert_eq!(tiled_from(card, dtype, head_dim, group), expected);
        }
    }

    #[test]
    fn pieces_keep_a_card_busy_and_are_no_shorter_than_blocks_of_the_pool() {
        /// Of key heads of so many elements, and of sequences with so many query vectors each.
        struct Case {
            card: Card,
            heads: (usize, usize),
            vectors: &'static [usize],
            context: usize,
            /// Vectors of a block, and pieces.
            expected: (usize, usize),
        }
        let case = |card, heads, vectors, context, expected| Case {
            card,
            heads,
            vectors,
            context,
            expected,
        };
        for Case {
            card,
            heads,
            vectors,
            context,
            expected,
        } in [
            case(H100, (128, 8), &[4], 32_768, (4, 49)),
            case(H100, (128, 8), &[4], 1024, (4, 8)),
            case(H100, (128, 8), &[4], 100, (4, 1)),
            case(H100, (128, 8), &[4; 64], 32_768, (4, 1)),
            case(H100, (64, 32), &[1], 4096, (1, 12)),
            case(H100, (64, 1), &[71], 1 << 20, (8, 44)),
            case(H100, (20, 1), &[2], 1 << 20, (4, 64)),
            case(T4, (128, 8), &[4], 32_768, (4, 15)),
        ] {
            let found = choice(card, heads, vectors.iter().copied(), context);
            let found = (found.n_vectors, found.n_pieces);
            assert_eq!(found, expected, "{heads:?} {vectors:?} {context}");
        }
    }

    #[test]
    fn scratch_memory_suffices_whatever_the_sequences_are() {
        for (n_heads, n_kv_heads, head_dim) in [(32, 8, 128), (8, 8, 64), (71, 1, 64), (6, 3, 20)] {
            for n_tokens in [1, 3, 64, 500] {
                for context in [100, 1000, 100_000] {
                    let shape = WorkspaceShape {
                        n_tokens,
                        cols: 1,
                        rows: 1,
                        context,
                        n_heads,
                        n_kv_heads,
                        head_dim,
                        n_selecting: 0,
                    };
                    for n_sequences in 1..=n_tokens {
                        let (group, each) = (n_heads / n_kv_heads, n_tokens / n_sequences);
                        let vectors = (0..n_sequences).map(|_| each * group);
                        let heads = (head_dim, n_kv_heads);
                        let Choice { n_pieces, .. } = choice(H100, heads, vectors, context);
                        let n = n_sequences * each * n_heads * n_pieces;
                        let needed = workspace::bytes(area(n, head_dim));
                        assert!(
                            n_pieces == 1 || needed <= scratch_bytes(&shape),
                            "{shape:?} {n_sequences}"
                        );
                    }
                }
            }
        }
    }
}
