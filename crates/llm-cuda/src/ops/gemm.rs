//! Products with many rows of activations, in tiles: which kernel for which weight and card, and its launches.

use llm_backend::{LinearPart, Output, Result};
use llm_quant::{Part, Scheme};
use llm_tensor::{DType, WorkspaceShape};

use super::general::{NumRows, element};
use crate::choose;
use crate::memory::{Span, bytes_of};
use crate::module::{self, kernel};
use crate::{Cuda, CudaQueue, CudaWeight, workspace};

/// Rows of activations that weights are multiplied with, and the place of the results.
#[derive(Clone, Copy)]
pub(super) struct Many<'a> {
    pub(super) queue: &'a CudaQueue,
    /// `[n, cols]`.
    pub(super) x: Span<'a>,
    pub(super) output: Output,
    /// `[n, width]`.
    pub(super) out: Span<'a>,
    /// Elements of a row of the result.
    pub(super) width: usize,
    /// Rows, and the two numbers on the GPU whose distance they are at most.
    pub(super) n: NumRows<'a>,
}

/// A kernel for a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// By f32 FMA.
    Tile(DType),
    /// On tensor cores, activations split into 16-bit parts.
    Dense(Split),
    /// The same, with values that are looked up.
    FourBit,
    /// On tensor cores of integers, or by their four-element products.
    Int8 { tiled: bool },
}

/// Form of activations that tensor cores multiply exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Two parts of 11 bits, rows scaled.
    F16,
    /// Three parts of 8 bits.
    Bf16,
    /// Like `F16`, columns in the order of 4-bit codes.
    F16OfCodes,
}

/// How blocks share a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    /// Tokens of a block.
    tokens: usize,
    /// Pieces of the columns.
    n_pieces: usize,
}

