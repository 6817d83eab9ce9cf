//! Rounding of activations to 8 bits, by choice, for products with packed weights.

use crate::{GgmlType, Scheme};

/// The type that activations are multiplied with packed weights in.
///
/// Exhaustive on purpose: it is chosen by users, who are told of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activations {
    /// f32, as they are: exact.
    #[default]
    F32,
    /// Codes of 8 bits in blocks, [`BlockCodes`], whose products with codes of weights are whole numbers.
    Q8,
}

impl Activations {
    /// True if products with weights in `scheme` take activations in [`BlockCodes`]. Those of all other schemes take them as
    /// they are.
    pub fn are_rounded_for(self, scheme: Scheme) -> bool {
        match self {
            Activations::F32 => false,
            Activations::Q8 => has_small_codes(scheme),
        }
    }
}

/// True if elements are whole numbers of at most 8 bits times scales that 16 columns share, or 32.
fn has_small_codes(scheme: Scheme) -> bool {
    match scheme {
        Scheme::Ggml(ty) => match ty {
            GgmlType::Q4_0
            | GgmlType::Q4_1
            | GgmlType::Q5_0
            | GgmlType::Q5_1
            | GgmlType::Q8_0
            | GgmlType::Q2K
            | GgmlType::Q3K
            | GgmlType::Q4K
            | GgmlType::Q5K
            | GgmlType::Q6K
            | GgmlType::IQ4NL
            | GgmlType::IQ4XS
            | GgmlType::MXFP4 => true,
            // Points of grids, ternary numbers, and scales of 16 columns that are themselves of 8 bits.
            GgmlType::IQ2XXS
            | GgmlType::IQ2XS
            | GgmlType::IQ2S
            | GgmlType::IQ3XXS
            | GgmlType::IQ3S
            | GgmlType::IQ1S
            | GgmlType::IQ1M
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0
            | GgmlType::NVFP4 => false,
        },
        Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => false,
    }
}

/// A block of activations of a row in 8 bits: a scale and whole numbers from −127 to 127.
///
/// ```
/// use llm_quant::BlockCodes;
///
/// let block = BlockCodes::of(&[1.0, -127.0, 2.4, 2.5, 3.5]);
/// assert_eq!((block.scale, &block.codes[..6]), (1.0, &[1, -127, 2, 2, 4, 0][..]));
/// assert_eq!(block.value(1), -127.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockCodes {
    /// Value of a code of one.
    pub scale: f32,
    /// Zeros behind the last activation.
    pub codes: [i8; ACTIVATION_BLOCK],
}

impl BlockCodes {
    /// Rounds activations, [`ACTIVATION_BLOCK`] at most.
    ///
    /// The scale is the largest magnitude over 127, and a code the activation times 127 over the largest magnitude, each of
    /// these rounded to f32, rounded to the nearest whole number and in the middle to the even one. Blocks of magnitudes
    /// below 2⁻¹⁰⁰ are zeros, whose scale is 0. Where an activation is not finite the scale is NaN and the codes are
    /// zeros, so that what is computed with them is NaN.
    pub fn of(x: &[f32]) -> Self {
        // Of bits, as NaN is to be the largest.
        let largest = x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
        let (scale, factor) = block_scale(f32::from_bits(largest));
        let mut codes = [0; ACTIVATION_BLOCK];
        if !scale.is_nan() {
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x * factor).round_ties_even() as i8;
            }
        }
        BlockCodes { scale, codes }
    }

    /// The activation that a code stands for, which is not rounded.
    pub fn value(&self, i: usize) -> f64 {
        f64::from(self.scale) * f64::from(self.codes[i])
    }
}

/// The scale of a block, and the factor of its activations, from the largest magnitude; NaN is the largest of all.
pub fn block_scale(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        return (f32::NAN, 0.0);
    }
    if largest < SMALLEST {
        return (0.0, 0.0);
    }
    (largest / 127.0, 127.0 / largest)
}

/// Activations of a row that share a scale.
pub const ACTIVATION_BLOCK: usize = 32;
/// Magnitude below which a block is zeros, 2⁻¹⁰⁰: the inverse of what is not much smaller is infinite.
const SMALLEST: f32 = f32::from_bits((127 - 100) << 23);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_within_half_a_step() {
        for magnitude in [1e-29f32, 1e-3, 1.0, 65504.0, 3e38] {
            let x: Vec<f32> = (0..32)
                .map(|i| magnitude * (i as f32 * 0.7).sin())
                .collect();
            let block = BlockCodes::of(&x);
            let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
            assert_eq!(block.scale, largest / 127.0);
            assert!(block.codes.iter().any(|code| code.abs() == 127));
            for (i, &x) in x.iter().enumerate() {
                let off = (block.value(i) - f64::from(x)).abs();
                // And the rounding of the factor and of the product.
                assert!(off <= f64::from(block.scale) * (0.5 + 3e-5), "{x} by {off}");
            }
        }
    }

    #[test]
    fn small_blocks_are_zeros_and_infinite_ones_nan() {
        for zeros in [&[][..], &[0.0, -0.0], &[SMALLEST / 2.0, -1e-45]] {
            let block = BlockCodes::of(zeros);
            assert_eq!((block.scale, block.codes), (0.0, [0; 32]));
        }
        assert_eq!(BlockCodes::of(&[SMALLEST]).codes[0], 127);
        for not_finite in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let block = BlockCodes::of(&[1.0, not_finite, 2.0]);
            assert!(block.scale.is_nan() && block.value(0).is_nan());
            assert_eq!(block.codes, [0; 32]);
        }
    }
}
