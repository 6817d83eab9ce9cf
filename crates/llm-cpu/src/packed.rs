//! Products with weights in blocks of codes and scales, whose values are made in registers on their way from memory.
//!
//! A format is a [`RowDecoder`]: it gives registers of values, exactly those that the format means, to a [`Sink`]. Products,
//! panels and rows of tables are sinks, written once for all formats.

mod fp8;
mod ggml;
mod matvec;
mod panel;

use std::ops::Range;

use llm_quant::{Fp8, GgmlType, Part, Scheme, StoredWeight};
use llm_tensor::HostBytes;

use crate::simd::{FourBit, Simd};

pub(crate) use matvec::PackedMatVec;

/// A matrix `[rows, cols]` in blocks.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    elements: HostBytes,
    /// Empty where blocks have their scales in them.
    scales: HostBytes,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Ggml(GgmlType),
    Fp8(Fp8),
}

impl Packed {
    /// `None` where the scheme is another, or rows are not whole blocks.
    ///
    /// # Panics
    /// When a part has not as many bytes as the scheme gives it.
    pub(crate) fn of(weight: &StoredWeight) -> Option<Self> {
        let (rows, cols) = (weight.rows, weight.cols);
        let (format, scales) = match weight.scheme {
            Scheme::Ggml(ty) if cols.is_multiple_of(ty.block_len()) => {
                (Format::Ggml(ty), HostBytes::new([]))
            }
            Scheme::Fp8(format) => (
                fp8::is_known(format).then_some(Format::Fp8(format))?,
                weight.part(Part::Scales).clone(),
            ),
            Scheme::Ggml(_)
            | Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_) => return None,
        };
        for (part, info) in weight.scheme.parts(rows as u64, cols as u64) {
            let found = weight.part(part).len() as u64;
            assert_eq!(found, info.bytes, "{part:?} of [{rows}, {cols}]");
        }
        Some(Packed {
            format,
            rows,
            cols,
            elements: weight.part(Part::Weight).clone(),
            scales,
        })
    }

    pub(crate) fn view(&self) -> PackedView<'_> {
        PackedView {
            format: self.format,
            rows: self.rows,
            cols: self.cols,
            elements: &self.elements,
            scales: &self.scales,
        }
    }
}

/// A [`Packed`] whose bytes have been looked up: as many as its shape asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedView<'a> {
    format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    elements: &'a [u8],
    scales: &'a [u8],
}

impl PackedView<'_> {
    /// Calls `visitor` with the decoder of the format.
    #[inline(always)]
    pub(crate) fn visit(self, visitor: impl Visitor) {
        match self.format {
            Format::Ggml(ty) => ggml::visit(self, ty, visitor),
            Format::Fp8(format) => fp8::visit(self, format, visitor),
        }
    }

    /// Bytes of the codes of a row.
    fn row_bytes(&self) -> usize {
        self.elements.len() / self.rows.max(1)
    }
}

/// Something done with a matrix whatever its format.
pub(crate) trait Visitor {
    /// Implementations are `#[inline(always)]`, or enter a kernel.
    fn visit<D: RowDecoder>(self, decoder: D);
}

/// Rows of a matrix that are decoded to registers.
pub(crate) trait RowDecoder: Copy + Send + Sync {
    /// Columns that are decoded together, at most [`PIECE`]: ranges of columns begin at multiples of it, and end so or with the
    /// row.
    const STEP: usize;

    /// Gives `sink` all registers of some columns of a row, in any order, with zeros beyond the last column.
    ///
    /// # Panics
    /// When the matrix has not these columns.
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    );
}

/// Registers of values, taken one by one.
pub(crate) trait Sink<S: Simd> {
    /// Takes `LANES` values from column `first + at` on. `first` is that of a step, and `at` known when code is compiled, as far
    /// as that is possible. Implementations are `#[inline(always)]`.
    fn take(&mut self, first: usize, at: usize, values: S::F32);
}

/// Columns that are decoded of one row before another: a multiple of every step.
pub(crate) const PIECE: usize = 256;

#[cfg(test)]
mod tests;
