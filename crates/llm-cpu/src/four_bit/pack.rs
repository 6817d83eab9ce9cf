//! Panels of decoded weights for products with many rows.

use std::ops::Range;

use super::{AbsmaxView, FourBitView, Scales};
use crate::gemm::transpose_rows;
use crate::simd::{FourBit, MAX_LANES};

impl FourBitView<'_> {
    /// Writes columns `first..first + depth` of `rows` into `panel`, transposed: `depth` rows of a register tile's
    /// columns, anything beyond `rows`.
    #[inline(always)]
    pub(crate) fn pack<S: FourBit>(
        &self,
        simd: S,
        rows: Range<usize>,
        first: usize,
        depth: usize,
        panel: &mut [f32],
    ) {
        if !self.is_aligned() {
            return transpose_rows(simd, rows, depth, panel, |row, column, block| {
                let n = block.len().min(depth - column);
                let (values, zeros) = block.split_at_mut(n);
                self.decode(simd, row * self.cols + first + column, values);
                zeros.fill(0.0);
            });
        }
        match self.absmax {
            AbsmaxView::Plain(scales) => {
                self.pack_blocks(simd, scales, rows, first, depth, panel);
            }
            AbsmaxView::Double(scales) => {
                self.pack_blocks(simd, scales, rows, first, depth, panel);
            }
        }
    }

    /// Rows of whole blocks.
    ///
    /// A lane stands for a row: once words of eight codes of as many rows as there are lanes have been transposed,
    /// looking one register of words up gives eight columns of the panel.
    #[inline(always)]
    fn pack_blocks<S: FourBit>(
        &self,
        simd: S,
        scales: impl Scales,
        rows: Range<usize>,
        first: usize,
        depth: usize,
        panel: &mut [f32],
    ) {
        let FourBitView {
            cols,
            block_bits,
            packed,
            ..
        } = *self;
        assert!(first.is_multiple_of(8) && depth.is_multiple_of(8) && first + depth <= cols);
        let width = S::LANES * S::TILE_VECTORS;
        let table = simd.table(self.table);
        // Words are moved as f32, which leaves their bits alone.
        let mut words = [0f32; MAX_LANES * MAX_LANES];
        let mut transposed = [0f32; MAX_LANES * MAX_LANES + 1];
        let mut lane_scales = [0f32; MAX_LANES];
        for group in 0..rows.len().div_ceil(S::LANES) {
            let row = rows.start + group * S::LANES;
            let n_rows = S::LANES.min(rows.end - row);
            let mut block = usize::MAX;
            for word in (0..depth / 8).step_by(S::LANES) {
                let n_words = S::LANES.min(depth / 8 - word);
                for r in 0..n_rows {
                    let at = ((row + r) * cols + first) / 2 + 4 * word;
                    let bytes = &packed[at..][..4 * n_words];
                    // The rows of the next group: too many streams for the processor to foresee.
                    simd.prefetch(bytes.as_ptr().wrapping_add(S::LANES * cols / 2));
                    // SAFETY: so many words are there, and the row of words is as long as the lanes.
                    unsafe {
                        let register = simd.load_part(bytes.as_ptr().cast(), n_words);
                        simd.store(words[r * S::LANES..].as_mut_ptr(), register);
                    }
                }
                // SAFETY: both hold a block.
                unsafe { simd.transpose(words.as_ptr(), transposed.as_mut_ptr(), S::LANES) };
                for i in 0..n_words {
                    let column = 8 * (word + i);
                    if (first + column) >> block_bits != block {
                        block = (first + column) >> block_bits;
                        for (r, scale) in lane_scales.iter_mut().take(n_rows).enumerate() {
                            *scale = scales.at((((row + r) * cols) >> block_bits) + block);
                        }
                    }
                    let panel = &mut panel[column * width..][..8 * width];
                    // SAFETY: there are three bytes at least behind the block of words.
                    let values = unsafe {
                        simd.look_up_words(table, transposed.as_ptr().add(i * S::LANES).cast())
                    };
                    for (values, panel) in values.into_iter().zip(panel.chunks_exact_mut(width)) {
                        let scaled = simd.mul(values, simd.get(&lane_scales, 0));
                        simd.put(
                            &mut panel[..(group + 1) * S::LANES],
                            group * S::LANES,
                            scaled,
                        );
                    }
                }
            }
        }
    }
}
