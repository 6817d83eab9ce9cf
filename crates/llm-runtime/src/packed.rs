//! Matrices of codes in groups, as published checkpoints have them: where each part lies, in which order, and how it is read
//! as it is computed with.
//!
//! ```text
//! X.weight_packed, X.weight_scale, …                  compressed-tensors: int4, int8, NVFP4, MXFP4
//! X.weight, X.weight_scale, X.weight_scale_2          NVFP4 of modelopt
//! X.weight, X.weight_scale                            int8 of compressed-tensors
//! X.weight, X.scale                                   MXFP4 of DeepSeek-V4's experts
//! X.qweight, X.qzeros, X.scales, X.g_idx              GPTQ, AWQ
//! S_blocks, S_scales                                  MXFP4 of gpt-oss, the experts of a layer in one
//! ```
//!
//! What is final in the file is computed with where it lies. The rest is unpacked, transposed or reordered while it is read,
//! some rows at a time.

mod find;
mod ints;
mod module;
pub(crate) mod packing;

use std::ops::Range;

use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_quant::{GroupCode, Grouped, Part, Scheme, StoredWeight};
use llm_tensor::{AlignedBuf, DType, HostBytes};
use rayon::prelude::*;

pub(crate) use self::find::{Found, are_there, find};
pub(crate) use self::module::reshaped;
use self::packing::{Packing, PartSource};
use crate::{BoundTensor, Result, RuntimeError};

/// A matrix of codes in groups in a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    checkpoint: &'a Checkpoint,
    format: Grouped,
    rows: u64,
    cols: u64,
    packing: &'a Packing,
    name: &'a str,
}

impl<'a> Matrix<'a> {
    /// `None` for one that is kept otherwise.
    pub(crate) fn of(checkpoint: &'a Checkpoint, bound: &BoundTensor<'a>) -> Option<Self> {
        let (Scheme::Grouped(format), Some(packing)) = (bound.scheme, bound.packing) else {
            return None;
        };
        let (rows, cols) = bound.slot.matrix();
        Some(Matrix {
            checkpoint,
            format,
            rows: rows as u64,
            cols: cols as u64,
            packing,
            name: &bound.tensor.name,
        })
    }

    /// All of it, the bytes where they lie in the file if they are right.
    ///
    /// # Errors
    /// When a part cannot be read, [`RuntimeError::QuantizedPart`].
    pub(crate) fn stored(self) -> Result<StoredWeight> {
        let scheme = Scheme::Grouped(self.format);
        let parts = scheme.parts(self.rows, self.cols);
        let parts = parts.try_map(|part, info| -> Result<_> {
            if let Some(tensor) = self.packing.tensor(part)
                && let Some(view) = self.checkpoint.view_tensor(tensor)?
            {
                return Ok(view);
            }
            let mut bytes = AlignedBuf::zeroed(info.bytes as usize);
            self.read(part, 0..info.bytes, &mut bytes)?;
            Ok(HostBytes::new(bytes))
        })?;
        Ok(StoredWeight {
            scheme,
            rows: self.rows as usize,
            cols: self.cols as usize,
            parts,
        })
    }

    /// Bytes `range` of a part: whole rows of it, but for those parts that are one for all rows.
    ///
    /// # Errors
    /// When they cannot be read, [`RuntimeError::QuantizedPart`].
    pub(crate) fn read(self, part: Part, range: Range<u64>, out: &mut [u8]) -> Result<()> {
        if let (Part::Scales, 0, Some(groups)) = (part, range.start, &self.packing.in_order) {
            self.check_order(groups)?;
        }
        let source = self.packing.parts.get(part);
        match source.expect("a source for each part") {
            PartSource::AsIs(tensor) => {
                let Encoding::Plain(dtype) = tensor.encoding else {
                    unreachable!("parts have plain elements")
                };
                let size = dtype.size() as u64;
                let elements = range.start / size..range.end / size;
                Ok(self.checkpoint.read_tensor(tensor, elements, dtype, out)?)
            }
            PartSource::Packed(ints) if part == Part::Weight => {
                let positions = self.positions()?;
                let row_bytes = self.format.row_bytes(self.cols);
                self.bands(range, row_bytes, out, |rows, out| {
                    let mut values = vec![0; ((rows.end - rows.start) * self.cols) as usize];
                    ints.read(self.checkpoint, rows, &mut values)?;
                    let values = values.chunks_exact(self.cols as usize);
                    for (values, out) in values.zip(out.chunks_exact_mut(row_bytes as usize)) {
                        self.pack(values, positions.as_deref(), out);
                    }
                    Ok(())
                })
            }
            PartSource::Packed(ints) => self.bands(range, self.n_groups(), out, |rows, out| {
                ints.read(self.checkpoint, rows, out)?;
                if self.format.code == GroupCode::Int8 {
                    out.iter_mut().for_each(|zero| *zero ^= SIGN);
                }
                Ok(())
            }),
            PartSource::Signed(tensor) => {
                self.checkpoint.read_tensor(tensor, range, DType::I8, out)?;
                out.iter_mut().for_each(|zero| *zero = zero.wrapping_add(8));
                Ok(())
            }
            PartSource::Transposed(tensor) => {
                let size = self.format.scale.size();
                let of_row = self.n_groups() * size as u64;
                self.bands(range, of_row, out, |rows, out| {
                    let n_rows = (rows.end - rows.start) as usize;
                    let mut line = vec![0; n_rows * size];
                    for group in 0..self.n_groups() {
                        let start = group * self.rows + rows.start;
                        let elements = start..start + n_rows as u64;
                        let dtype = self.format.scale;
                        self.checkpoint
                            .read_tensor(tensor, elements, dtype, &mut line)?;
                        let out = out.chunks_exact_mut(of_row as usize);
                        for (out, scale) in out.zip(line.chunks_exact(size)) {
                            out[group as usize * size..][..size].copy_from_slice(scale);
                        }
                    }
                    Ok(())
                })
            }
            PartSource::Groups(tensor) => {
                let positions = self.positions_by(tensor)?;
                let bytes: Vec<u8> = positions.into_iter().flat_map(u32::to_le_bytes).collect();
                out.copy_from_slice(&bytes[range.start as usize..range.end as usize]);
                Ok(())
            }
        }
    }

