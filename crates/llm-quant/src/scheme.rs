use std::fmt;

use llm_tensor::DType;

use crate::code::Code;
use crate::fp8::Fp8;
use crate::ggml::GgmlType;
use crate::grouped::Grouped;

/// Encoding of a weight matrix `[rows, cols]`, and thereby its size in bytes.
///
/// Exhaustive on purpose: a new scheme must be considered wherever one is matched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scheme {
    /// One element after the other, not quantized.
    Dense(DType),
    /// LLM.int8(): a byte an element and a scale a row.
    Int8(Int8),
    /// LLM.int8() over weights that stay in 16 bits and are quantized anew at each use.
    Int8PerUse(DType, Int8),
    /// NF4 or FP4: half a byte an element and a scale a block.
    FourBit(FourBit),
    /// Blocks of GGUF's, along rows that are whole blocks.
    Ggml(GgmlType),
    /// 8-bit floating-point numbers with scales.
    Fp8(Fp8),
    /// Codes of 4 or 8 bits with a scale for each group of a row's elements.
    Grouped(Grouped),
}

/// The parameters of LLM.int8().
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Int8 {
    /// Magnitude from which on an activation is an outlier, and its column multiplied in full precision; 0 for never.
    pub threshold: f32,
}

/// The parameters of a 4-bit encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourBit {
    /// Values of the codes.
    pub code: Code,
    /// Elements that share a scale.
    pub block_size: BlockSize,
    /// True if the scales themselves are quantized to 8 bits.
    pub double_quant: bool,
}

/// Elements of a matrix, row by row across the rows' ends, that share a scale: a power of two from 32 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSize(u16);

impl BlockSize {
    /// Default of bitsandbytes.
    pub const DEFAULT: BlockSize = BlockSize(64);

    /// Valid sizes, in words.
    pub(crate) const EXPECTED: &str = "a power of two from 32 to 4096";

    /// `None` unless `n` is a power of two from 32 to 4096.
    pub const fn new(n: u64) -> Option<Self> {
        match n {
            32 | 64 | 128 | 256 | 512 | 1024 | 2048 | 4096 => Some(BlockSize(n as u16)),
            _ => None,
        }
    }

    /// The number of elements.
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Scheme {
    /// The type of elements that lie one after the other and mean themselves.
    pub const fn elements(self) -> Option<DType> {
        match self {
            Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => Some(dtype),
            Scheme::Int8(_)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_) => None,
        }
    }

    /// True if elements are kept in, or multiplied as, fewer than 16 bits.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Scheme::Dense(_))
    }
}

impl FourBit {
    /// Blocks of a matrix of `n_elements`; the last may be short.
    pub const fn n_blocks(self, n_elements: u64) -> u64 {
        n_elements.div_ceil(self.block_size.get() as u64)
    }
}

/// As people call it: `bf16`, `int8`, `nf4`, `nf4 double`, `fp4/128`.
impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scheme::Dense(dtype) => dtype.fmt(f),
            Scheme::Int8(_) => f.pad("int8"),
            Scheme::Int8PerUse(dtype, _) => f.pad(&format!("int8 of {dtype}")),
            Scheme::FourBit(format) => f.pad(&format.to_string()),
            Scheme::Ggml(ty) => ty.fmt(f),
            Scheme::Fp8(_) => f.pad("fp8"),
            Scheme::Grouped(format) => format.fmt(f),
        }
    }
}

impl fmt::Display for FourBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let double = if self.double_quant { " double" } else { "" };
        let name = format!("{}{double}", self.code);
        if self.block_size == BlockSize::DEFAULT {
            f.pad(&name)
        } else {
            f.pad(&format!("{name}/{}", self.block_size))
        }
    }
}

#[cfg(test)]
mod tests;
