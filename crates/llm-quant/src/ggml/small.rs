//! Codes of four bits and fewer without a minimum: tables of values, and ternary numbers.

use super::f16_at;

/// The numbers of E2M1, doubled so that they are whole.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The values of IQ4_NL, closer where weights are more frequent.
const NON_LINEAR: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Writes the values of nibbles: the low ones first, then the high ones.
fn look_up(table: &[i8; 16], scale: f32, nibbles: &[u8], out: &mut [f32]) {
    let (low, high) = out.split_at_mut(nibbles.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(nibbles) {
        *low = scale * f32::from(table[usize::from(byte & 0xF)]);
        *high = scale * f32::from(table[usize::from(byte >> 4)]);
    }
}

/// `exponent: u8` at 0, of E8M0; `nibbles: [u8; 16]` at 1.
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // Half of 2^(exponent - 127), since the values are doubled.
    let exponent = u32::from(block[0]);
    let scale = match exponent {
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        _ => f32::from_bits((exponent - 1) << 23),
    };
    look_up(&E2M1, scale, &block[1..], out);
}

/// `scales: [u8; 4]` at 0, of E4M3 without its sign; `nibbles: [u8; 32]` at 4, eight bytes for each scale.
pub(super) fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    let (scales, nibbles) = block.split_at(4);
    let groups = nibbles.chunks_exact(8).zip(out.chunks_exact_mut(16));
    for (code, (nibbles, out)) in scales.iter().zip(groups) {
        look_up(&E2M1, unsigned_e4m3(*code) * 0.5, nibbles, out);
    }
}

/// The magnitude of an E4M3 number; what would be NaN is 0, but for a set sign.
fn unsigned_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (code >> 3 & 0xF, f32::from(code & 7));
    match (code, exponent) {
        (0 | 0x7F, _) => 0.0,
        (_, 0) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent) - 7),
    }
}

/// `scale: f16` at 0, `nibbles: [u8; 16]` at 2.
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    look_up(&NON_LINEAR, f16_at(block, 0), &block[2..], out);
}

/// `scale: f16` at 0, `high: u16` at 2, `low: [u8; 4]` at 4, `nibbles: [u8; 128]` at 8.
///
/// The six-bit scale of each 32 elements, minus 32, has its low four bits in a nibble of `low` and two bits of `high`.
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + i / 2] >> (i % 2 * 4) & 0xF;
        let sub_scale = (low | ((high >> (2 * i) & 3) as u8) << 4) as i8 - 32;
        let nibbles = &block[8 + i * 16..][..16];
        look_up(&NON_LINEAR, scale * f32::from(sub_scale), nibbles, out);
    }
}

/// `codes: [u8; 52]` at 0, `scale: f16` at 52.
///
/// A byte holds five ternary digits, the last four bytes four, as a fraction of 256: times 3^n, its wrapped rest begins with
/// digit n. The first 32 bytes are 160 elements, the next 16 are 80, the last 4 are 16, each digit of all of them in turn.
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let scale = f16_at(block, 52);
    let (first, rest) = out.split_at_mut(160);
    let (second, third) = rest.split_at_mut(80);
    for (codes, out) in [
        (&block[..32], first),
        (&block[32..48], second),
        (&block[48..52], third),
    ] {
        let mut power = 1u8;
        for out in out.chunks_exact_mut(codes.len()) {
            for (out, code) in out.iter_mut().zip(codes) {
                let digit = (u16::from(code.wrapping_mul(power)) * 3) >> 8;
                *out = scale * f32::from(digit as i8 - 1);
            }
            power = power.wrapping_mul(3);
        }
    }
}

/// `codes: [u8; 64]` at 0, `scale: f16` at 64. Each 32 bytes are 128 elements, bits 0..2 the first 32 of them.
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = f16_at(block, 64);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let codes = &block[i / 4 * 32..][..32];
        for (out, code) in out.iter_mut().zip(codes) {
            *out = scale * f32::from((code >> (i % 4 * 2) & 3) as i8 - 1);
        }
    }
}
