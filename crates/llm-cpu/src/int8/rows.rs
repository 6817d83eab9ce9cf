//! Rows of weights that a product reads, and the destination of its results.

use std::ops::Range;

use llm_backend::Output;
use llm_quant::{DEQUANTIZE, Int8Weight};

use crate::dense::DenseView;
use crate::share::Columns;

/// Some consecutive rows of a part's weight.
#[derive(Clone, Copy)]
pub(super) struct CodeRows<'a> {
    /// i8 `[n_rows, cols]`, at any alignment.
    pub(super) codes: &'a [u8],
    /// The scale of each row: f32 in little-endian, at any alignment.
    pub(super) absmax: &'a [u8],
    pub(super) cols: usize,
    /// Number of the first row in the part.
    pub(super) first: usize,
    /// The part's weight where it is encoded at each use: outlier columns are multiplied as they are in it.
    pub(super) dense: Option<DenseView<'a>>,
}

impl<'a> CodeRows<'a> {
    /// # Panics
    /// When the weight has no such rows.
    pub(super) fn of(weight: &'a Int8Weight, rows: Range<usize>) -> Self {
        let cols = weight.cols();
        let of_f32 = |row: usize| row * size_of::<f32>();
        CodeRows {
            codes: &weight.codes()[rows.start * cols..rows.end * cols],
            absmax: &weight.absmax()[of_f32(rows.start)..of_f32(rows.end)],
            cols,
            first: rows.start,
            dense: None,
        }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.absmax.len() / size_of::<f32>()
    }

    #[inline(always)]
    pub(super) fn scale(&self, row: usize) -> f32 {
        let bytes = &self.absmax[row * size_of::<f32>()..][..size_of::<f32>()];
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Factor of activations in an outlier column.
    #[inline(always)]
    pub(super) fn element(&self, row: usize, col: usize) -> f32 {
        let at = row * self.cols + col;
        match self.dense {
            Some(dense) => dense.element(self.first * self.cols + at),
            None => f32::from(self.codes[at] as i8) * self.scale(row) * DEQUANTIZE,
        }
    }
}

/// The columns of the output that belong to a part.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// Of `[n_tokens, width]`: those of the rows that are computed.
    pub(super) out: &'a Columns<'a>,
    /// The column of the part's row 0.
    pub(super) column: usize,
    pub(super) output: Output,
    /// The part's, `[rows]`.
    pub(super) bias: Option<DenseView<'a>>,
}

impl Target<'_> {
    /// The bias of a row of the part, 0 where there is none.
    #[inline(always)]
    pub(super) fn bias(&self, row: usize) -> f32 {
        self.bias.map_or(0.0, |bias| bias.element(row))
    }

    /// Writes or adds a token's results of the part's rows from `row` on.
    ///
    /// # Panics
    /// When they leave the output.
    #[inline(always)]
    pub(super) fn put(&self, token: usize, row: usize, values: &[f32]) {
        self.out.put(token, self.column + row, values, self.output);
    }
}
