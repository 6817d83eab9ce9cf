//! Codes of 4 or 8 bits with a scale for each group of a row's elements, as GPTQ, AWQ, compressed-tensors, MXFP4 and
//! NVFP4 store matrices.
//!
//! Codes lie row by row, two of 4 bits a byte, the low half first; a row begins with a byte of its own. An element is
//! `(code - zero) · scale`, each operation rounded to f32 once. *Sources*: "GPTQ: Accurate Post-Training Quantization for
//! Generative Pre-trained Transformers"; "AWQ: Activation-aware Weight Quantization for LLM Compression and
//! Acceleration"; "OCP Microscaling Formats (MX) Specification" for E2M1 and MXFP4.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;

use llm_tensor::DType;

use crate::Scheme;
use crate::floats::{f32_at, number_at};
use crate::parts::{Part, Parts};
use crate::stored::StoredWeight;

/// The parameters of codes in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grouped {
    /// Meaning of the codes.
    pub code: GroupCode,
    /// The type of the scales.
    pub scale: DType,
    /// Elements of a row that share a scale; the last group of a row may be short. `None` for whole rows.
    pub group: Option<NonZeroU64>,
    /// True if each group has a zero of its own, a byte each.
    pub zeros: bool,
    /// Number that all scales are multiplied with, or divided by.
    pub global: Option<GlobalScale>,
    /// True if a row's codes lie in another order than its columns.
    pub order: bool,
}

/// Meaning of a code.
///
/// Exhaustive on purpose, as [`Scheme`](crate::Scheme) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupCode {
    /// 0 to 15, less the group's zero, or 8.
    Int4,
    /// Floating-point numbers of 4 bits: 0, 0.5, 1, 1.5, 2, 3, 4 and 6, and the same below zero.
    E2M1,
    /// −128 to 127, less the group's zero, if any.
    Int8,
}

/// Part of a matrix's one scale in the scales of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GlobalScale {
    /// They are multiplied with it.
    Factor,
    /// They are divided by it.
    Divisor,
}

impl Grouped {
    /// Groups of a row of `cols`.
    pub fn n_groups(self, cols: u64) -> u64 {
        self.group
            .map_or(cols.min(1), |group| cols.div_ceil(group.get()))
    }

    /// Bytes of the codes of a row of `cols`.
    pub fn row_bytes(self, cols: u64) -> u64 {
        match self.code {
            GroupCode::Int4 | GroupCode::E2M1 => cols.div_ceil(2),
            GroupCode::Int8 => cols,
        }
    }

    /// The type that codes are declared to be of: of 4-bit codes a byte has two.
    pub const fn code_dtype(self) -> DType {
        match self.code {
            GroupCode::Int4 | GroupCode::E2M1 => DType::U8,
            GroupCode::Int8 => DType::I8,
        }
    }

    /// Bytes of `part` that rows `rows` are decoded from.
    pub(crate) fn window(self, cols: u64, rows: &Range<u64>, part: Part, all: u64) -> Range<u64> {
        let of_row = match part {
            Part::Weight => self.row_bytes(cols),
            Part::Scales => self.n_groups(cols) * self.scale.size() as u64,
            Part::Zeros => self.n_groups(cols),
            _ => return 0..all,
        };
        rows.start * of_row..rows.end * of_row
    }
}

/// As people call it: `int4/128`, `int8/row`, `mxfp4`, `nvfp4`.
impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group.map(NonZeroU64::get);
        let name = match (self.code, self.scale, group) {
            (GroupCode::E2M1, DType::F8E8M0, Some(32)) => return f.pad("mxfp4"),
            (GroupCode::E2M1, DType::F8E4M3, Some(16)) => return f.pad("nvfp4"),
            (GroupCode::Int4, ..) => "int4",
            (GroupCode::E2M1, ..) => "e2m1",
            (GroupCode::Int8, ..) => "int8",
        };
        match group {
            Some(group) => f.pad(&format!("{name}/{group}")),
            None => f.pad(&format!("{name}/row")),
        }
    }
}