    fn n_groups(&self) -> u64 {
        self.format.n_groups(self.cols)
    }

    /// Has `read` fill some rows of `out` at a time, in parallel; a row of the part takes `of_row` bytes.
    fn bands(
        &self,
        range: Range<u64>,
        of_row: u64,
        out: &mut [u8],
        read: impl Fn(Range<u64>, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let first = range.start / of_row;
        // Of as many rows as share words, so that none is read twice.
        let n_rows = (BAND_CODES / self.cols.max(1)).next_multiple_of(8).max(8);
        let bands = out.par_chunks_mut((n_rows * of_row) as usize).enumerate();
        bands.try_for_each(|(i, out)| {
            let start = first + i as u64 * n_rows;
            read(start..start + out.len() as u64 / of_row, out)
        })
    }

    /// Packs the codes of a row, those of its columns in `values`.
    fn pack(&self, values: &[u8], positions: Option<&[u32]>, out: &mut [u8]) {
        let at = |col: usize| positions.map_or(col, |positions| positions[col] as usize);
        match self.format.code {
            GroupCode::Int4 | GroupCode::E2M1 => {
                out.fill(0);
                for (col, &code) in values.iter().enumerate() {
                    let at = at(col);
                    out[at / 2] |= code << (at % 2 * 4);
                }
            }
            GroupCode::Int8 => {
                for (col, &code) in values.iter().enumerate() {
                    out[at(col)] = code ^ SIGN;
                }
            }
        }
    }

    /// The position of each column, where these lie in another order.
    fn positions(&self) -> Result<Option<Vec<u32>>> {
        match self.packing.parts.get(Part::Order) {
            Some(PartSource::Groups(tensor)) => self.positions_by(tensor).map(Some),
            _ => Ok(None),
        }
    }

    /// The group of each column.
    fn groups_of(&self, tensor: &TensorInfo) -> Result<Vec<i32>> {
        let mut bytes = vec![0; 4 * self.cols as usize];
        self.checkpoint
            .read_tensor(tensor, 0..self.cols, DType::I32, &mut bytes)?;
        let words = bytes.chunks_exact(4).map(|word| word.first_chunk());
        let words = words.flatten().map(|word| i32::from_le_bytes(*word));
        Ok(words.collect())
    }

    /// # Errors
    /// [`RuntimeError::QuantizedPart`] where columns are of other groups than of those of their places. Zeros for all are what
    /// some writers have in the place of none.
    fn check_order(&self, tensor: &TensorInfo) -> Result<()> {
        let groups = self.groups_of(tensor)?;
        let size = self
            .format
            .group
            .map_or(self.cols, |size| size.get())
            .max(1);
        let mut columns = groups.iter().zip(0u64..);
        let other = columns.find(|(group, col)| i64::from(**group) != (*col / size) as i64);
        match other {
            Some((group, col)) if groups.iter().any(|group| *group != 0) => {
                Err(RuntimeError::QuantizedPart {
                    path: self.checkpoint.path().to_owned(),
                    tensor: tensor.name.clone(),
                    expected: format!(
                        "column {col} in group {}: config.json has columns in order, unless it says `desc_act`: true",
                        col / size
                    ),
                    found: format!("group {group}"),
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Positions of the columns when those of each group lie together, in their order.
    ///
    /// # Errors
    /// [`RuntimeError::QuantizedPart`] where groups are not of the size that they should be.
    fn positions_by(&self, tensor: &TensorInfo) -> Result<Vec<u32>> {
        let n = self.cols as usize;
        let groups = self.groups_of(tensor)?;
        // As compressed-tensors says that nothing is reordered.
        if groups.contains(&-1) {
            return Ok((0..n as u32).collect());
        }
        let size = self.format.group.map_or(self.cols, |size| size.get());
        let mut next: Vec<u64> = (0..self.n_groups()).map(|group| group * size).collect();
        let mut positions = Vec::with_capacity(n);
        for group in groups {
            let next = usize::try_from(group)
                .ok()
                .and_then(|group| next.get_mut(group));
            let end = (group as u64)
                .saturating_add(1)
                .saturating_mul(size)
                .min(self.cols);
            let Some(next) = next.filter(|next| **next < end) else {
                return Err(RuntimeError::QuantizedPart {
                    path: self.checkpoint.path().to_owned(),
                    tensor: tensor.name.clone(),
                    expected: format!(
                        "{} groups of {size} columns of `{}`",
                        self.n_groups(),
                        self.name
                    ),
                    found: format!("another column of group {group}"),
                });
            };
            positions.push(*next as u32);
            *next += 1;
        }
        Ok(positions)
    }
}

/// Difference of an 8-bit code's two forms, with and without a sign.
const SIGN: u8 = 0x80;
/// Codes that a thread unpacks at a time, unless eight rows have more.
const BAND_CODES: u64 = 1 << 19;

#[cfg(test)]
mod tests;
