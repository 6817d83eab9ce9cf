//! The "k-quants": 256 elements, their scales in units of the block's own.

use super::{Codes, Factors, Format, Scales, f16_at, load};
use crate::simd::dot::{DotSimd, GROUPS};

#[derive(Clone, Copy)]
pub(super) struct Q2K;

impl Format for Q2K {
    const LEN: usize = GROUPS;
    const BYTES: usize = 84;
    const CODES: Codes = Codes::Above(0);
    const SCALES: Scales = Scales::Halves;
    const HAS_MINS: bool = true;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors {
        let (scale, min) = (f16_at(simd, block, 80), f16_at(simd, block, 82));
        let bytes = &block[..16];
        Factors {
            scales: halves(|i| scale * f32::from(bytes[i] & 15)),
            mins: halves(|i| min * f32::from(bytes[i] >> 4)),
        }
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, block: &[u8], group: usize) -> S::Codes {
        let codes = load(simd, block, 16 + 32 * (group / 4));
        simd.field(codes, 2 * (group as u32 % 4), 3)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q3K;

impl Format for Q3K {
    const LEN: usize = GROUPS;
    const BYTES: usize = 110;
    const CODES: Codes = Codes::Above(4);
    const SCALES: Scales = Scales::Halves;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors {
        let (packed, scale) = (&block[96..108], f16_at(simd, block, 108));
        Factors {
            scales: halves(|i| {
                let low = packed[i % 8] >> (i / 8 * 4) & 0xF;
                let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
                scale * f32::from((low | high << 4) as i8 - 32)
            }),
            ..Factors::NONE
        }
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, block: &[u8], group: usize) -> S::Codes {
        let codes = load(simd, block, 32 + 32 * (group / 4));
        let low = simd.field(codes, 2 * (group as u32 % 4), 3);
        simd.or(low, bit_of(simd, load(simd, block, 0), group, 2))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4K;

impl Format for Q4K {
    const LEN: usize = GROUPS;
    const BYTES: usize = 144;
    const CODES: Codes = Codes::Above(0);
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = true;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors {
        scales_and_mins(simd, block)
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, block: &[u8], group: usize) -> S::Codes {
        let nibbles = load(simd, block, 16 + 32 * (group / 2));
        simd.field(nibbles, 4 * (group as u32 % 2), 15)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5K;

impl Format for Q5K {
    const LEN: usize = GROUPS;
    const BYTES: usize = 176;
    const CODES: Codes = Codes::Above(0);
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = true;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors {
        scales_and_mins(simd, block)
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, block: &[u8], group: usize) -> S::Codes {
        let nibbles = load(simd, block, 48 + 32 * (group / 2));
        let low = simd.field(nibbles, 4 * (group as u32 % 2), 15);
        simd.or(low, bit_of(simd, load(simd, block, 16), group, 4))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q6K;

impl Format for Q6K {
    const LEN: usize = GROUPS;
    const BYTES: usize = 210;
    const CODES: Codes = Codes::Above(32);
    const SCALES: Scales = Scales::Halves;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors {
        let scale = f16_at(simd, block, 208);
        let bytes = &block[192..208];
        Factors {
            scales: halves(|i| scale * f32::from(bytes[i] as i8)),
            ..Factors::NONE
        }
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, block: &[u8], group: usize) -> S::Codes {
        let (half, quarter) = (group / 4, group % 4);
        let nibbles = load(simd, block, 64 * half + 32 * (quarter % 2));
        let low = simd.field(nibbles, 4 * (quarter as u32 / 2), 15);
        let high = load(simd, block, 128 + 32 * half);
        // Bits 4 and 5.
        let upper = match quarter {
            0 => simd.lifted(high, 4, 0x30),
            1 => simd.lifted(high, 2, 0x30),
            2 => simd.field(high, 0, 0x30),
            _ => simd.field(high, 2, 0x30),
        };
        simd.or(low, upper)
    }
}

/// Bit `from` of each byte, as bit `to`.
#[inline(always)]
fn bit_of<S: DotSimd>(simd: S, bytes: S::Codes, from: usize, to: usize) -> S::Codes {
    let mask = 1 << to;
    if from <= to {
        simd.lifted(bytes, (to - from) as u32, mask)
    } else {
        simd.field(bytes, (from - to) as u32, mask)
    }
}

/// Numbers of 16 halves of groups, as those of the first halves and those of the second ones.
#[inline(always)]
fn halves(number: impl Fn(usize) -> f32) -> [[f32; GROUPS]; 2] {
    [0, 1].map(|half| std::array::from_fn(|group| number(2 * group + half)))
}

/// The scales and minimums of a block of Q4_K or Q5_K.
#[inline(always)]
fn scales_and_mins<S: DotSimd>(simd: S, block: &[u8]) -> Factors {
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    // Four of each at a time.
    let (a, b, c) = (word(4), word(8), word(12));
    let upper = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let codes = [
        (u64::from(a & 0x3f3f_3f3f), c & 0x0f0f_0f0f | upper(a)),
        (u64::from(b & 0x3f3f_3f3f), c >> 4 & 0x0f0f_0f0f | upper(b)),
    ];
    let (scale, min) = (f16_at(simd, block, 0), f16_at(simd, block, 2));
    let [scales, mins] = codes.map(|(low, high)| (low | u64::from(high) << 32).to_le_bytes());
    Factors::whole(
        scales.map(|code| scale * f32::from(code)),
        mins.map(|code| min * f32::from(code)),
    )
}
