//! Codes of 4 or 8 bits with a scale for each group of a row's elements, as GPTQ, AWQ, compressed-tensors, MXFP4 and
//! NVFP4 store matrices.
//!
//! Codes lie row by row, two of 4 bits a byte, the low half first; a row begins with a byte of its own. An element is
//! `(code - zero) · scale`, each operation rounded to f32 once. *Sources*: "GPTQ: Accurate Post-Training Quantization for
//! Generative Pre-trained Transformers"; "AWQ: Activation-aware Weight Quantization for LLM Compression and
//! Acceleration"; "OCP Microscaling Formats (MX) Specification" for E2M1 and MXFP4.

use std::fmt;
use std::num::NonZeroU64;

use llm_tensor::DType;

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

impl GroupCode {
    /// Whole numbers of 4 or of 8 bits.
    pub const fn of_bits(bits: u64) -> Self {
        match bits {
            4 => GroupCode::Int4,
            _ => GroupCode::Int8,
        }
    }
}

impl Grouped {
    /// NVFP4, whose one scale is multiplied with those of its groups.
    pub const NVFP4: Grouped = Grouped {
        code: GroupCode::E2M1,
        scale: DType::F8E4M3,
        group: NonZeroU64::new(16),
        zeros: false,
        global: Some(GlobalScale::Factor),
        order: false,
    };

    /// MXFP4, of the Open Compute Project's Microscaling formats.
    pub const MXFP4: Grouped = Grouped {
        scale: DType::F8E8M0,
        group: NonZeroU64::new(32),
        global: None,
        ..Self::NVFP4
    };

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

/// Values of the codes of [`GroupCode::E2M1`].
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

#[cfg(test)]
mod tests;
