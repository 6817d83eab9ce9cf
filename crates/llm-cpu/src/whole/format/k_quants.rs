//! The "k-quants": 256 elements, their scales in units of the block's own.

use super::{Codes, Factors, Format, Scales, block_of, f16_at, load};
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
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors<S> {
        let block = block_of::<{ Self::BYTES }>(block);
        let (scale, min) = (f16_at(simd, block, 80), f16_at(simd, block, 82));
        let bytes = u128::from_le_bytes(sixteen(block, 0));
        let low = u128::MAX / 17;
        let scales = simd.of_pairs((bytes & low).to_le_bytes());
        let mins = simd.of_pairs((bytes >> 4 & low).to_le_bytes());
        Factors {
            scales: times(simd, scales, scale),
            mins: times(simd, mins, min),
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
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors<S> {
        let block = block_of::<{ Self::BYTES }>(block);
        let word = |i: usize| {
            let at = 96 + 4 * i;
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        };
        // Four low halves, and the two bits above each of four, at a time.
        let mut codes = [0; 16];
        for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let low = word(i % 2) >> (4 * (i / 2)) & 0x0f0f_0f0f;
            *codes = (low | (word(2) >> (2 * i) & 0x0303_0303) << 4).to_le_bytes();
        }
        let (scale, middle) = (f16_at(simd, block, 108), simd.splat(32.0));
        let [even, odd] = simd.of_pairs(codes);
        let codes = [simd.sub(even, middle), simd.sub(odd, middle)];
        Factors::scales(simd, times(simd, codes, scale))
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
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors<S> {
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
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors<S> {
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
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors<S> {
        let block = block_of::<{ Self::BYTES }>(block);
        let scale = f16_at(simd, block, 208);
        let codes = simd.of_pairs(sixteen(block, 192));
        Factors::scales(simd, times(simd, codes, scale))
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

/// Both times a factor.
#[inline(always)]
fn times<S: DotSimd>(simd: S, [a, b]: [S::F32; 2], factor: S::F32) -> [S::F32; 2] {
    [simd.mul(factor, a), simd.mul(factor, b)]
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

/// 16 bytes from `at` on.
#[inline(always)]
fn sixteen(block: &[u8], at: usize) -> [u8; 16] {
    *block[at..].first_chunk().expect("a whole block")
}

/// The scales and minimums of a block of Q4_K or Q5_K.
#[inline(always)]
fn scales_and_mins<S: DotSimd>(simd: S, block: &[u8]) -> Factors<S> {
    let block = block_of::<16>(block);
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
    let bytes = |(low, high): (u64, u32)| (low | u64::from(high) << 32).to_le_bytes();
    let [scales, mins] = codes;
    Factors::whole(
        simd.mul(scale, simd.of_bytes(bytes(scales))),
        simd.mul(min, simd.of_bytes(bytes(mins))),
    )
}
