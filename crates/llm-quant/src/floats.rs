//! Numbers in bytes of any alignment.

use half::{bf16, f16};
use llm_tensor::{DType, le_bytes_to_f32};

/// Element `i` of little-endian f32.
pub(crate) fn f32_at(bytes: &[u8], i: usize) -> f32 {
    let word = bytes[4 * i..][..4].try_into().expect("a word is 4 bytes");
    f32::from_le_bytes(word)
}

/// Number `i` of type `dtype`: a scale, read alone.
///
/// # Panics
/// When these are no numbers of floating point.
pub(crate) fn number_at(dtype: DType, bytes: &[u8], i: usize) -> f32 {
    let bytes = &bytes[i * dtype.size()..][..dtype.size()];
    match (dtype, bytes) {
        (DType::F32, _) => f32_at(bytes, 0),
        (DType::F16, &[low, high]) => f16::from_le_bytes([low, high]).to_f32(),
        (DType::BF16, &[low, high]) => bf16::from_le_bytes([low, high]).to_f32(),
        _ => {
            let mut number = [0.0];
            le_bytes_to_f32(dtype, bytes, &mut number).expect("scales are numbers");
            number[0]
        }
    }
}

/// The first `N` elements of little-endian f32.
pub(crate) fn f32s<const N: usize>(bytes: &[u8]) -> [f32; N] {
    std::array::from_fn(|i| f32_at(bytes, i))
}

/// As little-endian bytes.
pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Largest magnitude, of which NaN is the largest; 0 of none. By their bits, which compares faster than by value.
pub(crate) fn largest_magnitude(values: impl Iterator<Item = f32>) -> f32 {
    f32::from_bits(values.map(|x| x.abs().to_bits()).fold(0, u32::max))
}