impl Many<'_> {
    /// Multiplies by the weight of a part, its results from column `first` on; false where there is no kernel for it. Where
    /// the weight is of 8-bit codes, those of the activations lie at the start of the scratch memory ([`code_areas`]).
    pub(super) fn multiply(&self, part: &LinearPart<'_, Cuda>, first: usize) -> Result<bool> {
        let capability = self.queue.card.facts.compute_capability;
        let Some(kernel) = kernel(part, capability) else {
            return Ok(false);
        };
        if let Some(bias) = part.bias {
            assert_eq!(bias.cols(), part.weight.rows(), "a bias for every output");
        }
        match kernel {
            Kernel::Int8 { .. } => {
                let all = Chunk {
                    skip: 0,
                    n: self.n.0,
                };
                self.chunk(kernel, part, first, all)?;
            }
            Kernel::Tile(_) | Kernel::Dense(_) | Kernel::FourBit => {
                for skip in (0..self.n.0).step_by(CHUNK) {
                    let n = (self.n.0 - skip).min(CHUNK);
                    self.chunk(kernel, part, first, Chunk { skip, n })?;
                }
            }
        }
        Ok(true)
    }

    fn chunk(
        &self,
        kernel: Kernel,
        part: &LinearPart<'_, Cuda>,
        first: usize,
        rows: Chunk,
    ) -> Result<()> {
        let (weight, queue) = (part.weight, self.queue);
        let n_multiprocessors = queue.card.facts.n_multiprocessors as usize;
        let size = (weight.rows(), weight.cols());
        let blocks = kernel.blocks(rows.n, size, n_multiprocessors);
        let shape = self.shape(part, first, rows);
        let x = self
            .x
            .part(bytes_of(rows.skip * size.1)..bytes_of((rows.skip + rows.n) * size.1));
        let out = bytes_of(rows.skip * self.width)..bytes_of((rows.skip + rows.n) * self.width);
        let out = self.out.part(out);
        let bias = part.bias.map(|bias| bias.part(Part::Weight));
        let areas = areas(
            kernel,
            rows.n,
            size.1,
            blocks.n_piece_results(rows.n * size.0, kernel),
        );
        let [parts, scales, outliers, pieces] = queue.workspace.areas(areas);
        let pieces = (blocks.n_pieces > 1).then_some(pieces);

        if let Some(split) = kernel.split() {
            let launch = queue.launch(split.kernel()).pointer(x).pointer(parts);
            let launch = launch.pointer(scales);
            let launch = launch.int(usize::from(split == Split::F16OfCodes));
            let launch = launch.structure(&shape).grid([rows.n, 1, 1]);
            launch.threads(256).run()?;
        }
        let int8 = || -> [u64; 6] {
            let [codes, absmax] = [parts, scales].map(Span::address);
            let of = |part| weight.part(part).address();
            let outliers = outliers.address();
            [
                codes,
                absmax,
                x.address(),
                outliers,
                of(Part::Weight),
                of(Part::Scb),
            ]
        };
        let launch = queue.launch(kernel.function(blocks.tokens));
        let launch = match kernel {
            Kernel::Tile(_) => launch.pointer(x).pointer(weight.part(Part::Weight)),
            Kernel::Dense(split) => {
                let scales = (split != Split::Bf16).then_some(scales);
                let launch = launch.pointer(parts).pointer_or_null(scales);
                launch.pointer(weight.part(Part::Weight))
            }
            Kernel::FourBit => {
                let launch = launch.pointer(parts).pointer(scales);
                launch.structure(&four_bit(weight))
            }
            Kernel::Int8 { .. } => launch.structure(&int8()),
        };
        let launch = launch.pointer_or_null(bias).pointer(out);
        let launch = match kernel {
            Kernel::Int8 { tiled: false } => launch,
            Kernel::Tile(_) | Kernel::Dense(_) | Kernel::FourBit | Kernel::Int8 { tiled: true } => {
                launch.pointer_or_null(pieces)
            }
        };
        let grid = [
            size.0.div_ceil(kernel.block_rows()),
            rows.n.div_ceil(blocks.tokens),
            blocks.n_pieces,
        ];
        let launch = launch
            .structure(&shape)
            .shared(kernel.shared(blocks.tokens));
        launch.grid(grid).threads(256).run()?;
        let Some(pieces) = pieces else { return Ok(()) };
        let join = match kernel {
            Kernel::Int8 { .. } => {
                let join = queue.launch(kernel!("gemm_join_int8")).pointer(pieces);
                join.structure(&int8())
            }
            Kernel::Tile(_) | Kernel::Dense(_) | Kernel::FourBit => {
                queue.launch(kernel!("gemm_join")).pointer(pieces)
            }
        };
        let join = join.pointer_or_null(bias).pointer(out);
        let join = join.int(blocks.n_pieces).structure(&shape);
        let grid = [(rows.n * size.0).div_ceil(256), 1, 1];
        join.grid(grid).threads(256).run()
    }

    /// `GemmShape` of `gemm.cuh`.
    fn shape(&self, part: &LinearPart<'_, Cuda>, first: usize, rows: Chunk) -> [u64; 6] {
        let cols = part.weight.cols();
        let bounds = self.n.1.map_or(0, |bounds| bounds.holding(8).address());
        let bias = part.bias.map_or(0, |bias| element(bias.dense()) as usize);
        [
            bounds,
            pair(rows.n, part.weight.rows()),
            pair(cols, self.width),
            pair(first, usize::from(self.output == Output::Add)),
            pair(bias, padded(cols)),
            pair(rows.skip, 0),
        ]
    }
}

impl Blocks {
    /// Results of all pieces, of `n` in the end.
    fn n_piece_results(self, n: usize, kernel: Kernel) -> usize {
        let beside = usize::from(matches!(kernel, Kernel::Int8 { .. }));
        match self.n_pieces {
            1 => 0,
            n_pieces => (n_pieces + beside) * n,
        }
    }
}

/// Rows that are multiplied at once: what their parts take is bounded.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    skip: usize,
    n: usize,
}

impl Kernel {
    fn split(self) -> Option<Split> {
        match self {
            Kernel::Tile(_) | Kernel::Int8 { .. } => None,
            Kernel::Dense(split) => Some(split),
            Kernel::FourBit => Some(Split::F16OfCodes),
        }
    }

