//! The "i-quants": 256 elements in groups of eight (or four), each group a point of a grid that a code names, with signs or a
//! shift beside it. The grids are constants of the format, as `grids/README.md` says.

use half::f16;

use super::{f16_at, u32_at};

/// A grid whose points have `LEN` values of `BITS` bits.
struct Grid<const LEN: usize> {
    points: &'static [u8],
    values: &'static [i8],
    bits: u32,
}

impl<const LEN: usize> Grid<LEN> {
    fn point(&self, idx: usize) -> [f32; LEN] {
        let word = u16::from_le_bytes([self.points[2 * idx], self.points[2 * idx + 1]]);
        let mask = (1 << self.bits) - 1;
        std::array::from_fn(|i| {
            f32::from(self.values[usize::from(word >> (self.bits * i as u32) & mask)])
        })
    }
}

const IQ2_VALUES: &[i8] = &[0x08, 0x19, 0x2B];

static IQ2_XXS: Grid<8> = Grid {
    points: include_bytes!("grids/iq2_xxs.bin"),
    values: IQ2_VALUES,
    bits: 2,
};
static IQ2_XS: Grid<8> = Grid {
    points: include_bytes!("grids/iq2_xs.bin"),
    values: IQ2_VALUES,
    bits: 2,
};
static IQ2_S: Grid<8> = Grid {
    points: include_bytes!("grids/iq2_s.bin"),
    values: IQ2_VALUES,
    bits: 2,
};
static IQ3_XXS: Grid<4> = Grid {
    points: include_bytes!("grids/iq3_xxs.bin"),
    values: &[0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34, 0x3E],
    bits: 3,
};
static IQ3_S: Grid<4> = Grid {
    points: include_bytes!("grids/iq3_s.bin"),
    values: &[1, 3, 5, 7, 9, 11, 13, 15],
    bits: 3,
};
static IQ1: Grid<8> = Grid {
    points: include_bytes!("grids/iq1_s.bin"),
    values: &[-1, 0, 1],
    bits: 2,
};

/// The signs of eight elements out of seven bits: the eighth makes their number even.
fn even_signs(code: u32) -> u8 {
    let code = (code & 0x7F) as u8;
    code | ((code.count_ones() & 1) as u8) << 7
}

/// Writes values, scaled and where a bit of `signs` is set negated.
fn write(out: &mut [f32], scale: f32, point: &[f32], signs: u8) {
    for (i, (out, value)) in out.iter_mut().zip(point).enumerate() {
        let sign = if signs >> i & 1 == 0 { 1.0 } else { -1.0 };
        *out = scale * value * sign;
    }
}

/// A pair of points of four values is a group of eight.
fn pair(grid: &Grid<4>, first: usize, second: usize) -> [f32; 8] {
    let (first, second) = (grid.point(first), grid.point(second));
    std::array::from_fn(|i| if i < 4 { first[i] } else { second[i - 4] })
}

fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The nibble number `i` of `bytes`, low ones first.
fn nibble(bytes: &[u8], i: usize) -> f32 {
    f32::from(bytes[i / 2] >> (i % 2 * 4) & 0xF)
}

/// `scale: f16` at 0; then for each 32 elements four codes of a byte and a `u32`: four times seven bits of signs, and on top
/// the scale.
pub(super) fn iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let at = 2 + i / 4 * 8;
        let word = u32_at(block, at + 4);
        let scale = scale * (0.5 + (word >> 28) as f32) * 0.25;
        let point = IQ2_XXS.point(block[at + i % 4].into());
        write(out, scale, &point, even_signs(word >> (i % 4 * 7)));
    }
}

/// `scale: f16` at 0, `codes: [u16; 32]` at 2, nine bits for the point and seven for signs; `scales: [u8; 8]` at 66, a nibble
/// for each 16 elements.
pub(super) fn iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let code = u16_at(block, 2 + 2 * i);
        let scale = scale * (0.5 + nibble(&block[66..], i / 2)) * 0.25;
        let point = IQ2_XS.point(usize::from(code & 511));
        write(out, scale, &point, even_signs(u32::from(code >> 9)));
    }
}

