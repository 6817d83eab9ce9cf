//! Products of heads with rows of a matrix that are their own.

use std::ops::Range;

use half::{bf16, f16};
use llm_backend::{HeadProducts, MatrixSide, Output};

use crate::Cpu;
use crate::dense::DenseView;
use crate::gemm::transpose_rows;
use crate::matvec::GEMM_TOKENS;
use crate::share::{Columns, Matrix};
use crate::simd::{Element, ElementType, Kernel, MAX_PANEL, Simd};
use crate::tile::{Elements, Product, Run};

/// Heads of rows of `x` into those of `out`; each thread has some heads.
pub(crate) fn products(
    cpu: &Cpu,
    op: &HeadProducts<'_, Cpu>,
    x: &[f32],
    out: &mut [f32],
    n_tokens: usize,
) {
    let weight = op.weight.dense();
    op.check((weight.rows, weight.cols));
    let ((from, to), (x_width, out_width)) = (op.dims(), op.widths());
    let x = &x[..n_tokens * x_width];
    let out = Matrix::new(&mut out[..n_tokens * out_width], out_width);
    let min_heads = MIN_WORK.div_ceil((from * to * n_tokens).max(1));
    cpu.pool.split(op.n_heads, min_heads, (), |heads, ()| {
        for head in heads {
            let first_row = head * op.stride + op.first;
            let columns = head * (to + op.carried)..(head + 1) * (to + op.carried);
            // SAFETY: a head's columns are its own, and it is this thread's alone.
            let mut out = unsafe { out.columns(columns.clone()) };
            let first = head * (from + op.carried);
            for token in 0..n_tokens {
                let carried = &x[token * x_width + first + from..][..op.carried];
                out.slice(token, columns.start + to..columns.end)
                    .copy_from_slice(carried);
            }
            cpu.level.run(HeadProduct {
                weight,
                rows: first_row..first_row + op.n_rows,
                side: op.side,
                x,
                x_width,
                first,
                n_tokens,
                out: &out,
                columns: columns.start..columns.start + to,
            });
        }
    });
}

/// One head of all rows times its rows of a matrix.
struct HeadProduct<'a> {
    weight: DenseView<'a>,
    /// Those of the matrix.
    rows: Range<usize>,
    side: MatrixSide,
    /// `[n_tokens, x_width]`, the head from `first` on.
    x: &'a [f32],
    x_width: usize,
    first: usize,
    n_tokens: usize,
    out: &'a Columns<'a>,
    /// Those of the head's result.
    columns: Range<usize>,
}

impl Kernel for HeadProduct<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.weight.element {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl HeadProduct<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(self, simd: S) {
        assert!(self.rows.end <= self.weight.rows && self.n_tokens <= self.out.n_rows());
        let n = match self.side {
            MatrixSide::Rows => self.weight.cols,
            MatrixSide::Columns => self.rows.len(),
        };
        assert!(self.first + n <= self.x_width);
        assert!(self.n_tokens * self.x_width <= self.x.len());
        match self.side {
            MatrixSide::Columns => self.by_columns::<S, E>(simd),
            MatrixSide::Rows if self.n_tokens < GEMM_TOKENS => self.by_dots::<S, E>(simd),
            MatrixSide::Rows => self.by_rows::<S, E>(simd),
        }
    }

    /// Whole registers of columns where they lie; of the last columns a copy, since what follows need not be there.
    #[inline(always)]
    fn by_columns<S: Simd, E: Element>(&self, simd: S) {
        let (panel, cols) = (S::LANES * S::TILE_VECTORS, self.weight.cols);
        let start = |row: usize, column: usize| {
            let element = (self.rows.start + row) * cols + column;
            self.weight.as_ptr().wrapping_add(element * E::SIZE)
        };
        let whole = cols - cols % panel;
        for column in (0..whole).step_by(panel) {
            let run = [Run {
                start: start(0, column),
                n_rows: self.rows.len(),
            }];
            // SAFETY: the rows have a whole panel of columns from there on.
            unsafe { self.multiply::<S, E>(simd, 0, &run, cols, column..column + panel) };
        }
        let mut copy = [0f32; MAX_PANEL * MAX_PANEL];
        for first in (0..self.rows.len()).step_by(panel) {
            let n_rows = panel.min(self.rows.len() - first);
            for (row, copy) in copy.chunks_exact_mut(panel).take(n_rows).enumerate() {
                for at in (0..cols - whole).step_by(S::LANES) {
                    // SAFETY: the columns that are left of a row that there is.
                    let values = unsafe {
                        let src = start(first + row, whole + at);
                        E::load_part(simd, src, cols - whole - at)
                    };
                    simd.put(copy, at, values);
                }
            }
            if whole < cols {
                // SAFETY: the copy has a whole panel of columns.
                unsafe { self.multiply_panel(simd, first, (&copy, n_rows), whole..cols) };
            }
        }
    }

