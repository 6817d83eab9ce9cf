//! Memory that the threads of a region write together, each in a piece of its own.
//!
//! The pool gives every unit to one thread; [`Divide`] turns that into exclusive borrows. So kernels get slices and
//! [`Columns`], and promise nothing.

use std::marker::PhantomData;
use std::ops::Range;

use llm_backend::Output;

use crate::Cpu;

/// Elements below which a thread is not worth a fork in passes that compute little for each.
pub(crate) const MIN_ELEMENTS: usize = if cfg!(miri) { 1 } else { 1 << 13 };

impl Cpu {
    /// Splits rows of `out` among the threads.
    pub(crate) fn by_rows(
        &self,
        out: &mut [f32],
        width: usize,
        task: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let n_rows = out.len() / width.max(1);
        let min_rows = MIN_ELEMENTS.div_ceil(width.max(1));
        self.pool
            .split(n_rows, min_rows, Rows::new(out, width), task);
    }
}

/// Memory of which every thread takes a piece; a region takes it whole, and there is no second of it.
///
/// # Safety
/// Pieces overlap neither for different threads nor for different units.
pub(crate) unsafe trait Divide: Sync {
    /// Exclusive access to a part of it.
    type Piece;

    /// The piece of `thread`, which has `units`.
    ///
    /// # Safety
    /// Nobody else asks for this thread's piece, nor for one of these units.
    unsafe fn piece(&self, thread: usize, units: Range<usize>) -> Self::Piece;
}

// SAFETY: there is nothing.
unsafe impl Divide for () {
    type Piece = ();

    unsafe fn piece(&self, _: usize, _: Range<usize>) {}
}

// SAFETY: the pieces of each do not overlap, and neither do the two, being exclusive borrows.
unsafe impl<A: Divide, B: Divide> Divide for (A, B) {
    type Piece = (A::Piece, B::Piece);

    unsafe fn piece(&self, thread: usize, units: Range<usize>) -> Self::Piece {
        // SAFETY: as the caller promises.
        unsafe {
            (
                self.0.piece(thread, units.clone()),
                self.1.piece(thread, units),
            )
        }
    }
}

/// Rows, of which every unit is one.
pub(crate) struct Rows<'a, T = f32> {
    elements: Shared<'a, T>,
    width: usize,
}

impl<'a, T> Rows<'a, T> {
    /// `elements` `[n_units, width]`.
    pub(crate) fn new(elements: &'a mut [T], width: usize) -> Self {
        Rows {
            elements: Shared::new(elements),
            width,
        }
    }
}

// SAFETY: rows do not overlap.
unsafe impl<'a, T: Send> Divide for Rows<'a, T> {
    type Piece = &'a mut [T];

    unsafe fn piece(&self, _: usize, units: Range<usize>) -> &'a mut [T] {
        let elements = units.start * self.width..units.end * self.width;
        // SAFETY: these rows are nobody else's.
        unsafe { self.elements.range(elements) }
    }
}

/// Scratch memory, as much for each thread.
pub(crate) struct Scratch<'a> {
    memory: Shared<'a>,
    len: usize,
}

impl<'a> Scratch<'a> {
    /// `memory` `[n_threads, len]`.
    pub(crate) fn new(memory: &'a mut [f32], len: usize) -> Self {
        Scratch {
            memory: Shared::new(memory),
            len,
        }
    }
}

// SAFETY: every thread has a span of its own.
unsafe impl<'a> Divide for Scratch<'a> {
    type Piece = &'a mut [f32];

    unsafe fn piece(&self, thread: usize, _: Range<usize>) -> &'a mut [f32] {
        // SAFETY: this thread's span is nobody else's.
        unsafe {
            self.memory
                .range(thread * self.len..(thread + 1) * self.len)
        }
    }
}

/// A matrix, of which every unit is a column.
pub(crate) struct Matrix<'a> {
    elements: Shared<'a>,
    width: usize,
}

impl<'a> Matrix<'a> {
    /// `elements` `[_, width]`.
    pub(crate) fn new(elements: &'a mut [f32], width: usize) -> Self {
        Matrix {
            elements: Shared::new(elements),
            width,
        }
    }

    /// Some columns.
    ///
    /// # Panics
    /// When the matrix has none of them.
    ///
    /// # Safety
    /// Nobody else has these columns.
    pub(crate) unsafe fn columns(&self, columns: Range<usize>) -> Columns<'a> {
        assert!(columns.end <= self.width, "columns {columns:?} of a row");
        Columns {
            elements: self.elements,
            width: self.width,
            range: columns,
            not_sync: PhantomData,
        }
    }
}

// SAFETY: columns do not overlap.
unsafe impl<'a> Divide for Matrix<'a> {
    type Piece = Columns<'a>;

    unsafe fn piece(&self, _: usize, units: Range<usize>) -> Columns<'a> {
        // SAFETY: these columns are nobody else's.
        unsafe { self.columns(units) }
    }
}

