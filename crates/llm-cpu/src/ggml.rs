//! Products with weights in GGML's blocks: a piece of a row is decoded at a time, as the scalar reference does, and
//! multiplied as the numbers that it stands for.

use std::ops::Range;

use llm_quant::{GgmlType, Part, StoredWeight};
use llm_tensor::HostBytes;

use crate::matvec::{FewRows, GEMM_TOKENS};
use crate::simd::{FourBit, Kernel, Simd};

/// A matrix `[rows, cols]` of blocks, row by row.
#[derive(Debug, Clone)]
pub(crate) struct Ggml {
    ty: GgmlType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    blocks: HostBytes,
}

impl Ggml {
    /// `None` where rows are not whole blocks.
    ///
    /// # Panics
    /// When there are not as many bytes as the matrix has.
    pub(crate) fn of(weight: &StoredWeight, ty: GgmlType) -> Option<Self> {
        let (rows, cols, blocks) = (weight.rows, weight.cols, weight.part(Part::Weight));
        if !cols.is_multiple_of(ty.block_len()) {
            return None;
        }
        assert_eq!(
            blocks.len(),
            rows * (cols / ty.block_len()) * ty.block_bytes(),
            "a weight of [{rows}, {cols}] {ty}"
        );
        Some(Ggml {
            ty,
            rows,
            cols,
            blocks: blocks.clone(),
        })
    }

    pub(crate) fn view(&self) -> GgmlView<'_> {
        GgmlView {
            ty: self.ty,
            rows: self.rows,
            cols: self.cols,
            blocks: &self.blocks,
        }
    }
}

/// A [`Ggml`] whose bytes have been looked up: `blocks` are those of `rows` rows of whole blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GgmlView<'a> {
    ty: GgmlType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    blocks: &'a [u8],
}

impl GgmlView<'_> {
    /// Decodes columns from `first` on of a row into `out`.
    ///
    /// # Panics
    /// When there are no such columns.
    pub(crate) fn decode(&self, row: usize, first: usize, out: &mut [f32]) {
        let (len, n_bytes) = (self.ty.block_len(), self.ty.block_bytes());
        assert!(
            row < self.rows && first + out.len() <= self.cols,
            "{} columns from {first} on of row {row}",
            out.len()
        );
        let row = &self.blocks[row * (self.cols / len) * n_bytes..];
        let mut at = 0;
        while at < out.len() {
            let (block, skip) = ((first + at) / len, (first + at) % len);
            let rest = out.len() - at;
            if skip == 0 && rest >= len {
                let n_blocks = rest / len;
                let blocks = &row[block * n_bytes..][..n_blocks * n_bytes];
                self.ty.decode(blocks, &mut out[at..][..n_blocks * len]);
                at += n_blocks * len;
            } else {
                let mut values = [0f32; PIECE];
                let values = &mut values[..len];
                self.ty.decode(&row[block * n_bytes..][..n_bytes], values);
                let n = rest.min(len - skip);
                out[at..][..n].copy_from_slice(&values[skip..][..n]);
                at += n;
            }
        }
    }

    /// Writes columns `first..first + depth` of `rows` into `panel`, transposed: `depth` rows of a register tile's
    /// columns, anything beyond `rows`.
    pub(crate) fn pack<S: Simd>(
        &self,
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
                self.decode(row, first + at, piece);
                for (panel, value) in panel.chunks_mut(width).zip(&*piece) {
                    panel[r] = *value;
                }
            }
        }
    }
}

/// Some rows of a weight times all rows of x.
///
/// A piece of a row is decoded, multiplied with all rows of x and summed over a register: the same operations whatever
/// rows and tokens are computed beside it.
pub(crate) struct GgmlMatVec<'a> {
    pub(crate) weight: GgmlView<'a>,
    pub(crate) few: FewRows<'a>,
}

impl Kernel for GgmlMatVec<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let cols = self.weight.cols;
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

/// Columns that are decoded at a time: whole blocks of every type, as is asserted here.
const PIECE: usize = 256;

const _: () = {
    let mut i = 0;
    while i < GgmlType::ALL.len() {
        assert!(PIECE.is_multiple_of(GgmlType::ALL[i].block_len()));
        i += 1;
    }
};
