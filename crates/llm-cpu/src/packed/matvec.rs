//! Weights times few rows.

use std::ops::Range;

use super::{PIECE, PackedView, RowDecoder, Sink, Visitor};
use crate::isa::Level;
use crate::matvec::FewRows;
use crate::simd::{FourBit, Kernel, Simd};

/// Some rows of a weight times all rows of x, which are in straight order.
///
/// Values are multiplied with x and summed in two registers in turn: the same operations whatever rows and tokens are computed
/// beside it.
pub(crate) struct PackedMatVec<'a> {
    pub(crate) level: Level,
    pub(crate) weight: PackedView<'a>,
    pub(crate) few: FewRows<'a>,
}

impl PackedMatVec<'_> {
    pub(crate) fn run(self) {
        self.weight.visit(self);
    }
}

impl Visitor for PackedMatVec<'_> {
    #[inline(always)]
    fn visit<D: RowDecoder>(self, decoder: D) {
        self.level.run(MatVec {
            decoder,
            weight: self.weight,
            few: self.few,
        });
    }
}

struct MatVec<'a, D> {
    decoder: D,
    weight: PackedView<'a>,
    few: FewRows<'a>,
}

impl<D: RowDecoder> Kernel for MatVec<'_, D> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let FewRows {
            padded_cols,
            n_tokens,
            ref rows,
            ..
        } = self.few;
        assert!(rows.end <= self.weight.rows);
        assert!(padded_cols.is_multiple_of(2 * S::LANES) && padded_cols >= self.weight.cols);
        assert!(self.few.x.len() >= n_tokens * padded_cols);
        for row in rows.clone().step_by(GROUP_ROWS) {
            let rows = row..(row + GROUP_ROWS).min(rows.end);
            let mut token = 0;
            while token < n_tokens {
                token += match n_tokens - token {
                    1 => self.group::<S, 1>(simd, &rows, token),
                    2 | 3 => self.group::<S, 2>(simd, &rows, token),
                    4..=7 => self.group::<S, 4>(simd, &rows, token),
                    _ if S::MANY_REGISTERS => self.group::<S, 8>(simd, &rows, token),
                    _ => self.group::<S, 4>(simd, &rows, token),
                };
            }
        }
    }
}

impl<D: RowDecoder> MatVec<'_, D> {
    /// A group's rows times `T` tokens; returns `T`. Rows take pieces of their columns in turn, so that x, which may be larger
    /// than the first-level cache, is fetched once a group.
    #[inline(always)]
    fn group<S: FourBit, const T: usize>(
        &self,
        simd: S,
        rows: &Range<usize>,
        token: usize,
    ) -> usize {
        let PackedView { cols, elements, .. } = self.weight;
        let x = &self.few.x[token * self.few.padded_cols..][..T * self.few.padded_cols];
        let mut sums = [[[simd.splat(0.0); 2]; T]; GROUP_ROWS];
        // Linearly through the group, so that the memory sees one stream.
        let row_bytes = self.weight.row_bytes();
        let piece_bytes = row_bytes * PIECE / cols.max(1);
        let mut ahead = elements
            .as_ptr()
            .wrapping_add(rows.start * row_bytes + PREFETCH_BYTES);
        for first in (0..cols).step_by(PIECE) {
            let columns = first..(first + PIECE).min(cols);
            for (row, sums) in rows.clone().zip(&mut sums) {
                for line in (0..piece_bytes).step_by(CACHE_LINE) {
                    simd.prefetch(ahead.wrapping_add(line));
                }
                ahead = ahead.wrapping_add(piece_bytes);
                // In registers while the piece lasts.
                let mut products = Products {
                    simd,
                    x: x.as_ptr(),
                    x_stride: self.few.padded_cols,
                    sums: *sums,
                };
                self.decoder
                    .decode(simd, row, columns.clone(), &mut products);
                *sums = products.sums;
            }
        }
        for (row, sums) in rows.clone().zip(sums) {
            for (t, [even, odd]) in sums.into_iter().enumerate() {
                let sum = simd.reduce_add(simd.add(even, odd));
                self.few.finish(row, token + t, sum);
            }
        }
        T
    }
}

/// Sums of products with `T` rows of x.
struct Products<S: Simd, const T: usize> {
    simd: S,
    /// `T` rows `x_stride` apart, whole registers long.
    x: *const f32,
    x_stride: usize,
    sums: [[S::F32; 2]; T],
}

impl<S: Simd, const T: usize> Sink<S> for Products<S, T> {
    #[inline(always)]
    fn take(&mut self, first: usize, at: usize, values: S::F32) {
        debug_assert!(first + at + S::LANES <= self.x_stride);
        for (t, sums) in self.sums.iter_mut().enumerate() {
            // SAFETY: decoders give columns of the weight, which rows of x are as long as, in whole registers.
            let x = unsafe { self.simd.load(self.x.add(t * self.x_stride + first + at)) };
            let sum = &mut sums[at / S::LANES % 2];
            *sum = self.simd.fma(values, x, *sum);
        }
    }
}

/// Rows of a group.
const GROUP_ROWS: usize = 4;
/// Distance ahead of the loads at which codes are prefetched.
const PREFETCH_BYTES: usize = 4096;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
