//! Scales beside codes, of any type of numbers.

use llm_tensor::{DType, le_bytes_to_f32};

use crate::simd::FourBit;

/// Number `i` of `numbers`, which are of a type of floating point.
#[inline(always)]
pub(super) fn number_at<S: FourBit>(simd: S, dtype: DType, numbers: &[u8], i: usize) -> f32 {
    let size = dtype.size();
    match (dtype, &numbers[i * size..][..size]) {
        (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (DType::BF16, &[low, high]) => f32::from_le_bytes([0, 0, low, high]),
        (DType::F16, bits) => simd.f16_at(bits, 0),
        (DType::F8E8M0, &[exponent]) => power(exponent),
        (other, bytes) => of_any(other, bytes),
    }
}

/// The power of two of an exponent of E8M0.
#[inline(always)]
pub(super) fn power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 => 0x0040_0000,
        255 => 0x7fc0_0000,
        _ => u32::from(exponent) << 23,
    })
}

fn of_any(dtype: DType, bytes: &[u8]) -> f32 {
    let mut value = [0.0];
    le_bytes_to_f32(dtype, bytes, &mut value).expect("scales are numbers");
    value[0]
}
