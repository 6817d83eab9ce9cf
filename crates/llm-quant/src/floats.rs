//! Numbers in bytes of any alignment.

/// Element `i` of little-endian f32.
pub(crate) fn f32_at(bytes: &[u8], i: usize) -> f32 {
    let word = bytes[4 * i..][..4].try_into().expect("a word is 4 bytes");
    f32::from_le_bytes(word)
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
