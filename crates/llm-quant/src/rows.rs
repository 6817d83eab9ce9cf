//! Rows of matrices in formats with scales beside the codes, decoded from any column on.

use llm_tensor::le_bytes_to_f32;

use crate::floats::{f32_at, number_at};
use crate::fp8::Fp8;
use crate::grouped::{E2M1, GlobalScale, GroupCode, Grouped};
use crate::parts::{Part, Parts};
use crate::scheme::Scheme;
use crate::stored::StoredWeight;

/// Rows of a matrix in [`Fp8`] whose bytes have been looked up.
#[derive(Debug, Clone, Copy)]
pub struct Fp8Rows<'a> {
    format: Fp8,
    cols: usize,
    numbers: &'a [u8],
    scales: &'a [u8],
}

impl<'a> Fp8Rows<'a> {
    /// The rows of a weight in `format`.
    ///
    /// # Panics
    /// When it lacks a part.
    pub fn new(weight: &'a StoredWeight, format: Fp8) -> Self {
        Fp8Rows {
            format,
            cols: weight.cols,
            numbers: weight.part(Part::Weight),
            scales: weight.part(Part::Scales),
        }
    }

    /// Decodes columns of a row from `first` on into `out`.
    ///
    /// # Panics
    /// When there are no such columns, or elements are not widened to f32.
    pub fn decode(&self, row: usize, first: usize, out: &mut [f32]) {
        assert!(
            first + out.len() <= self.cols,
            "{} columns from {first} on of {}",
            out.len(),
            self.cols
        );
        let at = row * self.cols + first;
        let numbers = &self.numbers[at..at + out.len()];
        le_bytes_to_f32(self.format.dtype, numbers, out).expect("8-bit floating-point numbers");
        let (cols, range) = (self.cols as u64, at as u64..(at + out.len()) as u64);
        let scales = self.format.scales_of(cols, &range);
        let size = self.format.scale.size();
        let scales = &self.scales[scales.start as usize * size..scales.end as usize * size];
        self.format.scale(cols, &range, scales, out);
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
