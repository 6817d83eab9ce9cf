//! Products with weights in blocks of codes and scales, whose values are made in registers on their way from memory.
//!
//! A format is a [`RowDecoder`]: it gives registers of values, exactly those that the format means, to a [`Sink`]. Products,
//! panels and rows of tables are sinks, written once for all formats. Without an instruction set of its own, a processor has
//! values made as `llm-quant` does.

mod fp8;
mod ggml;
mod grouped;
mod matvec;
mod panel;
mod scale;

use std::ops::Range;

use llm_quant::{Fp8, GgmlType, Grouped, Part, Scheme, StoredWeight};

use crate::simd::{FourBit, Order, Simd};

pub(crate) use matvec::PackedMatVec;

/// A matrix in a packed format that is computed with.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    format: Format,
    stored: StoredWeight,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    Ggml(GgmlType),
    Fp8(Fp8),
    Grouped(Grouped),
}

impl Packed {
    /// `None` where the scheme is another, rows are not whole blocks, or scales are of a type that is not computed with.
    ///
    /// # Panics
    /// When a part has not as many bytes as the scheme gives it.
    pub(crate) fn of(weight: &StoredWeight) -> Option<Self> {
        let format = match weight.scheme {
            Scheme::Ggml(ty) => {
                let whole = weight.cols.is_multiple_of(ty.block_len());
                whole.then_some(Format::Ggml(ty))?
            }
            Scheme::Fp8(format) => fp8::is_known(format).then_some(Format::Fp8(format))?,
            Scheme::Grouped(format) => {
                grouped::is_known(format).then_some(Format::Grouped(format))?
            }
            Scheme::Dense(_) | Scheme::Int8(_) | Scheme::Int8PerUse(..) | Scheme::FourBit(_) => {
                return None;
            }
        };
        match weight.clone().checked() {
            Ok(stored) => Some(Packed { format, stored }),
            Err(error) => panic!("{error}"),
        }
    }

    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        self.stored.rows
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        self.stored.cols
    }

    pub(crate) fn view(&self) -> PackedView<'_> {
        PackedView {
            format: self.format,
            rows: self.stored.rows,
            cols: self.stored.cols,
            elements: self.stored.part(Part::Weight),
            stored: &self.stored,
        }
    }
}

/// A [`Packed`] whose codes have been looked up: as many as its shape asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedView<'a> {
    format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    elements: &'a [u8],
    stored: &'a StoredWeight,
}

impl<'a> PackedView<'a> {
    /// Calls `visitor` with the decoder of the format.
    #[inline(always)]
    pub(crate) fn visit<S: FourBit>(self, visitor: impl Visitor) {
        match self.format {
            Format::Ggml(ty) => ggml::visit::<S>(self, ty, visitor),
            Format::Fp8(format) => fp8::visit::<S>(self, format, visitor),
            Format::Grouped(format) => grouped::visit::<S>(self, format, visitor),
        }
    }

    /// Order in which values come, and so that of x in a product with few rows.
    pub(crate) fn order(&self) -> Order {
        match self.format {
            Format::Ggml(_) | Format::Fp8(_) => Order::Straight,
            Format::Grouped(format) => grouped::order(format),
        }
    }

    /// Codes of all rows.
    pub(crate) fn elements(&self) -> &'a [u8] {
        self.elements
    }

    /// Bytes of the codes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.elements.len() / self.rows.max(1)
    }
}

/// Something done with a matrix whatever its format.
pub(crate) trait Visitor {
    /// Implementations enter a kernel, so that each decoder is compiled in a function of its own.
    fn visit<D: RowDecoder>(self, decoder: D);
}

/// Rows of a matrix that are decoded to registers.
pub(crate) trait RowDecoder: Copy + Send + Sync {
    /// Columns that are decoded together, at most [`PIECE`]: ranges of columns begin at multiples of it, and end so or with the
    /// row.
    const STEP: usize;
    /// Order of the columns of two registers: straight, or those of even index before those of odd index.
    const ORDER: Order;

    /// Gives `sink` all registers of some columns of a row, with zeros beyond the last column. Registers of even columns and of
    /// odd ones come as if they were those of the first and of the last half of their columns.
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
/// Codes themselves, as a table of what they stand for.
const LINEAR: [f32; 16] = [
    0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
];

#[cfg(test)]
mod tests;
