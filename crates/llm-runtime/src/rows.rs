//! A tensor of a checkpoint as the rows `[out, in]` in which it computes, read in pieces. The one place that knows of
//! another layout.

use std::ops::Range;
use std::path::Path;

use llm_arch::Stored;
use llm_checkpoint::Checkpoint;
use llm_quant::Scheme;
use llm_tensor::{AlignedBuf, DType, HostBytes, f32_to_le_bytes};
use rayon::prelude::*;

use crate::quantized::read_elements;
use crate::{BoundTensor, Result};

/// A tensor that is dense, scaled or in GGUF's blocks, and bound to a slot.
pub(crate) struct Rows<'a> {
    checkpoint: &'a Checkpoint,
    bound: BoundTensor<'a>,
    /// Output features; 1 for a vector.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) cols: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, bound: &BoundTensor<'a>) -> Self {
        let (rows, cols) = bound.slot.matrix();
        Rows {
            checkpoint,
            bound: *bound,
            rows,
            cols,
        }
    }

    /// The file that holds them.
    pub(crate) fn path(&self) -> &'a Path {
        let mut files = self.checkpoint.files();
        files
            .nth(self.bound.tensor.file_idx)
            .expect("a tensor lies in a file of its checkpoint")
    }

    /// The tensor's name in the checkpoint.
    pub(crate) fn name(&self) -> &'a str {
        &self.bound.tensor.name
    }

    /// Bytes in the file, if their elements are of `dtype` and in order.
    fn view(&self, dtype: DType) -> Result<Option<HostBytes>> {
        let is_right = self.bound.scheme == Scheme::Dense(dtype);
        match self.bound.slot.stored.is_in_order() && is_right {
            true => Ok(self.checkpoint.view_tensor(self.bound.tensor)?),
            false => Ok(None),
        }
    }

    /// Rows `range` as `dtype` into `out`.
    pub(crate) fn read(&self, range: Range<usize>, dtype: DType, out: &mut [u8]) -> Result<()> {
        match self.bound.slot.stored {
            Stored::AsIs
            | Stored::Heads { .. }
            | Stored::Depthwise
            | Stored::Row
            | Stored::Column
            | Stored::Groups { .. }
            | Stored::Scalar
            | Stored::Channel => {
                let elements = (range.start * self.cols) as u64..(range.end * self.cols) as u64;
                read_elements(self.checkpoint, &self.bound, elements, dtype, out)
            }
            Stored::Transposed => self.read_transposed(range, dtype, out),
            Stored::Pairs { .. } | Stored::Stacked { .. } => self.read_reordered(range, dtype, out),
            Stored::OneMore => self.read_changed(range, dtype, out, |value| value - 1.0),
            Stored::NegatedExp | Stored::NegatedExpColumn => {
                self.read_changed(range, dtype, out, |value| (-value).ln())
            }
        }
    }

    /// All of them: the file's own bytes where these are right and many, else a copy.
    pub(crate) fn load(&self, dtype: DType) -> Result<HostBytes> {
        let row_bytes = self.cols * dtype.size();
        if self.rows * row_bytes >= MIN_MAPPED
            && let Some(view) = self.view(dtype)?
        {
            return Ok(view);
        }
        let mut bytes = AlignedBuf::zeroed(self.rows * row_bytes);
        self.load_into(dtype, &mut bytes)?;
        Ok(HostBytes::new(bytes))
    }

    /// A copy of all of them in `out`.
    pub(crate) fn load_into(&self, dtype: DType, out: &mut [u8]) -> Result<()> {
        match self.bound.slot.stored {
            // The checkpoint's reader shares out the work itself.
            Stored::AsIs
            | Stored::Heads { .. }
            | Stored::Depthwise
            | Stored::Row
            | Stored::Scalar
            | Stored::Channel
            | Stored::Pairs { .. }
            | Stored::Stacked { .. }
            | Stored::OneMore
            | Stored::NegatedExp
            | Stored::NegatedExpColumn
            | Stored::Column
            | Stored::Groups { .. } => self.read(0..self.rows, dtype, out),
            Stored::Transposed => {
                let row_bytes = self.cols * dtype.size();
                let pieces = out.par_chunks_mut(BAND * row_bytes).enumerate();
                pieces.try_for_each(|(i, out)| {
                    let first = i * BAND;
                    self.read(first..first + out.len() / row_bytes, dtype, out)
                })
            }
        }
    }

    /// The transpose, `[cols, rows]`, of rows that are not stored so: both are in memory for a while.
    pub(crate) fn transposed(&self, dtype: DType) -> Result<Vec<u8>> {
        let wide = dtype.size();
        let mut in_order = vec![0; self.rows * self.cols * wide];
        self.read(0..self.rows, dtype, &mut in_order)?;
        let mut out = vec![0; in_order.len()];
        for (row, line) in in_order.chunks_exact((self.cols * wide).max(1)).enumerate() {
            for (col, element) in line.chunks_exact(wide).enumerate() {
                out[(col * self.rows + row) * wide..][..wide].copy_from_slice(element);
            }
        }
        Ok(out)
    }

    /// Rows that are stored in another order, neighbours of them together. A bias's elements are its rows.
    fn read_reordered(&self, range: Range<usize>, dtype: DType, out: &mut [u8]) -> Result<()> {
        let width = if self.rows == 1 { 1 } else { self.cols };
        let first = range.start * self.cols / width;
        let n_rows = range.len() * self.cols / width;
        let row_bytes = width * dtype.size();
        let mut at = 0;
        while at < n_rows {
            let start = self.bound.slot.stored.stored_row(first + at);
            let is_next =
                |n: &usize| self.bound.slot.stored.stored_row(first + at + n) == start + n;
            let n = (1..n_rows - at).take_while(is_next).count() + 1;
            let elements = (start * width) as u64..((start + n) * width) as u64;
            let out = &mut out[at * row_bytes..(at + n) * row_bytes];
            self.checkpoint
                .read_tensor(self.bound.tensor, elements, dtype, out)?;
            at += n;
        }
        Ok(())
    }

    /// Rows whose stored elements are greater by one, the difference taken in f32.
    fn read_changed(
        &self,
        range: Range<usize>,
        dtype: DType,
        out: &mut [u8],
        change: impl Fn(f32) -> f32,
    ) -> Result<()> {
        let elements = (range.start * self.cols) as u64..(range.end * self.cols) as u64;
        let mut values = vec![0f32; range.len() * self.cols];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.checkpoint
            .read_tensor(self.bound.tensor, elements, DType::F32, bytes)?;
        values.iter_mut().for_each(|value| *value = change(*value));
        f32_to_le_bytes(&values, dtype, out).expect("a weight's elements are floating-point");
        Ok(())
    }

    /// Rows of the transpose of a stored `[cols, rows]`, a band at a time: a stored line gives up a whole cache line or
    /// two at once.
    fn read_transposed(&self, range: Range<usize>, dtype: DType, out: &mut [u8]) -> Result<()> {
        let wide = dtype.size();
        let mut band = vec![0; self.cols * BAND * wide];
        for (i, out) in out.chunks_mut(BAND * self.cols * wide).enumerate() {
            let first = range.start + i * BAND;
            let n_rows = out.len() / (self.cols * wide);
            let lines = band[..self.cols * n_rows * wide].chunks_exact_mut(n_rows * wide);
            for (col, line) in lines.enumerate() {
                let start = (col * self.rows + first) as u64;
                let elements = start..start + n_rows as u64;
                self.checkpoint
                    .read_tensor(self.bound.tensor, elements, dtype, line)?;
                for (row, element) in line.chunks_exact(wide).enumerate() {
                    out[(row * self.cols + col) * wide..][..wide].copy_from_slice(element);
                }
            }
        }
        Ok(())
    }
}

/// Bytes from which on a tensor is used where it lies in the file. The kernel maps what lies around a page that is
/// touched as well, this much at least, and vectors among tensors that are converted would bring in most of the file.
const MIN_MAPPED: usize = 1 << 16;
/// Output rows that are transposed together.
const BAND: usize = 64;
