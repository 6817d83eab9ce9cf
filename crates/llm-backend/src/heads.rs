//! Products of heads with rows of a matrix that are their own.

use crate::Backend;

/// Products of each head of a row with rows of a matrix that are the head's own. Head `i` has those from `i · stride + first` on.
#[derive(Debug)]
pub struct HeadProducts<'a, B: Backend> {
    /// `[_, cols]`, in f32, f16 or bf16.
    pub weight: &'a B::Weight,
    /// Heads.
    pub n_heads: usize,
    /// Rows of the matrix from a head's first to the next one's.
    pub stride: usize,
    /// The first row of a head's, from there.
    pub first: usize,
    /// Rows of a head.
    pub n_rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// What a head is multiplied with, and so what it has and what its result has.
    pub side: MatrixSide,
    /// Elements of a head, behind those that are multiplied, that go behind its result as they are.
    pub carried: usize,
}

/// Side of a matrix that vectors are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixSide {
    /// Its rows, as in linear operations: `cols` elements become `n_rows`.
    Rows,
    /// Its columns: `n_rows` elements become `cols`.
    Columns,
}

impl<B: Backend> Clone for HeadProducts<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for HeadProducts<'_, B> {}

impl<B: Backend> HeadProducts<'_, B> {
    /// Elements of a head that are multiplied, and of their products.
    pub fn dims(&self) -> (usize, usize) {
        match self.side {
            MatrixSide::Rows => (self.cols, self.n_rows),
            MatrixSide::Columns => (self.n_rows, self.cols),
        }
    }

    /// Elements of a row, and of its result.
    pub fn widths(&self) -> (usize, usize) {
        let (from, to) = self.dims();
        let width = |dim| self.n_heads * (dim + self.carried);
        (width(from), width(to))
    }

    /// # Panics
    /// When the matrix, `[rows, cols]`, has not the rows of each head.
    pub fn check(&self, (rows, cols): (usize, usize)) {
        assert!(
            self.first + self.n_rows <= self.stride
                && self.n_heads * self.stride <= rows
                && self.cols == cols,
            "rows {}.. of every {}, {} of them for {} heads, and {} columns of a matrix of [{rows}, {cols}]",
            self.first,
            self.stride,
            self.n_rows,
            self.n_heads,
            self.cols
        );
    }
}