/// Rows of a matrix in [`Grouped`] whose bytes have been looked up.
#[derive(Debug, Clone, Copy)]
pub struct GroupedRows<'a> {
    format: Grouped,
    cols: usize,
    codes: &'a [u8],
    scales: &'a [u8],
    zeros: Option<&'a [u8]>,
    global: f32,
    /// Position of the code of each column among its row's, as u32.
    order: Option<&'a [u8]>,
}

impl<'a> GroupedRows<'a> {
    /// The rows of a weight; `None` where it is in another scheme.
    ///
    /// # Panics
    /// When it lacks a part.
    pub fn of(weight: &'a StoredWeight) -> Option<Self> {
        match weight.scheme {
            Scheme::Grouped(format) => Some(Self::new(format, weight.cols, &weight.parts)),
            Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_) => None,
        }
    }

    /// Rows of `cols` of which `parts` are all.
    pub(crate) fn new(format: Grouped, cols: usize, parts: &'a Parts<impl AsRef<[u8]>>) -> Self {
        let part = |part: Part| parts.get(part).map(AsRef::as_ref);
        let global = part(Part::GlobalScale).map_or(1.0, |bytes| f32_at(bytes, 0));
        GroupedRows {
            format,
            cols,
            codes: part(Part::Weight).expect("codes"),
            scales: part(Part::Scales).expect("scales"),
            zeros: part(Part::Zeros),
            global,
            order: part(Part::Order),
        }
    }

    /// Decodes columns of a row from `first` on into `out`.
    ///
    /// # Panics
    /// When there are no such columns.
    pub fn decode(&self, row: usize, first: usize, out: &mut [f32]) {
        assert!(
            first + out.len() <= self.cols,
            "{} columns from {first} on of {}",
            out.len(),
            self.cols
        );
        if let Some(order) = self.order {
            let position = |col: usize| {
                let bytes = order[4 * col..]
                    .first_chunk()
                    .expect("a place of each column");
                u32::from_le_bytes(*bytes) as usize
            };
            for (i, out) in out.iter_mut().enumerate() {
                let at = position(first + i);
                let group = self.group_of(at);
                *out = self.factor(row, at, self.zero(row, group)) * self.scale(row, group);
            }
            return;
        }
        let mut at = 0;
        while at < out.len() {
            let group = self.group_of(first + at);
            let end = match self.format.group {
                Some(size) => out.len().min((group + 1) * size.get() as usize - first),
                None => out.len(),
            };
            let (scale, zero) = (self.scale(row, group), self.zero(row, group));
            for (i, out) in out[at..end].iter_mut().enumerate() {
                *out = self.factor(row, first + at + i, zero) * scale;
            }
            at = end;
        }
    }

    fn group_of(&self, at: usize) -> usize {
        self.format.group.map_or(0, |size| at / size.get() as usize)
    }

    /// The scale of a group.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        let scale = number_at(
            self.format.scale,
            self.scales,
            row * self.n_groups() + group,
        );
        match self.format.global {
            None => scale,
            Some(GlobalScale::Factor) => scale * self.global,
            Some(GlobalScale::Divisor) => scale / self.global,
        }
    }

    fn n_groups(&self) -> usize {
        self.format.n_groups(self.cols as u64) as usize
    }

    fn zero(&self, row: usize, group: usize) -> i32 {
        let zero = self.zeros.map(|zeros| zeros[row * self.n_groups() + group]);
        match (self.format.code, zero) {
            (GroupCode::Int4, zero) => zero.map_or(8, i32::from),
            (GroupCode::Int8, zero) => zero.map_or(0, |zero| i32::from(zero as i8)),
            (GroupCode::E2M1, _) => 0,
        }
    }

    /// The number that the scale is multiplied with, for the code at a position of a row.
    fn factor(&self, row: usize, at: usize, zero: i32) -> f32 {
        let codes = &self.codes[row * self.format.row_bytes(self.cols as u64) as usize..];
        let nibble = || codes[at / 2] >> (at % 2 * 4) & 15;
        match self.format.code {
            GroupCode::Int4 => (i32::from(nibble()) - zero) as f32,
            GroupCode::E2M1 => E2M1[usize::from(nibble())],
            GroupCode::Int8 => (i32::from(codes[at] as i8) - zero) as f32,
        }
    }
}

/// Values of the codes of [`GroupCode::E2M1`].
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

#[cfg(test)]
mod tests;
