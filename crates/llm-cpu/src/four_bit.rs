//! Products with weights in NF4 and FP4: codes are looked up in registers on their way from memory.

mod decode;
mod matvec;
mod pack;
mod scales;
mod tiles;

use llm_quant::{Absmax, Table, Weight4Bit};

use crate::simd::Order;

pub(crate) use decode::Decode;
pub(crate) use matvec::FourBitMatVec;
pub(crate) use scales::{DoubleScales, PlainScales, Scales};

/// A [`Weight4Bit`] whose bytes have been looked up: as many as it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FourBitView<'a> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Of a block's elements, which are a power of two: a shift where a division would count.
    block_bits: u32,
    table: &'a Table,
    /// Two codes a byte.
    packed: &'a [u8],
    absmax: AbsmaxView<'a>,
}

/// The scales of all blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AbsmaxView<'a> {
    Plain(PlainScales<'a>),
    Double(DoubleScales<'a>),
}

impl<'a> FourBitView<'a> {
    pub(crate) fn new(weight: &'a Weight4Bit) -> Self {
        FourBitView {
            rows: weight.rows(),
            cols: weight.cols(),
            block_bits: weight.format().block_size.get().ilog2(),
            table: weight.table(),
            packed: weight.packed(),
            absmax: match weight.absmax() {
                Absmax::Plain(scales) => AbsmaxView::Plain(PlainScales::new(scales)),
                Absmax::Double(double) => AbsmaxView::Double(DoubleScales::new(double)),
            },
        }
    }

    /// Order in which a product with few rows reads the weight.
    pub(crate) fn order(&self) -> Order {
        if self.is_aligned() {
            Order::Eighths
        } else {
            Order::Straight
        }
    }

    /// True if rows are whole blocks, hence whole words of eight codes.
    pub(crate) fn is_aligned(&self) -> bool {
        self.cols.is_multiple_of(self.block_size())
    }

    fn block_size(&self) -> usize {
        1 << self.block_bits
    }
}

#[cfg(test)]
mod tests;
