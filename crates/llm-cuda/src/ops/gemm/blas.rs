//! Products with many rows of activations by cuBLAS.

use llm_backend::{LinearPart, Output, Result};
use llm_quant::Part;
use llm_tensor::DType;

use super::scratch::padded;
use super::tiles::{Form, Split, Tiles};
use super::{Chunk, Many, four_bit};
use crate::choose::{ManyKind, ManyRows, blas_pays};
use crate::driver::Gemm;
use crate::memory::{Span, bytes_of};
use crate::module::kernel;
use crate::ops::general::element;
use crate::ops::packed;
use crate::{Compute, Cuda, workspace};

/// Form in which cuBLAS gets the factors.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Factors {
    /// f32 as they lie.
    Plain,
    /// Activations split into 16-bit parts, the weight as it lies.
    Split(Split),
    /// Both in two bf16 parts, the weight from 4-bit codes.
    Decoded,
    /// The same, from a format of published files.
    Unpacked,
}

/// A product that is put together.
struct ByBlas<'a> {
    many: &'a Many<'a>,
    part: &'a LinearPart<'a, Cuda>,
    /// The first column of the results.
    first: usize,
    rows: Chunk,
    /// `[n, cols]`.
    x: Span<'a>,
    /// `[n, width]`.
    out: Span<'a>,
}

impl<'a> Many<'a> {
    /// Multiplies some rows by cuBLAS; false where tiles are faster, or there is no memory for it.
    pub(super) fn by_blas(
        &self,
        tiles: Tiles,
        part: &LinearPart<'_, Cuda>,
        first: usize,
        rows: Chunk,
    ) -> Result<bool> {
        // Rows that only the GPU knows the number of are for its kernels alone.
        if self.n.1.is_some() || !self.queue.has_blas() {
            return Ok(false);
        }
        let card = &self.queue.card;
        let of_card = (card.facts.compute_capability, card.compute);
        let weight = part.weight;
        let lies = weight.cols().is_multiple_of(8) && weight.part(Part::Weight).is_aligned(16);
        let Some(factors) = Factors::of(tiles, lies, of_card) else {
            return Ok(false);
        };
        let (width, cols) = (self.width, part.weight.cols());
        let product = ManyRows {
            n: rows.n,
            rows: part.weight.rows(),
            cols,
            kind: factors.kind(),
        };
        if !blas_pays(product) {
            return Ok(false);
        }
        let lines = |of: Span<'a>, width: usize| {
            of.part(bytes_of(rows.skip * width)..bytes_of((rows.skip + rows.n) * width))
        };
        let by_blas = ByBlas {
            many: self,
            part,
            first,
            rows,
            x: lines(self.x, cols),
            out: lines(self.out, width),
        };
        match factors {
            Factors::Plain => by_blas.plain(),
            Factors::Split(split) if split.form == Form::Bf16 => by_blas.parts(split),
            Factors::Split(split) => by_blas.scaled_parts(split),
            Factors::Decoded | Factors::Unpacked => by_blas.decoded(),
        }
    }
}

impl Factors {
    /// `None` where only tiles multiply: 8-bit codes by integers, what is rounded to f16 value by value, and bf16 on cards before
    /// 8.0. Weights of f16 must `lie` so that they are read in whole vectors.
    fn of(tiles: Tiles, lies: bool, (capability, compute): ((u32, u32), Compute)) -> Option<Self> {
        match tiles {
            Tiles::Plain(DType::F32) => Some(Factors::Plain),
            // Cards before 8.0: their tensor cores take f16.
            Tiles::Plain(DType::F16) if lies => Some(Factors::Split(Split {
                form: Form::F16,
                compute,
            })),
            Tiles::Plain(_) => None,
            Tiles::Dense(split) => Some(Factors::Split(split)),
            Tiles::FourBit(Compute::F32) if capability >= (8, 0) => Some(Factors::Decoded),
            Tiles::Packed(_) if capability >= (8, 0) => Some(Factors::Unpacked),
            Tiles::FourBit(_) | Tiles::Packed(_) | Tiles::Int8 { .. } => None,
        }
    }

    fn kind(self) -> ManyKind {
        match self {
            Factors::Plain => ManyKind::Plain,
            Factors::Split(split) => ManyKind::Split {
                n: split.n_parts(),
                at_once: split.form != Form::Bf16,
            },
            Factors::Decoded => ManyKind::Decoded,
            Factors::Unpacked => ManyKind::Unpacked,
        }
    }
}

