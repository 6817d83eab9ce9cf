//! Products of few rows of activations with weights in every scheme; what no fast kernel takes is left to [`general`].

use std::cell::Cell;

use bytemuck::{Pod, Zeroable};
use llm_backend::{LinearPart, OutColumns, Output, Result};
use llm_quant::{FourBit, Int8, Part, Scheme};
use llm_tensor::{DType, WorkspaceShape};

use super::gemm::{Many, code_areas};
use super::general::{self, element};
use super::packed;
use crate::choose::{self, CardShape, FourBitKind, FourBitLaunch, Product, RowsLaunch, Sharing};
use crate::memory::{NumRows, Span, bytes_of};
use crate::module::{Kernel, kernel};
use crate::{Buffer, Compute, Cuda, CudaQueue, CudaWeight, workspace};

/// Products with few rows: see [`choose::MAX_ROWS`].
pub(super) fn linear(
    queue: &CudaQueue,
    parts: &[LinearPart<'_, Cuda>],
    x: &Buffer,
    (output, columns, out): (Output, Option<OutColumns>, &mut Buffer),
    n: NumRows<'_>,
) -> Result<()> {
    let n_columns = parts.iter().map(|part| part.weight.rows()).sum();
    let OutColumns { mut first, width } = OutColumns::of(columns, n_columns);
    let out = out.first(n.0 * width);
    let mut left = parts;
    while let Some(part) = left.first() {
        let cols = part.weight.cols();
        let family = Family::of(part);
        let alike = |other: &&LinearPart<'_, Cuda>| {
            other.weight.cols() == cols && family.is_some() && Family::of(other) == family
        };
        let others = left[1..].iter().take(MAX_PARTS - 1);
        let n_alike = 1 + others.take_while(alike).count();
        let (together, others) = left.split_at(n_alike);
        let mut rows = [0; MAX_PARTS];
        for (rows, part) in rows.iter_mut().zip(together) {
            *rows = part.weight.rows();
        }
        let rows = &rows[..together.len()];
        let few = Few {
            queue,
            parts: together,
            product: Product { rows, cols, n: n.0 },
            x: x.first(n.0 * cols),
            n,
            output,
            out,
            columns: (width, first),
        };
        few.multiply(family)?;
        first += rows.iter().sum::<usize>();
        left = others;
    }
    Ok(())
}

/// Scratch memory of these products.
pub(super) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    let codes = workspace::bytes(code_areas(shape.n_tokens, shape.cols));
    let pieces = choose::piece_bytes(shape.n_tokens, shape.cols, shape.rows);
    let few = shape.n_tokens.min(choose::MAX_ROWS);
    let split = packed::split_areas(few, shape.cols, packed::SHORTEST_RUN);
    codes
        .max(workspace::bytes([pieces]))
        .max(workspace::bytes(split))
}

/// Kernels that a weight may be given to; weights of one family are multiplied in one launch.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    Dense(DType),
    Int8(Int8),
    PerUse(DType, Int8),
    FourBit(FourBit),
    /// A format of published files.
    Packed {
        scheme: Scheme,
        /// It, or its bias, lies as the slowest kernel alone takes it, or it has fewer rows than are worth a tile.
        is_any: bool,
    },
}

impl Family {
    /// `None` where a part lies at an address, or has a shape, that the fast kernels do not take.
    fn of(part: &LinearPart<'_, Cuda>) -> Option<Self> {
        let LinearPart { weight, bias } = part;
        let (rows, cols) = (weight.rows(), weight.cols());
        let lies = |part, border| weight.part(part).is_aligned(border);
        let bias_lies = bias.is_none_or(|bias| {
            let border = bias.dense().size() as u64;
            bias.part(Part::Weight).is_aligned(border)
        });
        if let Some(kernels) = packed::kernels(weight) {
            let is_any = !bias_lies || rows < 4 || !packed::takes(kernels, weight);
            let scheme = weight.scheme();
            return Some(Family::Packed { scheme, is_any });
        }
        if !bias_lies {
            return None;
        }
        match weight.scheme() {
            Scheme::Dense(dtype) => {
                let fits = rows >= 4 && (cols * dtype.size()).is_multiple_of(16);
                (fits && lies(Part::Weight, 16)).then_some(Family::Dense(dtype))
            }
            Scheme::Int8(format) => {
                let fits = rows >= choose::TILE_ROWS && cols.is_multiple_of(16);
                let lie = lies(Part::Weight, 16) && lies(Part::Scb, 4);
                (fits && lie && cols <= MAX_INT8_COLS).then_some(Family::Int8(format))
            }
            Scheme::Int8PerUse(dtype, format) => {
                let fits = cols.is_multiple_of(4) && cols <= MAX_INT8_COLS;
                let lie = lies(Part::Weight, dtype.size() as u64);
                (fits && lie).then_some(Family::PerUse(dtype, format))
            }
            Scheme::FourBit(format) => {
                let plain = lies(Part::Absmax, 4) && lies(Part::QuantMap, 4);
                let nested = [Part::NestedAbsmax, Part::NestedQuantMap, Part::NestedOffset];
                let nested = !format.double_quant || nested.into_iter().all(|part| lies(part, 4));
                let lie = lies(Part::Weight, 16) && plain && nested;
                (rows >= 4 && lie).then_some(Family::FourBit(format))
            }
            Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => {
                unreachable!("weights without kernels are not loaded")
            }
        }
    }
}