    fn function(self, tokens: usize) -> module::Kernel {
        // Of those for 32, 64 and 128 tokens.
        let of = (tokens / 32).ilog2() as usize;
        match self {
            Kernel::Tile(dtype) => TILE[element(dtype) as usize],
            Kernel::Dense(Split::Bf16) => DENSE_BF16[of],
            Kernel::Dense(Split::F16 | Split::F16OfCodes) => DENSE_F16[of],
            Kernel::FourBit => FOUR_BIT[usize::from(tokens > 32)],
            Kernel::Int8 { tiled: true } => INT8[of],
            Kernel::Int8 { tiled: false } => kernel!("gemm_tile_int8"),
        }
    }

    /// Rows of the weight that a block multiplies by.
    fn block_rows(self) -> usize {
        match self {
            Kernel::Tile(_) | Kernel::Int8 { tiled: false } => 64,
            Kernel::Dense(_) | Kernel::FourBit | Kernel::Int8 { tiled: true } => 128,
        }
    }

    /// Bytes of shared memory that a launch adds.
    fn shared(self, tokens: usize) -> usize {
        let lines = |n_parts| n_parts * tokens * STAGE_BYTES;
        let weight = self.block_rows() * STAGE_BYTES;
        let codes = self.block_rows() * (16 + size_of::<f32>());
        STAGES
            * match self {
                Kernel::Tile(_) | Kernel::Int8 { tiled: false } => 0,
                Kernel::Dense(split) => lines(split.n_parts()) + weight,
                Kernel::FourBit => lines(Split::F16OfCodes.n_parts()) + codes,
                Kernel::Int8 { tiled: true } => lines(1) + weight,
            }
    }

    /// For `n` tokens and a weight `[rows, cols]`.
    fn blocks(self, n: usize, (rows, cols): (usize, usize), n_multiprocessors: usize) -> Blocks {
        let (smaller, step): (&[usize], usize) = match self {
            Kernel::Tile(_) => (&[64], 16),
            Kernel::Dense(_) => (&[32, 64], 32),
            Kernel::FourBit => (&[32], 32),
            Kernel::Int8 { tiled: true } => (&[32, 64], STAGE_BYTES),
            // It has no pieces.
            Kernel::Int8 { tiled: false } => (&[64], usize::MAX),
        };
        let largest = if self.block_rows() == 64 { 64 } else { 128 };
        let tokens = smaller.iter().copied().find(|&tokens| n <= tokens);
        let tokens = tokens.unwrap_or(largest);
        let n_blocks = rows.div_ceil(self.block_rows()) * n.div_ceil(tokens);
        let wanted = n_multiprocessors.min(MAX_MULTIPROCESSORS) * if tokens < 128 { 2 } else { 1 };
        let most = cols.div_ceil(step) / MIN_STEPS;
        Blocks {
            tokens,
            n_pieces: (wanted / n_blocks.max(1)).clamp(1, most.max(1)),
        }
    }
}

impl Split {
    fn kernel(self) -> module::Kernel {
        match self {
            Split::F16 | Split::F16OfCodes => kernel!("gemm_split_f16_2"),
            Split::Bf16 => kernel!("gemm_split_bf16_3"),
        }
    }

    fn n_parts(self) -> usize {
        match self {
            Split::F16 | Split::F16OfCodes => 2,
            Split::Bf16 => 3,
        }
    }
}

