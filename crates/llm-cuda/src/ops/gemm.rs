//! Products with many rows of activations, in tiles: which kernel for which weight and card, and its launches.

use llm_backend::{LinearPart, Output, Result};
use llm_quant::{Part, Scheme};
use llm_tensor::{DType, WorkspaceShape};

use super::general::{NumRows, element};
use crate::memory::{Span, bytes_of};
use crate::{Buffer, Cuda, CudaQueue, CudaWeight, workspace};

/// Rows of activations from which on tiles are worth it.
pub(super) const MANY: usize = 9;

/// A product with many rows of activations that goes through weights one after the other.
pub(super) struct Products<'a> {
    queue: &'a CudaQueue,
    x: &'a Buffer,
    out: &'a Buffer,
    output: Output,
    /// Elements of a row of the result.
    width: usize,
    /// Rows, and the two numbers on the GPU whose distance they are at most.
    n: NumRows<'a>,
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

impl<'a> Products<'a> {
    pub(super) fn new(
        queue: &'a CudaQueue,
        x: &'a Buffer,
        (output, out): (Output, &'a Buffer),
        width: usize,
        n: NumRows<'a>,
    ) -> Self {
        Products {
            queue,
            x,
            out,
            output,
            width,
            n,
        }
    }

    /// Multiplies by the weight of a part, its results from column `first` on; false where there is no kernel for it.
    pub(super) fn part(&self, part: &LinearPart<'_, Cuda>, first: usize) -> Result<bool> {
        let capability = self.queue.card.facts.compute_capability;
        let Some(kernel) = kernel(part.weight, capability) else {
            return Ok(false);
        };
        if let Some(bias) = part.bias {
            assert_eq!(bias.cols(), part.weight.rows(), "a bias for every output");
        }
        for skip in (0..self.n.0).step_by(CHUNK) {
            let rows = Chunk {
                skip,
                n: (self.n.0 - skip).min(CHUNK),
            };
            self.chunk(kernel, part, first, rows)?;
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
        let weight = part.weight;
        let n_multiprocessors = self.queue.card.facts.n_multiprocessors as usize;
        let blocks = kernel.blocks(rows.n, (weight.rows(), weight.cols()), n_multiprocessors);
        let shape = self.shape(part, first, rows);
        let n_results = rows.n * weight.rows();
        let n_pieces = if blocks.n_pieces > 1 { blocks.n_pieces * n_results } else { 0 };
        let areas = areas(kernel, rows.n, weight.cols(), n_pieces);
        let [parts, scales, pieces] = self.queue.workspace.areas(areas);
        let pieces = (blocks.n_pieces > 1).then_some(pieces);
        let x = self.x.first((rows.skip + rows.n) * weight.cols());
        let x = x.part(bytes_of(rows.skip * weight.cols())..x.n_bytes());
        let out = self.out.first((rows.skip + rows.n) * self.width);
        let out = out.part(bytes_of(rows.skip * self.width)..out.n_bytes());
        let bias = part.bias.map(|bias| bias.part(Part::Weight));
        let bias = bias.map(|span| span.aligned(part.bias.map_or(1, |bias| bias.dense().size() as u64)));

        if let Some(split) = kernel.split() {
            let launch = self.queue.launch(split.kernel()).pointer(x).pointer(parts);
            let launch = launch.pointer(scales);
            let launch = launch.int(usize::from(split == Split::F16OfCodes));
            launch.structure(&shape).grid([rows.n, 1, 1]).threads(256).run()?;
        }
        let launch = self.queue.launch(&kernel.name(blocks.tokens));
        let launch = match kernel {
            Kernel::Tile(_) => launch.pointer(x).pointer(weight.part(Part::Weight)),
            Kernel::Dense(_) => {
                let launch = launch.pointer(parts).pointer(scales);
                launch.pointer(weight.part(Part::Weight))
            }
            Kernel::FourBit => {
                let launch = launch.pointer(parts).pointer(scales);
                launch.structure(&four_bit(weight))
            }
        };
        let launch = launch.pointer_or_null(bias).pointer(out);
        let launch = launch.pointer_or_null(pieces).structure(&shape);
        let grid = [
            weight.rows().div_ceil(kernel.block_rows()),
            rows.n.div_ceil(blocks.tokens),
            blocks.n_pieces,
        ];
        let launch = launch.shared(kernel.shared(blocks.tokens));
        launch.grid(grid).threads(256).run()?;
        let Some(pieces) = pieces else { return Ok(()) };
        let join = self.queue.launch("gemm_join").pointer(pieces);
        let join = join.pointer_or_null(bias).pointer(out);
        let join = join.int(blocks.n_pieces).structure(&shape);
        join.grid([n_results.div_ceil(256), 1, 1]).threads(256).run()
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

/// Rows that are multiplied at once: what their parts take is bounded.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    skip: usize,
    n: usize,
}

impl Kernel {
    fn split(self) -> Option<Split> {
        match self {
            Kernel::Tile(_) => None,
            Kernel::Dense(split) => Some(split),
            Kernel::FourBit => Some(Split::F16OfCodes),
        }
    }

    fn name(self, tokens: usize) -> String {
        match self {
            Kernel::Tile(dtype) => format!("gemm_tile_{}", suffix(dtype)),
            Kernel::Dense(Split::Bf16) => format!("gemm_dense_bf16_3_{tokens}"),
            Kernel::Dense(Split::F16 | Split::F16OfCodes) => format!("gemm_dense_f16_2_{tokens}"),
            Kernel::FourBit => format!("gemm_four_bit_2_{tokens}"),
        }
    }

    /// Rows of the weight that a block multiplies by.
    fn block_rows(self) -> usize {
        match self {
            Kernel::Tile(_) => 64,
            Kernel::Dense(_) | Kernel::FourBit => 128,
        }
    }

    /// Bytes of shared memory that a launch adds.
    fn shared(self, tokens: usize) -> usize {
        let x = self.split().map_or(0, |split| split.n_parts() * tokens * STAGE_BYTES);
        let weight = match self {
            Kernel::Tile(_) => return 0,
            Kernel::Dense(_) => self.block_rows() * STAGE_BYTES,
            Kernel::FourBit => self.block_rows() * (16 + size_of::<f32>()),
        };
        STAGES * (x + weight)
    }

    /// For `n` tokens and a weight `[rows, cols]`.
    fn blocks(self, n: usize, (rows, cols): (usize, usize), n_multiprocessors: usize) -> Blocks {
        let (tokens, step) = match self {
            Kernel::Tile(_) => (64, 16),
            Kernel::Dense(_) | Kernel::FourBit => {
                let tokens = [16, 32, 64].into_iter().find(|&tokens| n <= tokens);
                (tokens.unwrap_or(128), 32)
            }
        };
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
    fn kernel(self) -> &'static str {
        match self {
            Split::F16 | Split::F16OfCodes => "gemm_split_f16_2",
            Split::Bf16 => "gemm_split_bf16_3",
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
fn kernel(weight: &CudaWeight, capability: (u32, u32)) -> Option<Kernel> {
    let at = |part| weight.part(part);
    let (cols, tensor_cores) = (weight.cols(), capability >= (8, 0));
    match weight.scheme() {
        Scheme::Dense(dtype) => {
            let elements = at(Part::Weight);
            let split = match dtype {
                DType::F16 => Some(Split::F16),
                DType::BF16 => Some(Split::Bf16),
                _ => None,
            };
            let tiled = tensor_cores && cols.is_multiple_of(8) && elements.is_aligned(16);
            match split.filter(|_| tiled) {
                Some(split) => Some(Kernel::Dense(split)),
                None => elements.is_aligned(dtype.size() as u64).then_some(Kernel::Tile(dtype)),
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
        Scheme::Int8(_) | Scheme::Int8PerUse(..) | Scheme::Ggml(_) | Scheme::Fp8(_) => None,
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

fn suffix(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        other => unreachable!("weights of {other}"),
    }
}

/// Columns with the zeros behind them.
fn padded(cols: usize) -> usize {
    cols.next_multiple_of(32)
}

/// Bytes of the parts of `n` rows, of their scales, and of pieces of results.
fn areas(kernel: Kernel, n: usize, cols: usize, n_pieces: usize) -> [usize; 3] {
    let n_parts = kernel.split().map_or(0, Split::n_parts);
    [
        n_parts * n * padded(cols) * 2,
        bytes_of(n),
        bytes_of(n_pieces),
    ]
}

/// Bytes that suffice for every product within `shape`, on any card.
pub(super) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    if shape.n_tokens < MANY {
        return 0;
    }
    let n = shape.n_tokens.min(CHUNK);
    // There are pieces while blocks are fewer than wanted; then their results are fewer than those blocks have.
    let most = 2 * MAX_MULTIPROCESSORS * 64 * 128;
    let pieces = shape.cols.div_ceil(16 * MIN_STEPS) * n * shape.rows;
    workspace::bytes(areas(
        Kernel::Dense(Split::Bf16),
        n,
        shape.cols,
        pieces.min(most),
    ))
}

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
            (DENSE, 9, (4096, 14336), 16, 8),
            (DENSE, 33, (4096, 14336), 64, 8),
            (DENSE, 512, (4096, 14336), 128, 1),
            (DENSE, 65, (1024, 4096), 128, 16),
            (DENSE, 20, (128, 64), 32, 1),
            (Kernel::FourBit, 16, (14336, 4096), 16, 2),
            (Kernel::Tile(DType::F32), 9, (4096, 4096), 64, 4),
        ];
        for (kernel, n, size, tokens, n_pieces) in cases {
            let expected = Blocks { tokens, n_pieces };
            assert_eq!(kernel.blocks(n, size, 132), expected, "{kernel:?} {n} {size:?}");
        }
    }

    #[test]
    fn scratch_memory_suffices_for_every_kernel() {
        for kernel in [
            DENSE,
            Kernel::Dense(Split::F16),
            Kernel::FourBit,
            Kernel::Tile(DType::F32),
        ] {
            for n_tokens in [9, 16, 17, 64, 65, 200, 512, 5000] {
                for rows in [1, 100, 1000, 5000, 150_000] {
                    for cols in [8, 100, 5000, 30_000] {
                        let n = n_tokens.min(CHUNK);
                        let n_pieces = kernel.blocks(n, (rows, cols), 500).n_pieces;
                        let results = if n_pieces > 1 { n_pieces * n * rows } else { 0 };
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
