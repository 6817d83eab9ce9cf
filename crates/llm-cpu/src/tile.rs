//! The register tile that both the linear operations of a prompt and attention are made of.

use std::marker::PhantomData;

use llm_backend::Output;

use crate::simd::{Element, Simd};

/// Multiplication of what lies in `a` and `b`: of elements, or of pairs of them in a word.
pub(crate) trait Factors<S: Simd>: Copy {
    /// Bytes that a lane takes in `b`.
    const SIZE: usize;

    /// A register of `b`.
    ///
    /// # Safety
    /// `src` can be read for `LANES · SIZE` bytes; no alignment is needed.
    unsafe fn load(self, simd: S, src: *const u8) -> S::F32;
    /// `sum` and the products of each lane.
    fn multiply_add(self, simd: S, a: S::F32, b: S::F32, sum: S::F32) -> S::F32;
}

/// Elements `E`, one by one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements<E>(PhantomData<E>);

impl<E> Elements<E> {
    pub(crate) const NEW: Self = Elements(PhantomData);
}

impl<S: Simd, E: Element> Factors<S> for Elements<E> {
    const SIZE: usize = E::SIZE;

    #[inline(always)]
    unsafe fn load(self, simd: S, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { E::load(simd, src) }
    }

    #[inline(always)]
    fn multiply_add(self, simd: S, a: S::F32, b: S::F32, sum: S::F32) -> S::F32 {
        simd.fma(a, b, sum)
    }
}

/// `c [rows, columns]` (= or +=) `a [rows, depth] · b [depth, columns] + bias [columns]`.
///
/// Along a row, `a` and `c` are contiguous; `b` too, and it has `columns` rounded up to the registers of a tile
/// (1, 2 or 4) to read; so has `bias`.
#[derive(Debug)]
pub(crate) struct Product<'a, F> {
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    /// The depth's rows, run by run.
    pub(crate) b: &'a [Run],
    /// In elements.
    pub(crate) b_stride: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    pub(crate) bias: Option<*const f32>,
    pub(crate) output: Output,
    pub(crate) rows: usize,
    /// At most `LANES · TILE_VECTORS`.
    pub(crate) columns: usize,
    pub(crate) factors: F,
}

/// Rows of `b` that follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) start: *const u8,
    pub(crate) n_rows: usize,
}

impl<F: Copy> Product<'_, F> {
    /// Every element of `c` is summed in order of the depth, whatever the tiles around it.
    ///
    /// # Safety
    /// The pointers are good for what the struct's description says is read and written, and nobody else touches the
    /// elements of `c` meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn compute<S: Simd>(&self, simd: S)
    where
        F: Factors<S>,
    {
        // SAFETY: as the caller promises.
        unsafe {
            match self.columns.div_ceil(S::LANES) {
                0 | 1 => self.columns_of::<S, 1>(simd),
                2 => self.columns_of::<S, 2>(simd),
                _ if S::TILE_VECTORS > 2 => self.columns_of::<S, 4>(simd),
                _ => debug_assert!(false, "a product of {} columns", self.columns),
            }
        }
    }

    /// # Safety
    /// As for [`compute`](Self::compute).
    #[inline(always)]
    unsafe fn columns_of<S: Simd, const V: usize>(&self, simd: S)
    where
        F: Factors<S>,
    {
        let mut row = 0;
        // SAFETY: as the caller promises; each tile lies within the rows.
        unsafe {
            while S::TILE_ROWS >= 6 && row + 6 <= self.rows {
                self.tile::<S, 6, V>(simd, row);
                row += 6;
            }
            if S::TILE_ROWS >= 4 && row + 4 <= self.rows {
                self.tile::<S, 4, V>(simd, row);
                row += 4;
            }
            if S::TILE_ROWS >= 3 && row + 3 <= self.rows {
                self.tile::<S, 3, V>(simd, row);
                row += 3;
            }
            while row + 2 <= self.rows {
                self.tile::<S, 2, V>(simd, row);
                row += 2;
            }
            if row < self.rows {
                self.tile::<S, 1, V>(simd, row);
            }
        }
    }

    /// `R` rows from `row` on, all columns, in registers.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute), and the rows exist.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&self, simd: S, row: usize)
    where
        F: Factors<S>,
    {
        let mut sums = [[simd.splat(0.0); V]; R];
        // SAFETY: as the caller promises.
        unsafe {
            let mut a = self.a.add(row * self.a_stride);
            // What the sums are added to arrives while they are computed.
            for r in 0..R {
                for v in 0..V {
                    let c = self
                        .c
                        .wrapping_add((row + r) * self.c_stride + v * S::LANES);
                    simd.prefetch(c.cast());
                }
            }
            for run in self.b {
                for k in 0..run.n_rows {
                    let mut b = [simd.splat(0.0); V];
                    for (v, b) in b.iter_mut().enumerate() {
                        let at = k * self.b_stride + v * S::LANES;
                        *b = self.factors.load(simd, run.start.add(at * F::SIZE));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let a = simd.splat(*a.add(r * self.a_stride + k));
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum = self.factors.multiply_add(simd, a, b, *sum);
                        }
                    }
                }
                a = a.add(run.n_rows);
            }
            if self.columns == V * S::LANES && self.bias.is_none() {
                let c = self.c.add(row * self.c_stride);
                return self.finish_whole::<S, R, V>(simd, c, sums);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                let c = self.c.add((row + r) * self.c_stride);
                for (v, sum) in sums.into_iter().enumerate() {
                    self.finish(simd, c, v * S::LANES, sum);
                }
            }
        }
    }

    /// Writes rows of whole registers, the first of which starts at `c`.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    #[inline(always)]
    unsafe fn finish_whole<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        c: *mut f32,
        sums: [[S::F32; V]; R],
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            if let Output::Add = self.output {
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        let c = c.add(r * self.c_stride + v * S::LANES);
                        simd.store(c, simd.add(simd.load(c), sum));
                    }
                }
            } else {
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        simd.store(c.add(r * self.c_stride + v * S::LANES), sum);
                    }
                }
            }
        }
    }

    /// Writes one register of a row that starts at `c`.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, simd: S, c: *mut f32, column: usize, mut sum: S::F32) {
        let n = self.columns.saturating_sub(column);
        // SAFETY: as the caller promises; `n` columns are left.
        unsafe {
            if let Some(bias) = self.bias {
                sum = simd.add(sum, simd.load(bias.add(column)));
            }
            let c = c.wrapping_add(column);
            if let Output::Add = self.output {
                sum = simd.add(simd.load_part(c, n), sum);
            }
            simd.store_part(c, sum, n);
        }
    }
}