    /// Rows transposed, a panel at a time.
    #[inline(always)]
    fn by_rows<S: Simd, E: Element>(&self, simd: S) {
        let (panel, cols) = (S::LANES * S::TILE_VECTORS, self.weight.cols);
        let mut turned = [0f32; MAX_PANEL * MAX_PANEL];
        for row in (0..self.rows.len()).step_by(panel) {
            let n_rows = panel.min(self.rows.len() - row);
            let rows = self.rows.start + row..self.rows.start + row + n_rows;
            for first in (0..cols).step_by(panel) {
                let depth = panel.min(cols - first);
                transpose_rows(
                    simd,
                    rows.clone(),
                    depth,
                    &mut turned,
                    |row, column, block| {
                        // SAFETY: the columns that are left of a row that there is.
                        unsafe {
                            let element = row * cols + first + column;
                            let src = self.weight.as_ptr().add(element * E::SIZE);
                            simd.put(block, 0, E::load_part(simd, src, depth - column));
                        }
                    },
                );
                // SAFETY: a panel has all columns of a tile.
                unsafe { self.multiply_panel(simd, first, (&turned, depth), row..row + n_rows) };
            }
        }
    }

    /// Elements of the head from `first` on times a panel of as many rows, which is the first of its columns or added to those.
    ///
    /// # Safety
    /// The panel has those rows, and all columns of a tile to read.
    #[inline(always)]
    unsafe fn multiply_panel<S: Simd>(
        &self,
        simd: S,
        first: usize,
        (panel, n_rows): (&[f32], usize),
        columns: Range<usize>,
    ) {
        let run = [Run {
            start: panel.as_ptr().cast(),
            n_rows,
        }];
        // SAFETY: as the caller promises.
        unsafe {
            self.multiply::<S, f32>(simd, first, &run, S::LANES * S::TILE_VECTORS, columns);
        }
    }

    /// The same of rows of elements `E`, `stride` apart.
    ///
    /// # Safety
    /// As for [`multiply_panel`](Self::multiply_panel).
    #[inline(always)]
    unsafe fn multiply<S: Simd, E: Element>(
        &self,
        simd: S,
        first: usize,
        b: &[Run],
        stride: usize,
        columns: Range<usize>,
    ) {
        let n_columns = columns.len();
        let columns = self.columns.start + columns.start..self.columns.start + columns.end;
        let product = Product {
            a: self.x[self.first + first..].as_ptr(),
            a_stride: self.x_width,
            b,
            b_stride: stride,
            c: self.out.as_mut_ptr(columns),
            c_stride: self.out.width(),
            bias: None,
            output: if first == 0 {
                Output::Write
            } else {
                Output::Add
            },
            rows: self.n_tokens,
            columns: n_columns,
            factors: Elements::<E>::NEW,
        };
        // SAFETY: `all` asserts that x has the head's elements and `out` the rows, whose columns are ours; `b` is as the caller
        // promises.
        unsafe { product.compute(simd) };
    }

    /// A sum for each row and token: as fast as the rows can be read.
    #[inline(always)]
    fn by_dots<S: Simd, E: Element>(&self, simd: S) {
        let n_rows = self.rows.len();
        for row in (0..n_rows - n_rows % TOGETHER).step_by(TOGETHER) {
            self.dots::<S, E, TOGETHER>(simd, row);
        }
        for row in n_rows - n_rows % TOGETHER..n_rows {
            self.dots::<S, E, 1>(simd, row);
        }
    }

    /// `R` rows from `row` on times each token.
    #[inline(always)]
    fn dots<S: Simd, E: Element, const R: usize>(&self, simd: S, row: usize) {
        let cols = self.weight.cols;
        for token in 0..self.n_tokens {
            let x = &self.x[token * self.x_width + self.first..][..cols];
            let mut sums = [simd.splat(0.0); R];
            for at in (0..cols).step_by(S::LANES) {
                let x = simd.get(x, at);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let element = (self.rows.start + row + r) * cols + at;
                    // SAFETY: the columns that are left of a row that there is, as `all` asserts.
                    let w = unsafe {
                        let src = self.weight.as_ptr().add(element * E::SIZE);
                        E::load_part(simd, src, cols - at)
                    };
                    *sum = simd.fma(w, x, *sum);
                }
            }
            for (r, sum) in sums.into_iter().enumerate() {
                let column = self.columns.start + row + r;
                let sum = simd.reduce_add(sum);
                self.out.put(token, column, &[sum], Output::Write);
            }
        }
    }
}

/// Rows whose sums are computed together.
const TOGETHER: usize = 4;
/// Multiplications below which a thread is not worth a fork: some microseconds of reading weights.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 15 };
