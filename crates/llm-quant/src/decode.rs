//! Values of any elements of a stored weight, whatever its scheme: plain, and exact.

use std::ops::Range;

use llm_tensor::le_bytes_to_f32;

use crate::double::{self, NESTED_BLOCK};
use crate::floats::f32_at;
use crate::grouped::Grouped;
use crate::int8::factors::DEQUANTIZE;
use crate::parts::{Part, Parts};
use crate::rows::GroupedRows;
use crate::scheme::Scheme;
use crate::stored::StoredWeight;
use crate::{QuantError, Result};

impl Scheme {
    /// The bytes of each part that elements `range` of a matrix `[rows, cols]`, counted row by row, are decoded from.
    pub fn window(self, rows: u64, cols: u64, range: &Range<u64>) -> Parts<Range<u64>> {
        let cover = |size: u64| range.start / size..range.end.div_ceil(size);
        let times = |items: Range<u64>, size: u64| items.start * size..items.end * size;
        self.parts(rows, cols).map(|part, info| match (self, part) {
            (Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _), _) => {
                times(cover(1), dtype.size() as u64)
            }
            (Scheme::Int8(_), Part::Weight) => cover(1),
            (Scheme::Int8(_), _) => times(cover(cols.max(1)), 4),
            (Scheme::FourBit(_), Part::Weight) => cover(2),
            (Scheme::FourBit(format), Part::Absmax) => {
                let blocks = cover(format.block_size.get() as u64);
                times(blocks, info.dtype.size() as u64)
            }
            (Scheme::FourBit(format), Part::NestedAbsmax) => {
                let group = format.block_size.get() * NESTED_BLOCK;
                times(cover(group as u64), 4)
            }
            (Scheme::FourBit(_), _) => 0..info.bytes,
            (Scheme::Ggml(ty), _) => times(cover(ty.block_len() as u64), ty.block_bytes() as u64),
            (Scheme::Fp8(_), Part::Weight) => cover(1),
            (Scheme::Fp8(format), _) => {
                times(format.scales_of(cols, range), format.scale.size() as u64)
            }
            (Scheme::Grouped(format), part) => {
                grouped_window(format, cols, &cover(cols.max(1)), part, info.bytes)
            }
        })
    }

    /// Decodes elements `range` of a matrix with rows of `cols` into `out`; `parts` are what [`Scheme::window`] says.
    ///
    /// # Errors
    /// [`QuantError::NoNumbers`] where elements are of a type that is not widened to f32.
    ///
    /// # Panics
    /// When `out` or a part is of another length.
    pub fn decode(
        self,
        cols: u64,
        range: &Range<u64>,
        parts: &Parts<impl AsRef<[u8]>>,
        out: &mut [f32],
    ) -> Result<()> {
        assert_eq!(
            out.len() as u64,
            range.end - range.start,
            "a place for each"
        );
        let part = |part: Part| parts.get(part).expect("each part of the scheme").as_ref();
        let elements = part(Part::Weight);
        let no_numbers = |_| QuantError::NoNumbers {
            scheme: self.to_string(),
        };
        let numbered = range.clone().zip(out.iter_mut());
        match self {
            Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => {
                le_bytes_to_f32(dtype, elements, out).map_err(no_numbers)?;
            }
            Scheme::Int8(_) => {
                let cols = cols.max(1);
                let (scales, first) = (part(Part::Scb), range.start / cols);
                for ((i, out), &code) in numbered.zip(elements) {
                    let scale = f32_at(scales, (i / cols - first) as usize);
                    *out = f32::from(code as i8) * scale * DEQUANTIZE;
                }
            }
            Scheme::FourBit(format) => {
                let block_size = format.block_size.get() as u64;
                let (absmax, table) = (part(Part::Absmax), part(Part::QuantMap));
                let (first, first_block) = (range.start / 2, range.start / block_size);
                let first_group = first_block / NESTED_BLOCK as u64;
                let scale = |block: u64| {
                    let at = (block - first_block) as usize;
                    if !format.double_quant {
                        return f32_at(absmax, at);
                    }
                    let group = (block / NESTED_BLOCK as u64 - first_group) as usize;
                    let value = f32_at(part(Part::NestedQuantMap), absmax[at].into());
                    let of_group = f32_at(part(Part::NestedAbsmax), group);
                    double::scale(value, of_group, f32_at(part(Part::NestedOffset), 0))
                };
                for (i, out) in numbered {
                    let byte = elements[(i / 2 - first) as usize];
                    let code = if i.is_multiple_of(2) {
                        byte >> 4
                    } else {
                        byte & 15
                    };
                    *out = f32_at(table, code.into()) * scale(i / block_size);
                }
            }
            Scheme::Ggml(ty) => {
                ty.decode_from(
                    (range.start % ty.block_len() as u64) as usize,
                    elements,
                    out,
                );
            }
            Scheme::Fp8(format) => {
                le_bytes_to_f32(format.dtype, elements, out).map_err(no_numbers)?;
                format.scale(cols, range, part(Part::Scales), out);
            }
            Scheme::Grouped(format) => {
                let cols = cols as usize;
                let rows = GroupedRows::new(format, cols, parts);
                let (mut at, mut row, mut first) = (0, 0, range.start as usize % cols.max(1));
                while at < out.len() {
                    let n = (cols - first).min(out.len() - at);
                    rows.decode(row, first, &mut out[at..at + n]);
                    (at, row, first) = (at + n, row + 1, 0);
                }
            }
        }
        Ok(())
    }
}

impl StoredWeight {
    /// Decodes the elements from `first` on, counted row by row, into `out`.
    ///
    /// # Errors
    /// [`QuantError::NoNumbers`].
    ///
    /// # Panics
    /// When they leave the matrix.
    pub fn decode(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let (rows, cols) = (self.rows as u64, self.cols as u64);
        let range = first as u64..(first + out.len()) as u64;
        let windows = self.scheme.window(rows, cols, &range);
        let windows = windows
            .map(|part, window| &self.part(part)[window.start as usize..window.end as usize]);
        self.scheme.decode(cols, &range, &windows, out)
    }

    /// All elements, row by row.
    ///
    /// # Errors
    /// [`QuantError::NoNumbers`].
    pub fn values(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.rows * self.cols];
        self.decode(0, &mut values)?;
        Ok(values)
    }
}

/// Bytes of `part` that rows `rows` are decoded from.
fn grouped_window(
    format: Grouped,
    cols: u64,
    rows: &Range<u64>,
    part: Part,
    all: u64,
) -> Range<u64> {
    let of_row = match part {
        Part::Weight => format.row_bytes(cols),
        Part::Scales => format.n_groups(cols) * format.scale.size() as u64,
        Part::Zeros => format.n_groups(cols),
        _ => return 0..all,
    };
    rows.start * of_row..rows.end * of_row
}
