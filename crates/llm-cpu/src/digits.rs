//! Digits that activations have in products of whole numbers.

use llm_quant::{Activations, GgmlType, Scheme};

use crate::matvec::GEMM_TOKENS;

/// Digits of 8 bits that an activation's code has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digits {
    /// Codes as [`llm_quant::BlockCodes`] has them, rounded to 8 bits.
    One,
    /// Codes of 24 bits, whole numbers below 2²³ and of either sign, times a power of two: off by a half at most, some 2⁻²³
    /// of the block's largest activation, which is no more than what sums in f32 are off by. A digit is from −128 to 127, the highest
    /// first.
    Three,
}

impl Digits {
    pub(crate) const ALL: [Digits; 2] = [Digits::One, Digits::Three];

    /// What weights of a type in GGUF's blocks are multiplied with; `None` where they are decoded.
    pub(crate) fn of(activations: Activations, ty: GgmlType) -> Option<Self> {
        if activations.are_rounded_for(Scheme::Ggml(ty)) {
            return Some(Digits::One);
        }
        match ty {
            GgmlType::Q4_0
            | GgmlType::Q4_1
            | GgmlType::Q5_0
            | GgmlType::Q5_1
            | GgmlType::Q2K
            | GgmlType::Q3K
            | GgmlType::Q4K
            | GgmlType::Q5K
            | GgmlType::Q6K
            | GgmlType::MXFP4 => Some(Digits::Three),
            // Of the first three, sums of products with 24 bits do not fit 32.
            GgmlType::Q8_0
            | GgmlType::IQ4NL
            | GgmlType::IQ4XS
            | GgmlType::IQ2XXS
            | GgmlType::IQ2XS
            | GgmlType::IQ2S
            | GgmlType::IQ3XXS
            | GgmlType::IQ3S
            | GgmlType::IQ1S
            | GgmlType::IQ1M
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0
            | GgmlType::NVFP4 => None,
        }
    }

    /// True if products of so many tokens take these: panels of values in f32 pay for more of them than three digits do.
    pub(crate) fn are_for(self, n_tokens: usize) -> bool {
        match self {
            Digits::One => true,
            Digits::Three => n_tokens < GEMM_TOKENS,
        }
    }

    /// How many.
    pub(crate) const fn n(self) -> usize {
        match self {
            Digits::One => 1,
            Digits::Three => 3,
        }
    }
}
