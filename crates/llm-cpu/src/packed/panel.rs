//! Panels of decoded weights for products with many rows, and rows of tables.

use std::ops::Range;

use super::{PIECE, PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{FourBit, Kernel, MAX_LANES, Order, Simd};

impl PackedView<'_> {
    /// Writes columns `columns` of `rows` into `panel`, transposed: as many rows of a register tile's columns, anything beyond
    /// `rows`.
    #[inline(always)]
    pub(crate) fn pack<S: FourBit>(
        self,
        simd: S,
        rows: Range<usize>,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        let width = S::LANES * S::TILE_VECTORS;
        let panel = &mut panel[..columns.len().next_multiple_of(S::LANES) * width];
        let mut blocks = [0f32; MAX_LANES * PIECE];
        for group in 0..rows.len().div_ceil(S::LANES) {
            let row = rows.start + group * S::LANES;
            for first in columns.clone().step_by(PIECE) {
                let piece = first..(first + PIECE).min(columns.end);
                self.visit::<S>(Decode {
                    simd,
                    rows: row..(row + S::LANES).min(rows.end),
                    columns: piece.clone(),
                    stride: S::LANES,
                    out: &mut blocks,
                });
                for at in (0..piece.len()).step_by(S::LANES) {
                    let block = &blocks[at * S::LANES..][..S::LANES * S::LANES];
                    let to = (first - columns.start + at) * width + group * S::LANES;
                    let panel = &mut panel[to..][..(S::LANES - 1) * width + S::LANES];
                    // SAFETY: both are as long as sliced above.
                    unsafe { simd.transpose(block.as_ptr(), panel.as_mut_ptr(), width) };
                }
            }
        }
    }

    /// Writes columns of a row to `out`, which is as long.
    #[inline(always)]
    pub(crate) fn decode_row<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        // With room for whole steps.
        let mut values = [0f32; PIECE];
        for (first, out) in columns.clone().step_by(PIECE).zip(out.chunks_mut(PIECE)) {
            self.visit::<S>(Decode {
                simd,
                rows: row..row + 1,
                columns: first..first + out.len(),
                stride: 1,
                out: &mut values,
            });
            out.copy_from_slice(&values[..out.len()]);
        }
    }
}

/// Writes columns of some rows, at most as many as lanes: a register of each row, and then those of the next columns, `stride`
/// times as far on as the columns are. There is room for whole steps.
struct Decode<'a, S> {
    simd: S,
    rows: Range<usize>,
    columns: Range<usize>,
    stride: usize,
    out: &'a mut [f32],
}

impl<S: FourBit> Visitor for Decode<'_, S> {
    fn visit<D: RowDecoder>(self, decoder: D) {
        let decode = self;
        decode.simd.enter(DecodeWith { decoder, decode });
    }
}

struct DecodeWith<'a, S, D> {
    decoder: D,
    decode: Decode<'a, S>,
}

impl<D: RowDecoder, T> Kernel for DecodeWith<'_, T, D> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let Decode {
            rows,
            columns,
            stride,
            out,
            ..
        } = self.decode;
        for (r, row) in rows.enumerate() {
            let mut sink = Values {
                simd,
                begin: columns.start,
                stride,
                out: &mut out[r * S::LANES..],
            };
            self.decoder.decode(simd, row, columns.clone(), &mut sink);
            if D::ORDER == Order::EvenOdd {
                sink.straighten(columns.len());
            }
        }
    }
}

/// Registers of a row.
struct Values<'a, S> {
    simd: S,
    /// The first column.
    begin: usize,
    stride: usize,
    out: &'a mut [f32],
}

impl<S: FourBit> Values<'_, S> {
    /// Brings pairs of registers of even and of odd columns into the columns' order.
    #[inline(always)]
    fn straighten(&mut self, n: usize) {
        for first in (0..n).step_by(2 * S::LANES) {
            let [even, odd] = [first, first + S::LANES].map(|at| at * self.stride);
            let both = (self.simd.get(self.out, even), self.simd.get(self.out, odd));
            let (low, high) = self.simd.interleave(both.0, both.1);
            self.simd.put(self.out, even, low);
            self.simd.put(self.out, odd, high);
        }
    }
}

impl<S: Simd> Sink<S> for Values<'_, S> {
    #[inline(always)]
    fn take(&mut self, first: usize, at: usize, values: S::F32) {
        let to = (first - self.begin + at) * self.stride;
        self.simd.put(self.out, to, values);
    }
}
