use std::ops::Range;

use llm_backend::Output;
use llm_quant::{Activations, GgmlType, Int8, Int8Weight, Scheme, StoredWeight, Weight4Bit};

use crate::dense::{Dense, DenseView};
use crate::digits::Digits;
use crate::four_bit::FourBitView;
use crate::matvec::{GEMM_TOKENS, GEMM_TOKENS_4BIT};
use crate::packed::{Packed, PackedView};
use crate::simd::Order;
use crate::simd::{FourBit, Kernel, Simd};

/// A weight where it was found: the bytes stay in the file's mapping or in the heap, in their encoding and alignment.
#[derive(Debug, Clone)]
pub struct Weight(pub(crate) Operand);

/// The parts of a weight as its products take them: looked up once, when it is loaded.
#[derive(Debug, Clone)]
pub(crate) enum Operand {
    Dense(Dense),
    FourBit(Weight4Bit),
    Int8(Int8Weight),
    /// Encoded at each use.
    Int8PerUse(Dense, Int8),
    Packed(Packed),
    /// Of a type whose codes are multiplied as whole numbers: with activations of one digit, or with few of three.
    Whole(Digits, GgmlType, Packed),
}

impl Operand {
    /// `None` for a scheme that is not computed with.
    ///
    /// # Panics
    /// When a part has not as many bytes as the scheme gives it.
    pub(crate) fn of(weight: &StoredWeight, activations: Activations) -> Option<Self> {
        match weight.scheme {
            Scheme::Ggml(ty) => {
                let packed = Packed::of(weight)?;
                Some(match Digits::of(activations, ty) {
                    Some(digits) => Operand::Whole(digits, ty, packed),
                    None => Operand::Packed(packed),
                })
            }
            Scheme::Dense(dtype) => Dense::of(weight, dtype).map(Operand::Dense),
            Scheme::FourBit(_) => Weight4Bit::of(weight).map(Operand::FourBit),
            Scheme::Int8(_) => Int8Weight::of(weight).map(Operand::Int8),
            Scheme::Int8PerUse(dtype, format) => {
                let dense = Dense::of(weight, dtype)?;
                Some(Operand::Int8PerUse(dense, format))
            }
            Scheme::Fp8(_) | Scheme::Grouped(_) => Packed::of(weight).map(Operand::Packed),
        }
    }
}

impl Weight {
    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        match &self.0 {
            Operand::Dense(weight) | Operand::Int8PerUse(weight, _) => weight.rows,
            Operand::FourBit(weight) => weight.rows(),
            Operand::Int8(weight) => weight.rows(),
            Operand::Packed(weight) | Operand::Whole(_, _, weight) => weight.rows(),
        }
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        match &self.0 {
            Operand::Dense(weight) | Operand::Int8PerUse(weight, _) => weight.cols,
            Operand::FourBit(weight) => weight.cols(),
            Operand::Int8(weight) => weight.cols(),
            Operand::Packed(weight) | Operand::Whole(_, _, weight) => weight.cols(),
        }
    }

    /// The weight, if it is multiplied with so many activations in f32.
    pub(crate) fn floats(&self, n_tokens: usize) -> Option<Floats<'_>> {
        match &self.0 {
            Operand::Whole(_, _, weight) if self.whole(n_tokens).is_none() => {
                Some(Floats::Packed(weight.view()))
            }
            Operand::Dense(weight) => Some(Floats::Dense(weight.view())),
            Operand::FourBit(weight) => Some(Floats::FourBit(FourBitView::new(weight))),
            Operand::Packed(weight) => Some(Floats::Packed(weight.view())),
            Operand::Int8(_) | Operand::Int8PerUse(..) | Operand::Whole(..) => None,
        }
    }

    /// True if it is multiplied in LLM.int8().
    pub(crate) fn is_int8(&self) -> bool {
        matches!(self.0, Operand::Int8(_) | Operand::Int8PerUse(..))
    }

    /// The weight, if it is multiplied with so many activations as whole numbers, and their digits.
    pub(crate) fn whole(&self, n_tokens: usize) -> Option<(Digits, Blocks<'_>)> {
        let Operand::Whole(digits, ty, weight) = &self.0 else {
            return None;
        };
        let (digits, ty) = (*digits, *ty);
        let weight = weight.view();
        digits
            .are_for(n_tokens)
            .then_some((digits, Blocks { ty, weight }))
    }

    /// A row of a table.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn row(&self, row: usize) -> Row<'_> {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        match &self.0 {
            Operand::Dense(weight) | Operand::Int8PerUse(weight, _) => {
                Row::Dense(weight.view().row(row))
            }
            Operand::FourBit(weight) => Row::FourBit(FourBitView::new(weight), row),
            Operand::Int8(weight) => Row::Int8(weight, row),
            Operand::Packed(weight) | Operand::Whole(_, _, weight) => {
                Row::Packed(weight.view(), row)
            }
        }
    }

    /// Some elements of a gain or a bias.
    ///
    /// # Panics
    /// When there are not so many, or the weight is quantized.
    pub(crate) fn elements(&self, range: Range<usize>) -> Self {
        match &self.0 {
            Operand::Dense(weight) => Weight(Operand::Dense(weight.elements(range))),
            quantized => panic!("gains and biases are not quantized: {quantized:?}"),
        }
    }

    /// The elements of a gain or a bias.
    ///
    /// # Panics
    /// When the weight is quantized, as none of these ever is.
    pub(crate) fn dense(&self) -> DenseView<'_> {
        match &self.0 {
            Operand::Dense(weight) => weight.view(),
            quantized => panic!("gains and biases are not quantized: {quantized:?}"),
        }
    }
}