/// `scale: f16` at 0, `codes: [u8; 32]` at 2, `signs: [u8; 32]` at 34, `high: [u8; 8]` at 66, two more bits for each code;
/// `scales: [u8; 8]` at 74, a nibble for each 16 elements.
pub(super) fn iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = usize::from(block[66 + i / 4] >> (i % 4 * 2) & 3);
        let scale = scale * (0.5 + nibble(&block[74..], i / 2)) * 0.25;
        let point = IQ2_S.point(usize::from(block[2 + i]) | high << 8);
        write(out, scale, &point, block[34 + i]);
    }
}

/// `scale: f16` at 0, `codes: [u8; 64]` at 2; then for each 32 elements a `u32`: four times seven bits of signs, and on top
/// the scale.
pub(super) fn iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let word = u32_at(block, 66 + i / 4 * 4);
        let scale = scale * (0.5 + (word >> 28) as f32) * 0.5;
        let code = |k: usize| usize::from(block[2 + 2 * i + k]);
        let point = pair(&IQ3_XXS, code(0), code(1));
        write(out, scale, &point, even_signs(word >> (i % 4 * 7)));
    }
}

/// `scale: f16` at 0, `codes: [u8; 64]` at 2, `high: [u8; 8]` at 66, one more bit for each code, `signs: [u8; 32]` at 74,
/// `scales: [u8; 4]` at 106, a nibble for each 32 elements.
pub(super) fn iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let code = |k: usize| {
            let k = 2 * i + k;
            usize::from(block[2 + k]) | usize::from(block[66 + k / 8] >> (k % 8) & 1) << 8
        };
        let scale = scale * (1.0 + 2.0 * nibble(&block[106..], i / 4));
        write(out, scale, &pair(&IQ3_S, code(0), code(1)), block[74 + i]);
    }
}

/// Shift of the values of a point.
const DELTA: f32 = 0.125;

/// Writes values, shifted and scaled.
fn write_shifted(out: &mut [f32], scale: f32, point: &[f32; 8], is_down: bool) {
    let delta = if is_down { -DELTA } else { DELTA };
    for (out, value) in out.iter_mut().zip(point) {
        *out = scale * (value + delta);
    }
}

/// `scale: f16` at 0, `codes: [u8; 32]` at 2, `high: [u16; 8]` at 34: for each 32 elements three more bits of each of its four
/// codes, three bits of scale, and the direction of the shift.
pub(super) fn iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = u16_at(block, 34 + i / 4 * 2);
        let code = usize::from(block[2 + i]) | usize::from(high >> (i % 4 * 3) & 7) << 8;
        let scale = scale * f32::from(2 * (high >> 12 & 7) + 1);
        write_shifted(out, scale, &IQ1.point(code), high & 0x8000 != 0);
    }
}

/// `codes: [u8; 32]` at 0, `high: [u8; 16]` at 32, a nibble for each code: three more bits, and the direction of the shift;
/// `scales: [u16; 4]` at 48: four times three bits, one for each 16 elements, and on top four bits of the block's f16 scale.
pub(super) fn iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let word = |i: usize| u16_at(block, 48 + 2 * i);
    let bits = (0..4).fold(0, |bits, i| bits | word(i) >> 12 << (4 * i));
    let scale = f16::from_bits(bits).to_f32();
    for (i, out) in out.chunks_exact_mut(8).enumerate() {
        let high = block[32 + i / 2] >> (i % 2 * 4);
        let code = usize::from(block[i]) | usize::from(high & 7) << 8;
        let sub_scale = word(i / 8) >> (i / 2 % 4 * 3) & 7;
        let scale = scale * f32::from(2 * sub_scale + 1);
        write_shifted(out, scale, &IQ1.point(code), high & 8 != 0);
    }
}
