//! Products with many rows of activations, in tiles: their launches.

mod blas;
mod scratch;
mod tiles;

pub(super) use scratch::{code_areas, scratch_bytes};

use std::cell::Cell;

use llm_backend::{LinearPart, Output, Result};
use llm_quant::{Part, Scheme};

use self::scratch::{CHUNK, areas, padded};
use self::tiles::{Form, PackedTiles, Split, Tiles};
use super::general::element;
use super::packed;
use crate::memory::{NumRows, Span, bytes_of};
use crate::module::kernel;
use crate::{Cuda, CudaQueue, CudaWeight};

/// Rows of activations that weights are multiplied with, and the place of the results.
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
    /// Form that the rows lie split in, at the start of the scratch memory: weights that follow each other share it.
    pub(super) split: Cell<Option<Split>>,
}

impl Many<'_> {
    /// Multiplies by the weight of a part, its results from column `first` on; false where there is no kernel for it. Where
    /// the weight is of 8-bit codes, those of the activations lie at the start of the scratch memory ([`code_areas`]).
    pub(super) fn multiply(&self, part: &LinearPart<'_, Cuda>, first: usize) -> Result<bool> {
        let card = &self.queue.card;
        let Some(tiles) = Tiles::of(part, card.facts.compute_capability, card.compute) else {
            self.split.set(None);
            return Ok(false);
        };
        if let Some(bias) = part.bias {
            assert_eq!(bias.cols(), part.weight.rows(), "a bias for every output");
        }
        match tiles {
            Tiles::Int8 { .. } => {
                let all = Chunk {
                    skip: 0,
                    n: self.n.0,
                };
                self.chunk(tiles, part, first, all)?;
            }
            Tiles::Plain(_) | Tiles::Packed(_) | Tiles::Dense(_) | Tiles::FourBit(_) => {
                for skip in (0..self.n.0).step_by(CHUNK) {
                    let n = (self.n.0 - skip).min(CHUNK);
                    let rows = Chunk { skip, n };
                    let is_done = self.by_blas(tiles, part, first, rows)?;
                    if !is_done {
                        self.chunk(tiles, part, first, rows)?;
                    }
                    self.queue.card.products.count(n, is_done);
                }
            }
        }
        Ok(true)
    }

    fn chunk(
        &self,
        tiles: Tiles,
        part: &LinearPart<'_, Cuda>,
        first: usize,
        rows: Chunk,
    ) -> Result<()> {
        let (weight, queue) = (part.weight, self.queue);
        let n_multiprocessors = queue.card.facts.n_multiprocessors as usize;
        let size = (weight.rows(), weight.cols());
        let blocks = tiles.blocks(rows.n, size, n_multiprocessors);
        let shape = self.shape(part, first, rows);
        let x = self
            .x
            .part(bytes_of(rows.skip * size.1)..bytes_of((rows.skip + rows.n) * size.1));
        let out = bytes_of(rows.skip * self.width)..bytes_of((rows.skip + rows.n) * self.width);
        let out = self.out.part(out);
        let bias = part.bias.map(|bias| bias.part(Part::Weight));
        let areas = areas(
            tiles,
            rows.n,
            size.1,
            blocks.n_piece_results(rows.n * size.0, tiles),
        );
        let [parts, scales, outliers, sums, pieces] = queue.workspace.areas(areas);
        let pieces = (blocks.n_pieces > 1).then_some(pieces);

        let before = self.split.take();
        if let Some(split) = tiles.split().filter(|&split| before != Some(split)) {
            let launch = queue.launch(split.kernel()).pointer(x).pointer(parts);
            let launch = launch.pointer(scales);
            let launch = launch.int(usize::from(split.form == Form::F16OfCodes));
            let launch = launch.structure(&shape).grid([rows.n, 1, 1]);
            launch.threads(256).run()?;
        }
        if rows.n == self.n.0 {
            self.split.set(tiles.split());
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
        let launch = queue.launch(tiles.kernel(blocks.tokens));
        let launch = match tiles {
            Tiles::Plain(_) => launch.pointer(x).pointer(weight.part(Part::Weight)),
            Tiles::Packed(PackedTiles { run, .. }) => {
                let of_rows = (rows.n, self.n.1);
                let areas = [parts, sums, scales];
                let x = packed::split(queue, x, of_rows, rows.skip, (size.1, run), areas)?;
                packed::told(launch.structure(&x), weight)
            }
            Tiles::Dense(split) => {
                let scales = (split.form != Form::Bf16).then_some(scales);
                let launch = launch.pointer(parts).pointer_or_null(scales);
                launch.pointer(weight.part(Part::Weight))
            }
            Tiles::FourBit(_) => {
                let launch = launch.pointer(parts).pointer(scales);
                launch.structure(&four_bit(weight))
            }
            Tiles::Int8 { .. } => launch.structure(&int8()),
        };
        let launch = launch.pointer_or_null(bias).pointer(out);
        let launch = match tiles {
            Tiles::Int8 { tiled: false } => launch,
            Tiles::Plain(_)
            | Tiles::Packed(_)
            | Tiles::Dense(_)
            | Tiles::FourBit(_)
            | Tiles::Int8 { tiled: true } => launch.pointer_or_null(pieces),
        };
        let grid = [
            size.0.div_ceil(tiles.block_rows()),
            rows.n.div_ceil(blocks.tokens),
            blocks.n_pieces,
        ];
        let launch = launch.structure(&shape).shared(tiles.shared(blocks.tokens));
        launch.grid(grid).threads(tiles.threads()).run()?;
        let Some(pieces) = pieces else { return Ok(()) };
        let join = match tiles {
            Tiles::Int8 { .. } => {
                let join = queue.launch(kernel!("gemm_join_int8")).pointer(pieces);
                join.structure(&int8())
            }
            Tiles::Plain(_) | Tiles::Packed(_) | Tiles::Dense(_) | Tiles::FourBit(_) => {
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

/// Rows that are multiplied at once: what their parts take is bounded.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    skip: usize,
    n: usize,
}

/// `FourBit` of `gemm_four_bit.cuh`.
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
