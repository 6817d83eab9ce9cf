//! Panels of decoded weights for products with many rows, and rows of tables.

use std::ops::Range;

use super::{PIECE, PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{FourBit, Kernel, MAX_LANES, Simd};

impl PackedView<'_> {
    /// Writes columns `first..first + depth` of `rows` into `panel`, transposed: `depth` rows of a register tile's columns,
    /// anything beyond `rows`.
    #[inline(always)]
    pub(crate) fn pack<S: FourBit>(
        self,
        simd: S,
        rows: Range<usize>,
        columns: Range<usize>,
        panel: &mut [f32],
    ) {
        self.visit(PackVisitor {
            simd,
            rows,
            columns,
            panel,
        });
    }

    /// Writes a row's values to `out`, which is as long.
    #[inline(always)]
    pub(crate) fn decode_row<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        self.visit(RowVisitor {
            simd,
            row,
            columns,
            out,
        });
    }
}

struct PackVisitor<'a, S> {
    simd: S,
    rows: Range<usize>,
    columns: Range<usize>,
    panel: &'a mut [f32],
}

impl<S: FourBit> Visitor for PackVisitor<'_, S> {
    fn visit<D: RowDecoder>(self, decoder: D) {
        self.simd.enter(Pack {
            decoder,
            rows: self.rows,
            columns: self.columns,
            panel: self.panel,
        });
    }
}

struct Pack<'a, D> {
    decoder: D,
    rows: Range<usize>,
    columns: Range<usize>,
    panel: &'a mut [f32],
}

impl<D: RowDecoder> Kernel for Pack<'_, D> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let width = S::LANES * S::TILE_VECTORS;
        let depth = self.columns.len();
        let panel = &mut self.panel[..depth.next_multiple_of(S::LANES) * width];
        let mut blocks = [0f32; MAX_LANES * PIECE];
        for group in 0..self.rows.len().div_ceil(S::LANES) {
            let row = self.rows.start + group * S::LANES;
            let rows = row..(row + S::LANES).min(self.rows.end);
            for first in self.columns.clone().step_by(PIECE) {
                let columns = first..(first + PIECE).min(self.columns.end);
                for (r, row) in rows.clone().enumerate() {
                    let mut sink = Blocks {
                        simd,
                        begin: first,
                        row: r,
                        blocks: &mut blocks,
                    };
                    self.decoder.decode(simd, row, columns.clone(), &mut sink);
                }
                for at in (0..columns.len()).step_by(S::LANES) {
                    let block = &blocks[at * S::LANES..][..S::LANES * S::LANES];
                    let to = (first - self.columns.start + at) * width + group * S::LANES;
                    let panel = &mut panel[to..][..(S::LANES - 1) * width + S::LANES];
                    // SAFETY: both are as long as sliced above.
                    unsafe { simd.transpose(block.as_ptr(), panel.as_mut_ptr(), width) };
                }
            }
        }
    }
}

/// Blocks `[LANES, LANES]`, one behind the other, of rows and columns: registers of a row.
struct Blocks<'a, S> {
    simd: S,
    /// The first column of all.
    begin: usize,
    row: usize,
    blocks: &'a mut [f32; MAX_LANES * PIECE],
}

impl<S: Simd> Sink<S> for Blocks<'_, S> {
    #[inline(always)]
    fn take(&mut self, first: usize, at: usize, values: S::F32) {
        let block = first - self.begin + at;
        self.simd.put(
            &mut self.blocks[..(block + self.row + 1) * S::LANES],
            (block + self.row) * S::LANES,
            values,
        );
    }
}

struct RowVisitor<'a, S> {
    simd: S,
    row: usize,
    columns: Range<usize>,
    out: &'a mut [f32],
}

impl<S: FourBit> Visitor for RowVisitor<'_, S> {
    fn visit<D: RowDecoder>(self, decoder: D) {
        self.simd.enter(Row {
            decoder,
            row: self.row,
            columns: self.columns,
            out: self.out,
        });
    }
}

struct Row<'a, D> {
    decoder: D,
    row: usize,
    columns: Range<usize>,
    out: &'a mut [f32],
}

impl<D: RowDecoder> Kernel for Row<'_, D> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let mut sink = Values {
            simd,
            begin: self.columns.start,
            out: self.out,
        };
        self.decoder.decode(simd, self.row, self.columns, &mut sink);
    }
}

/// Values one after the other.
struct Values<'a, S> {
    simd: S,
    begin: usize,
    out: &'a mut [f32],
}

impl<S: Simd> Sink<S> for Values<'_, S> {
    #[inline(always)]
    fn take(&mut self, first: usize, at: usize, values: S::F32) {
        self.simd.put(self.out, first - self.begin + at, values);
    }
}
