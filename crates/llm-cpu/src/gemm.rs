//! Weights times many rows: as fast as the processor multiplies.
//!
//! A panel of some weight rows is widened and transposed once and stays in the first-level cache while all tokens
//! pass, whose activations of these columns lie together in the second-level cache.

use std::ops::Range;

use half::{bf16, f16};
use llm_backend::Output;

use crate::dense::DenseView;
use crate::isa::Geometry;
use crate::matvec::GEMM_TOKENS;
use crate::share::Columns;
use crate::simd::{Element, ElementType, FourBit, Kernel, MAX_LANES, Simd};
use crate::tile::{Elements, Factors, Product, Run};
use crate::weight::Floats;

/// Some rows of a weight times all rows of x.
///
/// Every result is summed in order of the columns, [`panel_depth`] at a time, whatever is computed beside it.
pub(crate) struct Gemm<'a> {
    pub(crate) weight: Floats<'a>,
    pub(crate) bias: Option<DenseView<'a>>,
    /// The weight's rows to compute.
    pub(crate) rows: Range<usize>,
    /// `[n_tokens, cols]`.
    pub(crate) x: &'a [f32],
    pub(crate) n_tokens: usize,
    /// Of `[n_tokens, width]`: those of the rows.
    pub(crate) out: &'a Columns<'a>,
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

/// Scratch elements of a linear operation on more rows: a panel and a slab of the rows a thread.
pub(crate) fn gemm_len(n_tokens: usize, geometry: Geometry, n_threads: usize) -> usize {
    if n_tokens < GEMM_TOKENS {
        0
    } else {
        n_threads * scratch_len(n_tokens, geometry.panel)
    }
}

impl Kernel for Gemm<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        self.run_with(simd, OneByOne);
    }
}

/// What is done to a slab of x and to a panel before they are multiplied, and how they are then.
pub(crate) trait Preparation<S: Simd>: Copy {
    type Factors: Factors<S>;
    /// Columns of a lane.
    const COLUMNS: usize;

    fn factors(self) -> Self::Factors;
    /// The weight with whole lanes for elements, if they lie in its bytes as they are multiplied.
    fn lanes<'a>(self, weight: Floats<'a>) -> Option<DenseView<'a>>;
    /// Writes some columns of a row of x, a multiple of [`COLUMNS`](Self::COLUMNS), to as many `lanes` as they take.
    fn prepare_row(self, simd: S, x: &[f32], lanes: &mut [f32]);
    /// Prepares rows of a panel of registers, as many, where they lie.
    fn prepare_panel(self, simd: S, panel: &mut [f32], width: usize);
}

/// f32 as they are.
#[derive(Clone, Copy)]
struct OneByOne;

impl<S: Simd> Preparation<S> for OneByOne {
    type Factors = Elements<f32>;
    const COLUMNS: usize = 1;

    #[inline(always)]
    fn factors(self) -> Elements<f32> {
        Elements::NEW
    }

    #[inline(always)]
    fn lanes<'a>(self, _: Floats<'a>) -> Option<DenseView<'a>> {
        None
    }

    #[inline(always)]
    fn prepare_row(self, _: S, x: &[f32], lanes: &mut [f32]) {
        lanes.copy_from_slice(x);
    }

    #[inline(always)]
    fn prepare_panel(self, _: S, _: &mut [f32], _: usize) {}
}

