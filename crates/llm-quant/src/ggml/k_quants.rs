//! The "k-quants": 256 elements in 16 sub-blocks of 16 or 8 of 32, each with a small integer scale (and minimum)
//! that is itself in units of the block's f16 scale.

use super::f16_at;

/// `scales: [u8; 16]` at 0, low nibble the scale and high nibble the minimum of 16 elements; `codes: [u8; 64]` at
/// 16; `scale: f16` at 80, `min: f16` at 82.
///
/// Each half of 128 elements has 32 bytes of codes: bits 0..2 are its first 32 elements, bits 2..4 the next 32.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (scale, min) = (f16_at(block, 80), f16_at(block, 82));
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, shift) = (i / 8, i % 8 / 2 * 2);
        let codes = &codes[half * 32 + i % 2 * 16..][..16];
        let scale = scale * f32::from(scales[i] & 0xF);
        let min = min * f32::from(scales[i] >> 4);
        for (out, code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from(code >> shift & 3) - min;
        }
    }
}

/// `high_bits: [u8; 32]` at 0, `codes: [u8; 64]` at 32, `scales: [u8; 12]` at 96, `scale: f16` at 108.
///
/// The codes lie as in Q2_K. Bit k of high byte l belongs to element 32 k + l; where it is *not* set, 4 is
/// subtracted.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (high_bits, codes) = (&block[..32], &block[32..96]);
    let scales = q3_k_scales(&block[96..108]);
    let scale = f16_at(block, 108);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, shift) = (i / 8, i % 8 / 2 * 2);
        let codes = &codes[half * 32 + i % 2 * 16..][..16];
        let high_bits = &high_bits[i % 2 * 16..][..16];
        let scale = scale * f32::from(scales[i]);
        for (out, (code, high)) in out.iter_mut().zip(codes.iter().zip(high_bits)) {
            let offset = (high >> (i / 2) & 1 ^ 1) << 2;
            *out = scale * f32::from((code >> shift & 3) as i8 - offset as i8);
        }
    }
}

/// The 16 six-bit scales, minus 32: the low nibbles of bytes 0..8, then their high nibbles, are the low four bits;
/// two bits each of bytes 8..12, lowest first, the high two.
fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = packed[i % 8] >> (i / 8 * 4) & 0xF;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// `scale: f16` at 0, `min: f16` at 2, `scales: [u8; 12]` at 4, `nibbles: [u8; 128]` at 16.
///
/// Each 64 elements have 32 bytes: the low nibbles are the first 32 elements, the high ones the other 32.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, nibbles) = (&block[4..16], &block[16..]);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let nibbles = &nibbles[i / 2 * 32..][..32];
        let shift = i % 2 * 4;
        let (sub_scale, sub_min) = q4_k_scale_and_min(scales, i);
        let (scale, min) = (scale * f32::from(sub_scale), min * f32::from(sub_min));
        for (out, nibble) in out.iter_mut().zip(nibbles) {
            *out = scale * f32::from(nibble >> shift & 0xF) - min;
        }
    }
}

/// `scale: f16` at 0, `min: f16` at 2, `scales: [u8; 12]` at 4, `fifth_bits: [u8; 32]` at 16, `nibbles: [u8; 128]`
/// at 48.
///
/// Scales and nibbles lie as in Q4_K. Bit k of high byte l belongs to element 32 k + l.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, fifth_bits, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let nibbles = &nibbles[i / 2 * 32..][..32];
        let shift = i % 2 * 4;
        let (sub_scale, sub_min) = q4_k_scale_and_min(scales, i);
        let (scale, min) = (scale * f32::from(sub_scale), min * f32::from(sub_min));
        for (out, (nibble, fifth)) in out.iter_mut().zip(nibbles.iter().zip(fifth_bits)) {
            *out = scale * f32::from(nibble >> shift & 0xF | (fifth >> i & 1) << 4) - min;
        }
    }
}

/// The six-bit scale and minimum of sub-block `i` of 8. Those of the first four are the low six bits of bytes
/// 0..4 and 4..8; the others have their low four bits in the nibbles of bytes 8..12 and their high two above the
/// former.
fn q4_k_scale_and_min(packed: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 0x3F, packed[i + 4] & 0x3F)
    } else {
        (
            packed[i + 4] & 0xF | packed[i - 4] >> 6 << 4,
            packed[i + 4] >> 4 | packed[i] >> 6 << 4,
        )
    }
}

/// `nibbles: [u8; 128]` at 0, `high_bits: [u8; 64]` at 128, `scales: [i8; 16]` at 192, `scale: f16` at 208.
///
/// Each half of 128 elements has 64 bytes of nibbles, the low ones its first 64 elements, and 32 bytes of high bits,
/// bits 0..2 its first 32 elements, bits 2..4 the next 32.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (nibbles, high_bits, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = f16_at(block, 208);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, i_in_half) = (i / 8, i % 8);
        let nibbles = &nibbles[half * 64 + i_in_half % 4 * 16..][..16];
        let high_bits = &high_bits[half * 32 + i_in_half % 2 * 16..][..16];
        let (nibble_shift, high_shift) = (i_in_half / 4 * 4, i_in_half / 2 * 2);
        let scale = scale * f32::from(scales[i] as i8);
        for (out, (nibble, high)) in out.iter_mut().zip(nibbles.iter().zip(high_bits)) {
            let code = nibble >> nibble_shift & 0xF | (high >> high_shift & 3) << 4;
            *out = scale * f32::from(code as i8 - 32);
        }
    }
}
