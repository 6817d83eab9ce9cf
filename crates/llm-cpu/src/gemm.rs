//! Weights times many rows: as fast as the processor multiplies.
//!
//! A panel of some weight rows is widened and transposed once and stays in the first-level cache while all tokens
//! pass, whose activations of these columns lie together in the second-level cache.

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use llm_backend::Output;

use crate::memory::Shared;
use crate::simd::{Element, ElementType, Kernel, MAX_LANES, Simd};
use crate::tile::Product;
use crate::weight::WeightView;

/// Some rows of a weight times all rows of x.
///
/// Every result is summed in order of the columns, [`panel_depth`] at a time, whatever is computed beside it.
pub(crate) struct Gemm<'a> {
    pub(crate) weight: WeightView<'a>,
    pub(crate) bias: Option<WeightView<'a>>,
    /// The weight's rows to compute; nobody else writes their columns of `out`.
    pub(crate) rows: Range<usize>,
    /// `[n_tokens, cols]`.
    pub(crate) x: &'a [f32],
    pub(crate) n_tokens: usize,
    /// `[n_tokens, out_width]`.
    pub(crate) out: Shared<'a>,
    pub(crate) out_len: usize,
    pub(crate) out_width: usize,
    /// The column of the weight's row 0.
    pub(crate) out_column: usize,
    pub(crate) output: Output,
    /// This thread's scratch, [`scratch_len`] long.
    pub(crate) scratch: &'a mut [f32],
}

/// Columns of a weight in a panel of `panel` rows.
pub(crate) const fn panel_depth(panel: usize) -> usize {
    PANEL_ELEMENTS / panel
}

/// Elements of a thread's scratch: the panel, the bias of its rows and a slab of x.
pub(crate) const fn scratch_len(n_tokens: usize, panel: usize) -> usize {
    PANEL_ELEMENTS + panel + n_tokens * panel_depth(panel)
}

impl Kernel for Gemm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.weight.element {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl Gemm<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(mut self, simd: S) {
        let width = S::LANES * S::TILE_VECTORS;
        let cols = self.weight.cols;
        assert!(self.rows.end <= self.weight.rows);
        assert!(self.x.len() >= self.n_tokens * cols);
        assert!(self.out_column + self.weight.rows <= self.out_width);
        assert!(self.out_len >= self.n_tokens * self.out_width);
        assert!(self.scratch.len() >= scratch_len(self.n_tokens, width));
        // The columns outermost: a slab of x then stays in the second-level cache while the rows pass.
        for first in (0..cols).step_by(panel_depth(width)) {
            let depth = panel_depth(width).min(cols - first);
            self.gather(first, depth, width);
            for row in self.rows.clone().step_by(width) {
                let rows = row..(row + width).min(self.rows.end);
                self.pack::<S, E>(simd, rows.clone(), first, depth);
                self.multiply::<S>(simd, rows, first, depth);
            }
        }
    }

    /// Copies columns `first..first + depth` of x together: rows of a power of two would share a few of a cache's
    /// sets.
    #[inline(always)]
    fn gather(&mut self, first: usize, depth: usize, width: usize) {
        let slab = &mut self.scratch[PANEL_ELEMENTS + width..][..self.n_tokens * depth];
        let rows = self.x.chunks_exact(self.weight.cols);
        for (slab, x) in slab.chunks_exact_mut(depth).zip(rows) {
            slab.copy_from_slice(&x[first..first + depth]);
        }
    }

    /// Writes columns `first..first + depth` of `rows` into the panel, transposed, rows beyond the last as zeros.
    #[inline(always)]
    fn pack<S: Simd, E: Element>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        first: usize,
        depth: usize,
    ) {
        let width = S::LANES * S::TILE_VECTORS;
        let cols = self.weight.cols;
        let panel = self.scratch[..depth.next_multiple_of(S::LANES) * width].as_mut_ptr();
        let mut block = [0f32; MAX_LANES * MAX_LANES];
        for group in 0..rows.len().div_ceil(S::LANES) {
            let row = rows.start + group * S::LANES;
            let n_rows = S::LANES.min(rows.end - row);
            // What a fuller group left in the block is not part of this one.
            block[n_rows * S::LANES..].fill(0.0);
            for column in (0..depth).step_by(S::LANES) {
                // SAFETY: rows and columns lie within the weight, as `all` asserts, and are read up to their last
                // element; a panel of whole blocks lies within the scratch, as sliced above.
                unsafe {
                    let at = |r: usize| (row + r) * cols + first + column;
                    for r in 0..n_rows {
                        let src = self.weight.as_ptr().add(at(r) * E::SIZE);
                        // The rows of the next group: too many streams for the processor to foresee.
                        simd.prefetch(src.wrapping_add(S::LANES * cols * E::SIZE));
                        let x = E::load_part(simd, src, depth - column);
                        simd.store(block.as_mut_ptr().add(r * S::LANES), x);
                    }
                    let dst = panel.add(column * width + group * S::LANES);
                    simd.transpose(block.as_ptr(), dst, width);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(&mut self, simd: S, rows: Range<usize>, first: usize, depth: usize) {
        let width = S::LANES * S::TILE_VECTORS;
        let (panel, rest) = self.scratch.split_at_mut(PANEL_ELEMENTS);
        let (bias_row, slab) = rest.split_at_mut(width);
        let bias = self.bias.filter(|_| first == 0).map(|bias| {
            for (i, row) in rows.clone().enumerate() {
                bias_row[i] = bias.element(row);
            }
            bias_row.as_ptr()
        });
        let product = Product::<f32> {
            a: slab.as_ptr(),
            a_stride: depth,
            b: panel.as_ptr().cast(),
            b_stride: width,
            c: self
                .out
                .as_mut_ptr()
                .wrapping_add(self.out_column + rows.start),
            c_stride: self.out_width,
            bias,
            output: if first == 0 { self.output } else { Output::Add },
            rows: self.n_tokens,
            depth,
            columns: rows.len(),
            element: PhantomData,
        };
        // SAFETY: `all` asserts that scratch and out are long enough; panel and bias row have all columns of a tile; the
        // caller of the kernel owns these columns of `out`.
        unsafe { product.compute(simd) }
    }
}

/// f32 in a panel: 32 KiB, most of a first-level cache.
const PANEL_ELEMENTS: usize = 8192;