/// Weights of one family, and what they are multiplied with.
struct Few<'a> {
    queue: &'a CudaQueue,
    parts: &'a [LinearPart<'a, Cuda>],
    product: Product<'a>,
    /// `[n, cols]`.
    x: Span<'a>,
    n: NumRows<'a>,
    output: Output,
    /// `[n, width]`.
    out: Span<'a>,
    /// Width of a row of the result, and the first column of these weights.
    columns: (usize, usize),
}

impl Few<'_> {
    fn multiply(&self, family: Option<Family>) -> Result<()> {
        let card = CardShape::of(&self.queue.card.facts);
        let is_four_bit = matches!(family, Some(Family::FourBit(_)));
        match choose::by_tiles(card, self.n.0, is_four_bit) {
            true => self.by_tiles(family),
            false => self.by_rows(family),
        }
    }

    /// Many rows, but for weights that there are no tiles for.
    fn by_tiles(&self, family: Option<Family>) -> Result<()> {
        if let Some(Family::Int8(format)) = family {
            self.quantize(format)?;
        }
        let many = Many {
            queue: self.queue,
            x: self.x,
            output: self.output,
            out: self.out,
            width: self.columns.0,
            n: self.n,
            split: Cell::default(),
        };
        let (width, mut first) = self.columns;
        for (part, &rows) in self.parts.iter().zip(self.product.rows) {
            let are_codes_there = match part.weight.scheme() {
                Scheme::Int8(_) => family.is_some(),
                Scheme::Dense(_)
                | Scheme::Int8PerUse(..)
                | Scheme::FourBit(_)
                | Scheme::Ggml(_)
                | Scheme::Fp8(_)
                | Scheme::Grouped(_) => true,
            };
            if !are_codes_there || !many.multiply(part, first)? {
                let rows = [rows];
                let alone = Few {
                    parts: std::slice::from_ref(part),
                    product: Product {
                        rows: &rows,
                        ..self.product
                    },
                    columns: (width, first),
                    ..*self
                };
                alone.by_rows(family)?;
            }
            first += rows;
        }
        Ok(())
    }

    fn by_rows(&self, family: Option<Family>) -> Result<()> {
        let card = CardShape::of(&self.queue.card.facts);
        match family {
            Some(Family::Dense(dtype)) => {
                let launch = choose::dense(card, self.product, dtype.size());
                let kernel = DENSE[element(dtype) as usize][of(launch.n_at_once)];
                self.rows(kernel, launch, None)
            }
            Some(Family::Int8(format)) => {
                let codes = self.quantize(format)?;
                let launch = choose::int8(card, self.product);
                let kernel = match launch.by_tiles {
                    true => kernel!("int8_tiles_8"),
                    false => INT8_ROWS[of(launch.n_at_once)],
                };
                self.rows(kernel, launch, Some(codes))
            }
            Some(Family::PerUse(dtype, format)) => {
                let codes = self.quantize(format)?;
                let launch = self.queue.launch(PER_USE[element(dtype) as usize]);
                let launch = launch.structure(&self.weights()).structure(&self.shape());
                let grid = [self.product.rows.iter().sum(), self.n.0.div_ceil(8), 1];
                launch.structure(&codes).grid(grid).threads(256).run()
            }
            Some(Family::FourBit(format)) => {
                let kind = FourBitKind {
                    is_double: format.double_quant,
                    block_size: format.block_size.get(),
                };
                let compute = self.queue.card.compute;
                match choose::four_bit(card, self.product, kind, compute) {
                    Some(launch) => self.four_bit(kind, launch),
                    None => self.general(),
                }
            }
            Some(Family::Packed { is_any, .. }) => {
                let kernels = packed::kernels(self.parts[0].weight);
                let kernels = kernels.expect("a packed weight has kernels");
                if is_any {
                    let launch = choose::packed_any(card, self.product);
                    return self.rows(kernels.any, launch, None);
                }
                let kernel = kernels.rows[usize::from(self.product.n > 1)];
                let (launch, n_tiles) = choose::packed(card, self.product, kernel.n_warps());
                if self.product.n == 1 {
                    let queued = self.queue.launch(kernel).structure(&self.weights());
                    let queued = queued.structure(&self.shape()).int(launch.split);
                    let queued = queued.int(n_tiles).grid(launch.grid);
                    return queued.threads(launch.threads).run();
                }
                let (n, cols) = (self.n, self.product.cols);
                let areas = packed::split_areas(n.0, cols, kernels.run);
                let areas = self.queue.workspace.areas(areas);
                let x = packed::split(self.queue, self.x, n, 0, (cols, kernels.run), areas)?;
                let queued = self.queue.launch(kernel).structure(&self.weights());
                let queued = queued.structure(&self.shape()).structure(&x);
                let queued = queued.int(launch.split).grid(launch.grid);
                queued.threads(launch.threads).run()
            }
            None => self.general(),
        }
    }

    fn rows(&self, kernel: Kernel, choice: RowsLaunch, codes: Option<[u64; 3]>) -> Result<()> {
        let launch = self.queue.launch(kernel);
        let launch = launch.structure(&self.weights()).structure(&self.shape());
        let launch = match codes {
            Some(codes) => launch.structure(&codes),
            None => launch,
        };
        let launch = launch.int(choice.split).grid(choice.grid);
        launch.threads(choice.threads).run()
    }

    fn four_bit(&self, kind: FourBitKind, choice: FourBitLaunch) -> Result<()> {
        let double = usize::from(kind.is_double);
        let small = usize::from(kind.block_size == 32);
        let (kernel, sharing) = match choice.sharing {
            Sharing::Rows(split) => {
                let many = usize::from(choice.n_at_once > 1);
                (FOUR_BIT_ROWS[many][double], split)
            }
            Sharing::Teams(teams) => {
                let of = match choice.compute {
                    Compute::F32 => FOUR_BIT_TILES[usize::from(choice.n_at_once > 4)],
                    Compute::Half => FOUR_BIT_HALF,
                };
                (of[small][double], teams)
            }
        };
        let (weights, shape) = (self.weights(), self.shape());
        let n_pieces = choice.n_pieces(self.product);
        let [pieces] = self.queue.workspace.areas([bytes_of(n_pieces)]);
        let launch = self
            .queue
            .launch(kernel)
            .structure(&weights)
            .structure(&shape);
        let launch = launch
            .int(sharing)
            .int(choice.slices)
            .int(choice.slice_len)
            .pointer(pieces);
        let launch = launch.grid(choice.grid).threads(choice.threads);
        launch.shared(choice.shared).run()?;
        if choice.slices == 1 {
            return Ok(());
        }
        let launch = self
            .queue
            .launch(kernel!("four_bit_sum"))
            .structure(&weights);
        let launch = launch.structure(&shape).int(choice.slices).pointer(pieces);
        let n_rows: usize = self.product.rows.iter().sum();
        let grid = [n_rows.div_ceil(256), self.n.0, 1];
        launch.grid(grid).threads(256).run()
    }

    fn general(&self) -> Result<()> {
        let out = (self.output, self.out, self.columns);
        general::multiply(self.queue, self.parts, self.x, out, self.n)
    }

    /// Codes of the activations, their scales, and bits of outlier columns: `Codes` of `int8.cuh`.
    fn quantize(&self, format: Int8) -> Result<[u64; 3]> {
        let (n, bounds) = self.n;
        let cols = self.product.cols;
        let [codes, absmax, outliers] = self.queue.workspace.areas(code_areas(n, cols));
        let launch = self
            .queue
            .launch(kernel!("int8_quantize"))
            .pointer(self.x.aligned(16));
        let launch = launch.pointer_or_null(bounds).int(n).int(cols);
        let launch = launch.float(format.threshold).pointer(codes);
        let launch = launch.pointer(absmax).pointer(outliers);
        let grid = [cols.div_ceil(4096), n, 1];
        launch.grid(grid).threads(1024).run()?;
        if n > 1 {
            let launch = self
                .queue
                .launch(kernel!("int8_outliers"))
                .pointer_or_null(bounds);
            let launch = launch.int(n).int(cols).pointer(codes).pointer(outliers);
            let n_words = cols.div_ceil(32);
            launch
                .grid([n_words.div_ceil(256), 1, 1])
                .threads(256)
                .run()?;
        }
        Ok([codes.address(), absmax.address(), outliers.address()])
    }

    /// `Parts` of `product.cuh`.
    fn weights(&self) -> Weights {
        let mut weights = Weights::zeroed();
        let mut first = self.columns.1;
        for (words, part) in weights.parts.iter_mut().zip(self.parts) {
            *words = part_words(part, first);
            first += part.weight.rows();
        }
        weights.n_parts = number(self.parts.len());
        weights
    }

    /// `Rows` of `product.cuh`.
    fn shape(&self) -> Shape {
        let (n, bounds) = self.n;
        assert!(n * self.product.cols < 1 << 30, "{n} rows of activations");
        Shape {
            x: self.x.aligned(16).address(),
            out: self.out.address(),
            bounds: bounds.map_or(0, |bounds| bounds.address()),
            n: number(n),
            cols: number(self.product.cols),
            width: number(self.columns.0),
            adds: u32::from(self.output == Output::Add),
        }
    }
}