/// The fastest kernel that takes a weight as it lies, if any.
fn kernel(part: &LinearPart<'_, Cuda>, capability: (u32, u32)) -> Option<Kernel> {
    let weight = part.weight;
    let at = |part| weight.part(part);
    let bias_lies = part.bias.is_none_or(|bias| {
        let size = bias.dense().size() as u64;
        bias.part(Part::Weight).is_aligned(size)
    });
    if !bias_lies {
        return None;
    }
    let (cols, tensor_cores) = (weight.cols(), capability >= (8, 0));
    match weight.scheme() {
        Scheme::Dense(dtype) => {
            let elements = at(Part::Weight);
            let splits = [(DType::F16, Split::F16), (DType::BF16, Split::Bf16)];
            let split = splits.into_iter().find(|(of, _)| *of == dtype);
            let tiled = tensor_cores && cols.is_multiple_of(8) && elements.is_aligned(16);
            match split.filter(|_| tiled) {
                Some((_, split)) => Some(Kernel::Dense(split)),
                None => elements
                    .is_aligned(dtype.size() as u64)
                    .then_some(Kernel::Tile(dtype)),
            }
        }
        Scheme::FourBit(format) => {
            let words: &[Part] = match format.double_quant {
                false => &[Part::Absmax, Part::QuantMap],
                true => &[
                    Part::QuantMap,
                    Part::NestedAbsmax,
                    Part::NestedQuantMap,
                    Part::NestedOffset,
                ],
            };
            let fits = tensor_cores
                && cols.is_multiple_of(32)
                && at(Part::Weight).is_aligned(16)
                && words.iter().all(|&part| at(part).is_aligned(4));
            fits.then_some(Kernel::FourBit)
        }
        Scheme::Int8(_) => {
            let (codes, scb) = (at(Part::Weight), at(Part::Scb));
            let tiled = tensor_cores && cols.is_multiple_of(16) && codes.is_aligned(16);
            let fits = tiled || cols.is_multiple_of(4) && codes.is_aligned(4);
            (fits && scb.is_aligned(4)).then_some(Kernel::Int8 { tiled })
        }
        Scheme::Int8PerUse(..) | Scheme::Ggml(_) | Scheme::Fp8(_) => None,
    }
}

/// `FourBit` of `gemm_four_bit.cu`.
fn four_bit(weight: &CudaWeight) -> [u64; 7] {
    let Scheme::FourBit(format) = weight.scheme() else {
        unreachable!("a weight of 4-bit codes");
    };
    let at = |part| weight.part(part).address();
    let nested = |part| if format.double_quant { at(part) } else { 0 };
    [
        at(Part::Weight),
        at(Part::Absmax),
        at(Part::QuantMap),
        nested(Part::NestedAbsmax),
        nested(Part::NestedQuantMap),
        nested(Part::NestedOffset),
        pair(
            format.block_size.get().ilog2() as usize,
            usize::from(format.double_quant),
        ),
    ]
}

/// Two numbers of 32 bits, the first in the low half.
fn pair(low: usize, high: usize) -> u64 {
    let number = |n: usize| match i32::try_from(n) {
        Ok(n) => n as u64,
        Err(_) => panic!("{n} is not below 2^31"),
    };
    number(low) | number(high) << 32
}

/// Columns with the zeros behind them.
fn padded(cols: usize) -> usize {
    cols.next_multiple_of(32)
}

/// Bytes of the parts or codes of `n` rows, of their scales, of outlier columns as bits, and of pieces of results.
fn areas(kernel: Kernel, n: usize, cols: usize, n_pieces: usize) -> [usize; 4] {
    let [parts, scales, outliers] = match kernel {
        Kernel::Tile(_) => [0; 3],
        Kernel::Dense(split) => split_areas(split, n, cols),
        Kernel::FourBit => split_areas(Split::F16OfCodes, n, cols),
        Kernel::Int8 { .. } => code_areas(n, cols),
    };
    [parts, scales, outliers, bytes_of(n_pieces)]
}

fn split_areas(split: Split, n: usize, cols: usize) -> [usize; 3] {
    [split.n_parts() * n * padded(cols) * 2, bytes_of(n), 0]
}

/// Bytes of the codes of `n` rows, of their scales, and of outlier columns: for each row, and in the first for all.
pub(super) fn code_areas(n: usize, cols: usize) -> [usize; 3] {
    [n * cols, bytes_of(n), bytes_of(n * cols.div_ceil(32))]
}

/// Bytes that suffice for every product within `shape`, on any card.
pub(super) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    if shape.n_tokens <= choose::MAX_ROWS {
        return 0;
    }
    let n = shape.n_tokens.min(CHUNK);
    // There are pieces while blocks are fewer than wanted; then their results are fewer than those blocks have, but for one
    // of outlier columns.
    let most = 2 * MAX_MULTIPROCESSORS * 64 * 128;
    let pieces = |n: usize| {
        let results = (shape.cols.div_ceil(16 * MIN_STEPS) + 1) * n * shape.rows;
        results.min(most + (n * shape.rows).min(most))
    };
    let parts = areas(Kernel::Dense(Split::Bf16), n, shape.cols, pieces(n));
    let all = shape.n_tokens;
    let codes = areas(Kernel::Int8 { tiled: true }, all, shape.cols, pieces(all));
    workspace::bytes(parts).max(workspace::bytes(codes))
}

