//! Blocks of GGUF's types.

mod k_quants;
mod nibbles;
mod plain;
mod small;

use std::ops::Range;

use llm_quant::GgmlType;

use super::{PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{FourBit, Order};

/// A block type. What its fields are and mean is told where `llm-quant` decodes it; values are the same to the bit.
trait Block: Copy + Send + Sync {
    /// Elements of a block.
    const LEN: usize;
    /// Elements that are decoded together: a divisor of `LEN`, and of the columns of every panel.
    const PART: usize;
    /// What serves all parts of a block, its scales as a rule.
    type Opened: Copy;

    /// Bytes of a block.
    fn n_bytes(self) -> usize;
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> Self::Opened;
    /// Gives `sink` the values of a part, whose column is `first`.
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        opened: &Self::Opened,
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    );
}

#[derive(Clone, Copy)]
struct Blocks<'a, B> {
    block: B,
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<B: Block> RowDecoder for Blocks<'_, B> {
    const STEP: usize = B::PART;
    const ORDER: Order = Order::Straight;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let n_bytes = self.block.n_bytes();
        let row = &self.bytes[row * self.row_bytes..][..self.row_bytes];
        if B::PART == B::LEN {
            let blocks = &row[columns.start / B::LEN * n_bytes..columns.end / B::LEN * n_bytes];
            let mut first = columns.start;
            for block in blocks.chunks_exact(n_bytes) {
                let opened = self.block.open(simd, block);
                self.block.part(simd, block, &opened, 0, first, sink);
                first += B::LEN;
            }
            return;
        }
        let mut column = columns.start;
        while column < columns.end {
            let block = &row[column / B::LEN * n_bytes..][..n_bytes];
            let opened = self.block.open(simd, block);
            let end = columns.end.min((column / B::LEN + 1) * B::LEN);
            while column < end {
                let part = column % B::LEN / B::PART;
                self.block.part(simd, block, &opened, part, column, sink);
                column += B::PART;
            }
        }
    }
}

/// Calls `visitor` with the decoder of a type.
#[inline(always)]
pub(super) fn visit<S: FourBit>(weight: PackedView<'_>, ty: GgmlType, visitor: impl Visitor) {
    let visit = Visit { weight, visitor };
    if S::IS_PORTABLE {
        return match ty.block_len() {
            32 => visit.block(plain::Plain::<32>(ty)),
            64 => visit.block(plain::Plain::<64>(ty)),
            256 => visit.block(plain::Plain::<256>(ty)),
            other => unreachable!("blocks of {other} elements"),
        };
    }
    match ty {
        GgmlType::Q4_0 => visit.block(nibbles::Q4_0),
        GgmlType::Q4_1 => visit.block(nibbles::Q4_1),
        GgmlType::IQ4NL => visit.block(nibbles::Iq4Nl),
        GgmlType::MXFP4 => visit.block(nibbles::Mxfp4),
        GgmlType::IQ4XS => visit.block(nibbles::Iq4Xs),
        GgmlType::Q4K => visit.block(nibbles::Q4K),
        GgmlType::Q5_0 => visit.block(small::Q5_0),
        GgmlType::Q5_1 => visit.block(small::Q5_1),
        GgmlType::Q8_0 => visit.block(small::Q8_0),
        GgmlType::Q2K => visit.block(k_quants::Q2K),
        GgmlType::Q3K => visit.block(k_quants::Q3K),
        GgmlType::Q5K => visit.block(k_quants::Q5K),
        GgmlType::Q6K => visit.block(k_quants::Q6K),
        GgmlType::NVFP4 => visit.block(plain::Plain::<64>(ty)),
        GgmlType::IQ2XXS
        | GgmlType::IQ2XS
        | GgmlType::IQ2S
        | GgmlType::IQ3XXS
        | GgmlType::IQ3S
        | GgmlType::IQ1S
        | GgmlType::IQ1M
        | GgmlType::TQ1_0
        | GgmlType::TQ2_0 => visit.block(plain::Plain::<256>(ty)),
    }
}

struct Visit<'a, V> {
    weight: PackedView<'a>,
    visitor: V,
}

impl<V: Visitor> Visit<'_, V> {
    #[inline(always)]
    fn block<B: Block>(self, block: B) {
        self.visitor.visit(Blocks {
            block,
            bytes: self.weight.elements,
            row_bytes: self.weight.row_bytes(),
        });
    }
}