/// Columns of a matrix that belong to one thread.
pub(crate) struct Columns<'a> {
    elements: Shared<'a>,
    width: usize,
    range: Range<usize>,
    /// Elements are written by way of shared references, as those of a `Cell` are.
    not_sync: PhantomData<*mut f32>,
}

impl Columns<'_> {
    /// Rows of the matrix.
    #[inline(always)]
    pub(crate) fn n_rows(&self) -> usize {
        self.elements.len / self.width
    }

    /// Elements of a row of the matrix.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Elements of a row in some of the columns.
    ///
    /// # Panics
    /// When there is no such row, or another thread has one of the columns.
    #[inline(always)]
    pub(crate) fn slice(&mut self, row: usize, columns: Range<usize>) -> &mut [f32] {
        // SAFETY: the columns are this thread's, and borrowed as long as the elements are.
        unsafe { self.elements.range(self.at(row, columns)) }
    }

    /// Writes `values` to a row, or adds them, from `column` on.
    ///
    /// # Panics
    /// As for [`Columns::slice`].
    #[inline(always)]
    pub(crate) fn put(&self, row: usize, column: usize, values: &[f32], output: Output) {
        let at = self.at(row, column..column + values.len());
        // SAFETY: the columns are this thread's, and no reference to their elements outlives a call.
        let out = unsafe { self.elements.range(at) };
        match output {
            Output::Write => out.copy_from_slice(values),
            Output::Add => {
                for (out, value) in out.iter_mut().zip(values) {
                    *out += value;
                }
            }
        }
    }

    /// The first row's element in the first of some of the columns; in each row, `width` elements after that of the row
    /// before, the columns may be written to.
    ///
    /// # Panics
    /// When another thread has one of the columns.
    #[inline(always)]
    pub(crate) fn as_mut_ptr(&self, columns: Range<usize>) -> *mut f32 {
        self.elements.start.wrapping_add(self.at(0, columns).start)
    }

    #[inline(always)]
    fn at(&self, row: usize, columns: Range<usize>) -> Range<usize> {
        assert!(
            self.range.start <= columns.start && columns.end <= self.range.end,
            "columns {columns:?} of {:?}",
            self.range
        );
        row * self.width + columns.start..row * self.width + columns.end
    }
}

/// A slice that several threads write, each to elements of its own.
pub(crate) struct Shared<'a, T = f32> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever makes references or pointers from it promises that they do not overlap another thread's.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            lifetime: PhantomData,
        }
    }

    /// The first element; what is written through it must not overlap what another thread touches.
    pub(crate) fn as_mut_ptr(self) -> *mut T {
        self.start
    }

    /// # Panics
    /// When the range leaves the slice.
    ///
    /// # Safety
    /// No other reference to, or access of, these elements exists while this one lives.
    #[inline(always)]
    pub(crate) unsafe fn range(self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::pool::Pool;

    /// Each thread writes what is its own, of all kinds of memory at once.
    #[test]
    fn threads_write_pieces_of_their_own() {
        let pool = Pool::new(3).unwrap();
        let mut rows = [0.0; 7 * 2];
        let mut matrix = [1.0; 3 * 7];
        let mut scratch = [0.0; 3 * 4];
        let memory = (
            Rows::new(&mut rows, 2),
            (Matrix::new(&mut matrix, 7), Scratch::new(&mut scratch, 4)),
        );
        pool.split(7, 1, memory, |units, (rows, (mut columns, scratch))| {
            scratch.fill(units.start as f32);
            rows.fill(scratch[3]);
            for row in 0..columns.n_rows() {
                let values = vec![row as f32; units.len()];
                columns.put(row, units.start, &values, Output::Add);
                columns.slice(row, units.clone())[0] = scratch[0];
                // SAFETY: the first of this thread's columns, in a row that there is.
                unsafe { *columns.as_mut_ptr(units.clone()).add(row * columns.width()) += 1.0 };
            }
        });
        assert_eq!(
            rows,
            [0., 0., 0., 0., 2., 2., 2., 2., 4., 4., 4., 4., 4., 4.]
        );
        assert_eq!(
            matrix,
            [
                [1., 1., 3., 1., 5., 1., 1.],
                [1., 2., 3., 2., 5., 2., 2.],
                [1., 3., 3., 3., 5., 3., 3.],
            ]
            .concat()[..]
        );
    }

    #[test]
    fn columns_of_another_thread_are_refused() {
        let mut elements = [0.0; 4];
        let matrix = Matrix::new(&mut elements, 4);
        // SAFETY: nobody has any.
        let columns = unsafe { matrix.columns(0..2) };
        let put = || columns.put(0, 1, &[1.0, 1.0], Output::Write);
        let panic = catch_unwind(AssertUnwindSafe(put)).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("columns 1..3 of 0..2"), "{message}");
        assert_eq!(elements, [0.0; 4]);
    }
}