/// By element type.
const TILE: [module::Kernel; 3] = kernel!["gemm_tile_f32", "gemm_tile_f16", "gemm_tile_bf16"];
// By tokens of a block.
const DENSE_F16: [module::Kernel; 3] = kernel![
    "gemm_dense_f16_2_32",
    "gemm_dense_f16_2_64",
    "gemm_dense_f16_2_128"
];
const DENSE_BF16: [module::Kernel; 3] = kernel![
    "gemm_dense_bf16_3_32",
    "gemm_dense_bf16_3_64",
    "gemm_dense_bf16_3_128"
];
const FOUR_BIT: [module::Kernel; 2] = kernel!["gemm_four_bit_2_32", "gemm_four_bit_2_128"];
const INT8: [module::Kernel; 3] = kernel!["gemm_int8_32", "gemm_int8_64", "gemm_int8_128"];

/// Rows of activations at a time.
const CHUNK: usize = 512;

/// Bytes of a line that a block brings at a time, and how often it is ahead.
const STAGE_BYTES: usize = 64;
const STAGES: usize = 3;

/// Steps through the columns that a piece has at least.
const MIN_STEPS: usize = 8;

/// Multiprocessors that pieces are made for: the scratch memory is the same on all cards.
const MAX_MULTIPROCESSORS: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: Kernel = Kernel::Dense(Split::Bf16);

    #[test]
    fn blocks_are_as_high_as_there_are_tokens_and_keep_a_card_busy() {
        let cases = [
            (DENSE, 9, (4096, 14336), 32, 8),
            (DENSE, 33, (4096, 14336), 64, 8),
            (DENSE, 512, (4096, 14336), 128, 1),
            (DENSE, 65, (1024, 4096), 128, 16),
            (DENSE, 20, (128, 64), 32, 1),
            (Kernel::FourBit, 16, (14336, 4096), 32, 2),
            (Kernel::FourBit, 64, (4096, 14336), 128, 4),
            (Kernel::Tile(DType::F32), 9, (4096, 4096), 64, 4),
        ];
        for (kernel, n, size, tokens, n_pieces) in cases {
            let expected = Blocks { tokens, n_pieces };
            assert_eq!(
                kernel.blocks(n, size, 132),
                expected,
                "{kernel:?} {n} {size:?}"
            );
        }
    }

    #[test]
    fn scratch_memory_suffices_for_every_kernel() {
        for kernel in [
            DENSE,
            Kernel::Dense(Split::F16),
            Kernel::FourBit,
            Kernel::Tile(DType::F32),
            Kernel::Int8 { tiled: true },
            Kernel::Int8 { tiled: false },
        ] {
            for n_tokens in [9, 16, 17, 64, 65, 200, 512, 5000] {
                for rows in [1, 100, 1000, 5000, 150_000] {
                    for cols in [8, 100, 5000, 30_000] {
                        let n = match kernel {
                            Kernel::Int8 { .. } => n_tokens,
                            Kernel::Tile(_) | Kernel::Dense(_) | Kernel::FourBit => {
                                n_tokens.min(CHUNK)
                            }
                        };
                        let blocks = kernel.blocks(n, (rows, cols), 500);
                        let results = blocks.n_piece_results(n * rows, kernel);
                        let shape = WorkspaceShape {
                            n_tokens,
                            cols,
                            rows,
                            context: 1,
                            n_heads: 1,
                            n_kv_heads: 1,
                            head_dim: 1,
                        };
                        let needed = workspace::bytes(areas(kernel, n, cols, results));
                        assert!(needed <= scratch_bytes(&shape), "{kernel:?} {shape:?}");
                    }
                }
            }
        }
    }
}
