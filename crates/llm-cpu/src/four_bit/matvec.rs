//! Weights times few rows.

use super::tiles::Tiles;
use super::{AbsmaxView, FourBitView};
use crate::matvec::FewRows;
use crate::matvec::GEMM_TOKENS;
use crate::simd::{FourBit, Kernel};

/// Some rows of a weight times all rows of x.
///
/// Codes are looked up in the weight's own table, multiplied with x and summed over eight registers in turn, the sum
/// scaled and added to the result's: the same operations whatever rows and tokens are computed beside it.
pub(crate) struct FourBitMatVec<'a> {
    pub(crate) weight: FourBitView<'a>,
    pub(crate) few: FewRows<'a>,
}

impl Kernel for FourBitMatVec<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let cols = self.weight.cols;
        assert!(self.few.rows.end <= self.weight.rows);
        assert!(self.few.padded_cols.is_multiple_of(8 * S::LANES) && self.few.padded_cols >= cols);
        assert!(self.few.x.len() >= self.few.n_tokens * self.few.padded_cols);
        if !self.weight.is_aligned() {
            return self.any_cols(simd);
        }
        match self.weight.absmax {
            AbsmaxView::Plain(scales) => {
                Tiles::new(simd, self.weight, scales, &self.few).multiply()
            }
            AbsmaxView::Double(scales) => {
                Tiles::new(simd, self.weight, scales, &self.few).multiply()
            }
        }
    }
}

impl FourBitMatVec<'_> {
    /// Rows that begin and end within blocks, even within bytes: values are written out piece by piece first.
    #[inline(always)]
    fn any_cols<S: FourBit>(&self, simd: S) {
        let cols = self.weight.cols;
        let mut piece = [0f32; PIECE];
        for row in self.few.rows.clone() {
            let mut sums = [simd.splat(0.0); GEMM_TOKENS];
            let sums = &mut sums[..self.few.n_tokens];
            for first in (0..cols).step_by(PIECE) {
                let n = PIECE.min(cols - first);
                self.weight
                    .decode(simd, row * cols + first, &mut piece[..n]);
                let x = self.few.x.chunks_exact(self.few.padded_cols);
                for (sum, x) in sums.iter_mut().zip(x) {
                    for at in (0..n).step_by(S::LANES) {
                        let weight = simd.get(&piece[..n], at);
                        *sum = simd.fma(weight, simd.get(&x[first..], at), *sum);
                    }
                }
            }
            for (token, &sum) in sums.iter().enumerate() {
                self.few.finish(row, token, simd.reduce_add(sum));
            }
        }
    }
}

/// Columns that are written out at a time: a multiple of any number of lanes.
const PIECE: usize = 256;