impl ByBlas<'_> {
    fn plain(&self) -> Result<bool> {
        let (rows, cols) = self.size();
        let weight = self.part.weight.part(Part::Weight).address();
        let adds = self.many.output == Output::Add;
        let gemm = self.gemm(DType::F32, (self.x.address(), cols), (weight, cols), adds);
        if !self.many.queue.multiply(&gemm, true)? {
            return Ok(false);
        }
        self.bias(rows)?;
        Ok(true)
    }

    /// One product for each part, added up in the result.
    fn parts(&self, split: Split) -> Result<bool> {
        let (rows, cols) = self.size();
        let [parts, scales] = self.many.queue.workspace.areas(self.areas(split));
        self.split(split, parts, scales)?;
        let weight = self.part.weight.part(Part::Weight).address();
        let stride = self.rows.n * padded(cols) * 2;
        for i in 0..split.n_parts() {
            let adds = i > 0 || self.many.output == Output::Add;
            let x = (parts.address() + (i * stride) as u64, padded(cols));
            let gemm = self.gemm(DType::BF16, x, (weight, cols), adds);
            if !self.many.queue.multiply(&gemm, i == 0)? {
                return Ok(false);
            }
        }
        self.bias(rows)?;
        Ok(true)
    }

    /// All parts side by side into scratch memory, a tile of the weight at a time; then summed, scaled and brought to the result.
    fn scaled_parts(&self, split: Split) -> Result<bool> {
        let (rows, cols) = self.size();
        let (queue, n, n_parts) = (self.many.queue, self.rows.n, split.n_parts());
        let before = self.areas(split);
        let line = n_parts * bytes_of(n);
        let Some(tile) = self.tile(before, line) else {
            return Ok(false);
        };
        let [parts, scales, pieces] = queue.workspace.areas([before[0], before[1], tile * line]);
        self.split(split, parts, scales)?;
        let weight = self.part.weight.part(Part::Weight);
        for r in (0..rows).step_by(tile) {
            let n_rows = (rows - r).min(tile);
            let gemm = Gemm {
                n: n_parts * n,
                rows: n_rows,
                cols,
                dtype: DType::F16,
                x: (parts.address(), padded(cols)),
                weight: (weight.address() + (r * cols * 2) as u64, cols),
                out: (pieces.address(), n_rows),
                adds: false,
            };
            if !queue.multiply(&gemm, r == 0)? {
                return Ok(false);
            }
            let adds = self.many.output == Output::Add;
            self.join((pieces, n_parts), Some(scales), r..r + n_rows, adds)?;
        }
        Ok(true)
    }

    /// A tile of the weight decoded at a time. What both second parts make is left out: 2^-16 of the result.
    fn decoded(&self) -> Result<bool> {
        let (rows, cols) = self.size();
        let (queue, n) = (self.many.queue, self.rows.n);
        let split = Split {
            form: Form::Bf16,
            compute: Compute::Half,
        };
        let before = self.areas(split);
        let line = 2 * 2 * cols;
        let Some(tile) = self.tile(before, line) else {
            return Ok(false);
        };
        let [parts, scales, values] = queue.workspace.areas([before[0], before[1], tile * line]);
        self.split(split, parts, scales)?;
        let x = |part: usize| {
            (
                parts.address() + (part * n * padded(cols) * 2) as u64,
                padded(cols),
            )
        };
        for r in (0..rows).step_by(tile) {
            let n_rows = (rows - r).min(tile);
            let n_values = n_rows * cols;
            self.decode(r, n_values, values)?;
            let weight = |part: usize| (values.address() + (part * n_values * 2) as u64, cols);
            for (i, (x_part, weight_part)) in [(0, 0), (1, 0), (0, 1)].into_iter().enumerate() {
                let adds = i > 0 || self.many.output == Output::Add;
                let gemm = self.gemm(DType::BF16, x(x_part), weight(weight_part), adds);
                let out = gemm.out.0 + bytes_of(r) as u64;
                let gemm = Gemm {
                    rows: n_rows,
                    out: (out, gemm.out.1),
                    ..gemm
                };
                if !queue.multiply(&gemm, r == 0 && i == 0)? {
                    return Ok(false);
                }
            }
        }
        self.bias(rows)?;
        Ok(true)
    }

    /// Values of the weight from a row on, as two bf16 parts one after the other.
    fn decode(&self, row: usize, n_values: usize, values: Span<'_>) -> Result<()> {
        let (queue, weight) = (self.many.queue, self.part.weight);
        let (launch, of_block) = match packed::kernels(weight) {
            Some(kernels) => {
                let launch = packed::told(queue.launch(kernels.parts), weight);
                (launch.int(weight.cols()).int(row), 1024)
            }
            None => {
                let launch = queue.launch(kernel!("blas_weight"));
                let launch = launch.structure(&four_bit(weight));
                (launch.long(row * weight.cols()), 2048)
            }
        };
        let launch = launch.int(n_values).pointer(values);
        let launch = launch.grid([n_values.div_ceil(of_block), 1, 1]);
        launch.threads(256).run()
    }

    /// Rows and columns of the weight.
    fn size(&self) -> (usize, usize) {
        (self.part.weight.rows(), self.part.weight.cols())
    }

    /// Rows of the weight in a tile that takes `line` bytes a row of the scratch memory behind two areas: all, or many.
    fn tile(&self, before: [usize; 2], line: usize) -> Option<usize> {
        let (rows, cols) = self.size();
        let left = self.many.queue.workspace.n_bytes();
        let fits = left.checked_sub(workspace::bytes(before))? / line;
        if fits >= rows {
            return Some(rows);
        }
        let fits = fits / TILE_STEP * TILE_STEP;
        (fits * cols >= TILE_ELEMENTS).then_some(fits)
    }

    /// Bytes of the parts of the activations, and of their scales.
    fn areas(&self, split: Split) -> [usize; 2] {
        let n = self.rows.n;
        let cols = padded(self.part.weight.cols());
        [split.n_parts() * n * cols * 2, bytes_of(n)]
    }

    /// Splits the activations, unless they lie there so.
    fn split(&self, split: Split, parts: Span<'_>, scales: Span<'_>) -> Result<()> {
        let (rows, _) = self.size();
        if self.many.split.take() != Some(split) {
            let launch = self.many.queue.launch(split.kernel()).pointer(self.x);
            let launch = launch.pointer(parts).pointer(scales).int(0);
            let launch = launch.structure(&self.shape(0..rows, false));
            launch.grid([self.rows.n, 1, 1]).threads(256).run()?;
        }
        if self.rows.n == self.many.n.0 {
            self.many.split.set(Some(split));
        }
        Ok(())
    }

    /// A product with the whole weight, into the result.
    fn gemm(&self, dtype: DType, x: (u64, usize), weight: (u64, usize), adds: bool) -> Gemm {
        let (rows, cols) = self.size();
        let out = self.out.address() + bytes_of(self.first) as u64;
        Gemm {
            n: self.rows.n,
            rows,
            cols,
            dtype,
            x,
            weight,
            out: (out, self.many.width),
            adds,
        }
    }

    /// Adds the bias to results that are there.
    fn bias(&self, rows: usize) -> Result<()> {
        match self.part.bias {
            Some(_) => self.join((self.x, 0), None, 0..rows, true),
            None => Ok(()),
        }
    }

    fn join(
        &self,
        (pieces, n_pieces): (Span<'_>, usize),
        scales: Option<Span<'_>>,
        rows: std::ops::Range<usize>,
        adds: bool,
    ) -> Result<()> {
        let bias = self.part.bias.map(|bias| {
            let size = bias.dense().size();
            bias.part(Part::Weight)
                .part(rows.start * size..rows.end * size)
        });
        let launch = self.many.queue.launch(kernel!("blas_join"));
        let launch = launch.pointer(pieces).pointer_or_null(scales);
        let launch = launch.pointer_or_null(bias).pointer(self.out).int(n_pieces);
        let n_results = self.rows.n * rows.len();
        let launch = launch.structure(&self.shape(rows, adds));
        launch
            .grid([n_results.div_ceil(256), 1, 1])
            .threads(256)
            .run()
    }

    /// `GemmShape` of `gemm.cuh`, for some rows of the weight.
    fn shape(&self, rows: std::ops::Range<usize>, adds: bool) -> [u64; 6] {
        let cols = self.part.weight.cols();
        let bias = self
            .part
            .bias
            .map_or(0, |bias| element(bias.dense()) as usize);
        let pair = super::pair;
        [
            0,
            pair(self.rows.n, rows.len()),
            pair(cols, self.many.width),
            pair(self.first + rows.start, usize::from(adds)),
            pair(bias, padded(cols)),
            0,
        ]
    }
}

/// Rows of which tiles are multiples.
const TILE_STEP: usize = 128;
/// Elements of a weight that keep a card busy.
const TILE_ELEMENTS: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_get_what_their_tensor_cores_take() {
        let (old, new) = ((7, 5), (8, 0));
        let f16 = Factors::Split(Split {
            form: Form::F16,
            compute: Compute::F32,
        });
        let cases = [
            (Tiles::Plain(DType::F32), true, old, Some(Factors::Plain)),
            (Tiles::Plain(DType::F16), true, old, Some(f16)),
            (Tiles::Plain(DType::F16), false, old, None),
            (Tiles::Plain(DType::BF16), true, old, None),
            (Tiles::FourBit(Compute::F32), true, old, None),
            (
                Tiles::FourBit(Compute::F32),
                true,
                new,
                Some(Factors::Decoded),
            ),
            (Tiles::FourBit(Compute::Half), true, new, None),
            (Tiles::Int8 { tiled: true }, true, new, None),
        ];
        for (tiles, lies, capability, factors) in cases {
            let found = Factors::of(tiles, lies, (capability, Compute::F32));
            assert_eq!(found, factors, "{tiles:?} {capability:?}");
        }
    }
}