/// `Part` of `product.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PartWords {
    /// Elements, scales, map, the nested scales, their map and offset, and the bias.
    addresses: [u64; 7],
    rows: u32,
    first: u32,
    bias_type: u32,
    block_log2: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Weights {
    parts: [PartWords; MAX_PARTS],
    n_parts: u32,
    reserved: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Shape {
    x: u64,
    out: u64,
    bounds: u64,
    n: u32,
    cols: u32,
    width: u32,
    adds: u32,
}

fn part_words(part: &LinearPart<'_, Cuda>, first: usize) -> PartWords {
    let LinearPart { weight, bias } = part;
    if let Some(bias) = bias {
        assert_eq!(bias.cols(), weight.rows(), "a bias for every output");
    }
    let ([a, b, c, d, e, f], block_size) = general::addresses(weight);
    let of_bias = bias.map_or(0, |bias| bias.part(Part::Weight).address());
    let addresses = [a, b, c, d, e, f, of_bias];
    PartWords {
        addresses,
        rows: number(weight.rows()),
        first: number(first),
        bias_type: bias.map_or(0, |bias: &CudaWeight| element(bias.dense())),
        block_log2: block_size.ilog2(),
    }
}

/// Place of the kernel for so many rows of activations, of those for 1, 2, 4 and 8.
fn of(n_at_once: usize) -> usize {
    n_at_once.ilog2() as usize
}

fn number(n: usize) -> u32 {
    assert!(i32::try_from(n).is_ok(), "{n} is not below 2^31");
    n as u32
}

/// By element type, and by rows of activations.
const DENSE: [[Kernel; 4]; 3] = [
    kernel!["dense_f32_1", "dense_f32_2", "dense_f32_4", "dense_f32_8"],
    kernel!["dense_f16_1", "dense_f16_2", "dense_f16_4", "dense_f16_8"],
    kernel![
        "dense_bf16_1",
        "dense_bf16_2",
        "dense_bf16_4",
        "dense_bf16_8"
    ],
];
/// By rows of activations.
const INT8_ROWS: [Kernel; 4] = kernel!["int8_rows_1", "int8_rows_2", "int8_rows_4", "int8_rows_8"];
/// By element type.
const PER_USE: [Kernel; 3] = kernel!["int8_per_use_f32", "int8_per_use_f16", "int8_per_use_bf16"];
/// For 1 and for 4 rows of activations, scales plain and quantized themselves.
const FOUR_BIT_ROWS: [[Kernel; 2]; 2] = [
    kernel!["four_bit_rows_1", "four_bit_rows_1_double"],
    kernel!["four_bit_rows_4", "four_bit_rows_4_double"],
];
/// For 4 and for 8 rows, blocks of 64 and more and of 32, scales plain and quantized themselves.
const FOUR_BIT_TILES: [[[Kernel; 2]; 2]; 2] = [
    [
        kernel!["four_bit_4", "four_bit_4_double"],
        kernel!["four_bit_4_32", "four_bit_4_double_32"],
    ],
    [
        kernel!["four_bit_8", "four_bit_8_double"],
        kernel!["four_bit_8_32", "four_bit_8_double_32"],
    ],
];

/// The same for 8 rows that are rounded to 16 bits.
const FOUR_BIT_HALF: [[Kernel; 2]; 2] = [
    kernel!["four_bit_half_8", "four_bit_half_8_double"],
    kernel!["four_bit_half_8_32", "four_bit_half_8_double_32"],
];

/// Weights of a launch.
const MAX_PARTS: usize = 4;
/// Columns whose products of codes have a sum within 31 bits.
const MAX_INT8_COLS: usize = 131_072;