impl Gemm<'_> {
    #[inline(always)]
    pub(crate) fn run_with<S: FourBit, P: Preparation<S>>(mut self, simd: S, preparation: P) {
        let width = S::LANES * S::TILE_VECTORS;
        let (n_rows, cols) = (self.weight.rows(), self.weight.cols());
        assert!(self.rows.end <= n_rows);
        assert!(self.x.len() >= self.n_tokens * cols);
        assert!(self.out.n_rows() >= self.n_tokens);
        assert!(self.scratch.len() >= scratch_len(self.n_tokens, width));
        // A panel of lanes has room for more columns than one of elements.
        let lanes = preparation.lanes(self.weight);
        let deepest = lanes.map_or(1, |_| P::COLUMNS) * panel_depth(width);
        // The columns outermost: a slab of x then stays in the second-level cache while the rows pass.
        for first in (0..cols).step_by(deepest) {
            let depth = deepest.min(cols - first);
            let is_prepared = depth.is_multiple_of(P::COLUMNS);
            if is_prepared {
                self.gather(simd, preparation, first, depth / P::COLUMNS);
            } else {
                self.gather(simd, OneByOne, first, depth);
            }
            for row in self.rows.clone().step_by(width) {
                let rows = row..(row + width).min(self.rows.end);
                if let Some(lanes) = lanes {
                    let (first, depth) = (first / P::COLUMNS, depth / P::COLUMNS);
                    let panel = &mut self.scratch[..PANEL_ELEMENTS];
                    pack::<S, f32>(simd, lanes, rows.clone(), first, depth, panel);
                } else {
                    self.pack(simd, rows.clone(), first, depth);
                    if is_prepared {
                        let panel = &mut self.scratch[..depth * width];
                        preparation.prepare_panel(simd, panel, width);
                    }
                }
                if is_prepared {
                    let n_lanes = depth / P::COLUMNS;
                    self.multiply(simd, preparation.factors(), rows, first, n_lanes);
                } else {
                    self.multiply(simd, Elements::<f32>::NEW, rows, first, depth);
                }
            }
        }
    }

    /// Prepares so many lanes of each row of x, from column `first` on, beside each other: rows of a power of two would share
    /// a few of a cache's sets.
    #[inline(always)]
    fn gather<S: Simd, P: Preparation<S>>(
        &mut self,
        simd: S,
        preparation: P,
        first: usize,
        n_lanes: usize,
    ) {
        let width = S::LANES * S::TILE_VECTORS;
        let slab = &mut self.scratch[PANEL_ELEMENTS + width..][..self.n_tokens * n_lanes];
        let rows = self.x.chunks_exact(self.weight.cols());
        for (lanes, x) in slab.chunks_exact_mut(n_lanes).zip(rows) {
            preparation.prepare_row(simd, &x[first..first + n_lanes * P::COLUMNS], lanes);
        }
    }

    /// Writes columns `first..first + depth` of `rows` into the panel, transposed: `depth` rows of a register tile's
    /// columns, anything beyond `rows`.
    ///
    /// Storage of the weight is looked up for each panel, so that the product is compiled once for all.
    #[inline(always)]
    fn pack<S: FourBit>(&mut self, simd: S, rows: Range<usize>, first: usize, depth: usize) {
        let panel = &mut self.scratch[..PANEL_ELEMENTS];
        match self.weight {
            Floats::Dense(weight) => match weight.element {
                ElementType::F32 => pack::<S, f32>(simd, weight, rows, first, depth, panel),
                ElementType::F16 => pack::<S, f16>(simd, weight, rows, first, depth, panel),
                ElementType::Bf16 => pack::<S, bf16>(simd, weight, rows, first, depth, panel),
            },
            Floats::FourBit(weight) => weight.pack(simd, rows, first, depth, panel),
            Floats::Packed(weight) => weight.pack(simd, rows, first..first + depth, panel),
        }
    }

    #[inline(always)]
    fn multiply<S: Simd, F: Factors<S>>(
        &mut self,
        simd: S,
        factors: F,
        rows: Range<usize>,
        first: usize,
        n_lanes: usize,
    ) {
        let width = S::LANES * S::TILE_VECTORS;
        let (panel, rest) = self.scratch.split_at_mut(PANEL_ELEMENTS);
        let (bias_row, slab) = rest.split_at_mut(width);
        let bias = self.bias.filter(|_| first == 0).map(|bias| {
            for (i, row) in rows.clone().enumerate() {
                bias_row[i] = bias.element(row);
            }
            bias_row.as_ptr()
        });
        let panel = [Run {
            start: panel.as_ptr().cast(),
            n_rows: n_lanes,
        }];
        let columns = self.out_column + rows.start..self.out_column + rows.end;
        let product = Product {
            a: slab.as_ptr(),
            a_stride: n_lanes,
            b: &panel,
            b_stride: width,
            c: self.out.as_mut_ptr(columns),
            c_stride: self.out.width(),
            bias,
            output: if first == 0 { self.output } else { Output::Add },
            rows: self.n_tokens,
            columns: rows.len(),
            factors,
        };
        // SAFETY: `run` asserts that scratch and out are long enough; panel and bias row have all columns of a tile; those
        // of `out` are ours.
        unsafe { product.compute(simd) }
    }
}

/// [`Gemm::pack`] of a weight of elements `E`.
#[inline(always)]
fn pack<S: Simd, E: Element>(
    simd: S,
    weight: DenseView<'_>,
    rows: Range<usize>,
    first: usize,
    depth: usize,
    panel: &mut [f32],
) {
    let cols = weight.cols;
    transpose_rows(simd, rows, depth, panel, |row, column, block| {
        // SAFETY: row and column lie within the weight, as the kernel asserts, and are read up to their last element.
        unsafe {
            let src = weight.as_ptr().add((row * cols + first + column) * E::SIZE);
            // The rows of the next group: too many streams for the processor to foresee.
            simd.prefetch(src.wrapping_add(S::LANES * cols * E::SIZE));
            simd.put(block, 0, E::load_part(simd, src, depth - column));
        }
    });
}

/// Transposes `rows` into `panel`. `load` writes a register of a row's columns, from that column of the panel on, to a
/// slice as long, zeros beyond the last.
#[inline(always)]
pub(crate) fn transpose_rows<S: Simd>(
    simd: S,
    rows: Range<usize>,
    depth: usize,
    panel: &mut [f32],
    load: impl Fn(usize, usize, &mut [f32]),
) {
    let width = S::LANES * S::TILE_VECTORS;
    let panel = panel[..depth.next_multiple_of(S::LANES) * width].as_mut_ptr();
    let mut block = [0f32; MAX_LANES * MAX_LANES];
    for group in 0..rows.len().div_ceil(S::LANES) {
        let row = rows.start + group * S::LANES;
        let n_rows = S::LANES.min(rows.end - row);
        for column in (0..depth).step_by(S::LANES) {
            for (r, block) in block.chunks_exact_mut(S::LANES).take(n_rows).enumerate() {
                load(row + r, column, block);
            }
            // SAFETY: a block is there to read; a panel of whole blocks lies within the slice above.
            unsafe {
                let dst = panel.add(column * width + group * S::LANES);
                simd.transpose(block.as_ptr(), dst, width);
            }
        }
    }
}

/// f32 in a panel: 32 KiB, most of a first-level cache.
const PANEL_ELEMENTS: usize = 8192;
