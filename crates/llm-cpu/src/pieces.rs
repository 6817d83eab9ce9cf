//! Products with weights that are written out piece by piece, and multiplied as the numbers that they stand for.

use std::ops::Range;

use crate::matvec::{FewRows, GEMM_TOKENS};
use crate::simd::{FourBit, Kernel, Simd};

/// A weight whose rows can be decoded from any column on.
pub(crate) trait Pieces: Copy {
    /// Input features.
    fn cols(&self) -> usize;

    /// Decodes columns from `first` on of a row into `out`.
    ///
    /// # Panics
    /// When there are no such columns.
    fn decode(&self, row: usize, first: usize, out: &mut [f32]);
}

/// Writes columns `first..first + depth` of `rows` into `panel`, transposed: `depth` rows of a register tile's
/// columns, anything beyond `rows`.
pub(crate) fn pack<S: Simd>(
    weight: &impl Pieces,
    rows: Range<usize>,
    first: usize,
    depth: usize,
    panel: &mut [f32],
) {
    let width = S::LANES * S::TILE_VECTORS;
    let mut piece = [0f32; PIECE];
    for at in (0..depth).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(depth - at)];
        let panel = &mut panel[at * width..];
        for (r, row) in rows.clone().enumerate() {
            weight.decode(row, first + at, piece);
            for (panel, value) in panel.chunks_mut(width).zip(&*piece) {
                panel[r] = *value;
            }
        }
    }
}

/// Some rows of a weight times all rows of x.
///
/// A piece of a row is decoded, multiplied with all rows of x and summed over a register: the same operations whatever
/// rows and tokens are computed beside it.
pub(crate) struct PieceMatVec<'a, W> {
    pub(crate) weight: W,
    pub(crate) few: FewRows<'a>,
}

impl<W: Pieces> Kernel for PieceMatVec<'_, W> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let cols = self.weight.cols();
        let mut piece = [0f32; PIECE];
        for row in self.few.rows.clone() {
            let mut sums = [simd.splat(0.0); GEMM_TOKENS];
            let sums = &mut sums[..self.few.n_tokens];
            for first in (0..cols).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(cols - first)];
                self.weight.decode(row, first, piece);
                let x = self.few.x.chunks_exact(self.few.padded_cols);
                for (sum, x) in sums.iter_mut().zip(x) {
                    for at in (0..piece.len()).step_by(S::LANES) {
                        let weight = simd.get(piece, at);
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

/// Columns that are decoded at a time: a multiple of any number of lanes.
const PIECE: usize = 256;