/// A weight in blocks of codes.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) ty: GgmlType,
    pub(crate) weight: PackedView<'a>,
}

/// A weight that is multiplied as the numbers that it stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Floats<'a> {
    Dense(DenseView<'a>),
    FourBit(FourBitView<'a>),
    Packed(PackedView<'a>),
}

impl Floats<'_> {
    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Floats::Dense(weight) => weight.rows,
            Floats::FourBit(weight) => weight.rows,
            Floats::Packed(weight) => weight.rows,
        }
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        match self {
            Floats::Dense(weight) => weight.cols,
            Floats::FourBit(weight) => weight.cols,
            Floats::Packed(weight) => weight.cols,
        }
    }

    /// The tokens from which on panels of the weight pay.
    pub(crate) fn gemm_tokens(&self) -> usize {
        match self {
            Floats::FourBit(weight) if weight.is_aligned() => GEMM_TOKENS_4BIT,
            Floats::Dense(_) | Floats::FourBit(_) | Floats::Packed(_) => GEMM_TOKENS,
        }
    }

    /// Order in which a product with few rows reads them.
    pub(crate) fn order(&self) -> Order {
        match self {
            Floats::Dense(weight) => weight.element.order(),
            Floats::FourBit(weight) => weight.order(),
            Floats::Packed(weight) => weight.order(),
        }
    }
}

/// A row of a table, in the table's encoding.
#[derive(Clone, Copy)]
pub(crate) enum Row<'a> {
    Dense(DenseView<'a>),
    FourBit(FourBitView<'a>, usize),
    Int8(&'a Int8Weight, usize),
    Packed(PackedView<'a>, usize),
}

/// Widens a row of a table, times `scale`, into `out`, or adds it.
pub(crate) struct CopyRow<'a> {
    pub(crate) row: Row<'a>,
    pub(crate) scale: f32,
    pub(crate) output: Output,
    /// As wide as the row.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for CopyRow<'_> {
    #[inline(always)]
    fn run<S: FourBit>(mut self, simd: S) {
        match self.row {
            Row::Dense(row) => {
                for at in (0..row.cols).step_by(S::LANES) {
                    self.put(simd, at, row.get(simd, at));
                }
            }
            Row::FourBit(table, row) => self.pieces(simd, |first, piece| {
                table.decode(simd, row * table.cols + first, piece);
            }),
            Row::Packed(table, row) => self.pieces(simd, |first, piece| {
                table.decode_row(simd, row, first..first + piece.len(), piece);
            }),
            Row::Int8(table, row) => self.pieces(simd, |first, piece| {
                let element = |i| table.element(row * table.cols() + first + i);
                for (i, out) in piece.iter_mut().enumerate() {
                    *out = element(i);
                }
            }),
        }
    }
}

impl CopyRow<'_> {
    /// Takes elements that `decode` writes, given the column of the first.
    #[inline(always)]
    fn pieces<S: Simd>(&mut self, simd: S, decode: impl Fn(usize, &mut [f32])) {
        let mut piece = [0f32; PIECE];
        for first in (0..self.out.len()).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(self.out.len() - first)];
            decode(first, piece);
            for at in (0..piece.len()).step_by(S::LANES) {
                self.put(simd, first + at, simd.get(piece, at));
            }
        }
    }

    #[inline(always)]
    fn put<S: Simd>(&mut self, simd: S, at: usize, x: S::F32) {
        let x = simd.mul(x, simd.splat(self.scale));
        let x = match self.output {
            Output::Write => x,
            Output::Add => simd.add(simd.get(self.out, at), x),
        };
        simd.put(self.out, at, x);
    }
}

/// Elements of a row that are decoded at a time: whole registers.
const PIECE: usize = 512;
