//! Outlier columns of many rows of activations, in floats.

use llm_backend::Output;

use super::activations::Activations;
use super::rows::{CodeRows, Target};
use crate::gemm::panel_depth;
use crate::simd::{Kernel, Simd};
use crate::tile::{Elements, Product, Run};

/// Adds the products of the outlier columns of some rows of a weight to the output.
pub(super) struct OutlierProduct<'a> {
    pub(super) rows: CodeRows<'a>,
    pub(super) activations: &'a Activations<'a>,
    pub(super) target: Target<'a>,
    /// This thread's: at least [`scratch_len`](crate::gemm::scratch_len) long.
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for OutlierProduct<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = S::LANES * S::TILE_VECTORS;
        let Activations { x, cols, .. } = *self.activations;
        let n_tokens = self.activations.n_tokens();
        assert!(self.target.out.n_rows() >= n_tokens);
        let (panel, slab) = self.scratch.split_at_mut(panel_depth(width) * width);
        for outlier_cols in self.activations.outlier_cols.chunks(panel_depth(width)) {
            let depth = outlier_cols.len();
            let slab = &mut slab[..n_tokens * depth];
            for (slab, x) in slab.chunks_exact_mut(depth).zip(x.chunks_exact(cols)) {
                for (slab, &col) in slab.iter_mut().zip(outlier_cols) {
                    *slab = x[col as usize];
                }
            }
            for row in (0..self.rows.len()).step_by(width) {
                let n_rows = width.min(self.rows.len() - row);
                for (panel, &col) in panel.chunks_exact_mut(width).zip(outlier_cols) {
                    for (r, element) in panel[..n_rows].iter_mut().enumerate() {
                        *element = self.rows.element(row + r, col as usize);
                    }
                    panel[n_rows..].fill(0.0);
                }
                let column = self.target.column + self.rows.first + row;
                let panel = [Run {
                    start: panel.as_ptr().cast(),
                    n_rows: depth,
                }];
                let product = Product {
                    a: slab.as_ptr(),
                    a_stride: depth,
                    b: &panel,
                    b_stride: width,
                    c: self.target.out.as_mut_ptr(column..column + n_rows),
                    c_stride: self.target.out.width(),
                    bias: None,
                    output: Output::Add,
                    rows: n_tokens,
                    columns: n_rows,
                    factors: Elements::<f32>::NEW,
                };
                // SAFETY: slab and panel have been filled to these sizes; the output has a row for each token, as asserted,
                // and its columns are ours.
                unsafe { product.compute(simd) }
            }
        }
    }
}
