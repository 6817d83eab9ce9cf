//! Codes of four bits in blocks of 32, low halves of bytes first, and such blocks in blocks of 256.

use super::{Codes, Factors, Format, Scales, block_of, f16_at, f16_of_blocks, load_nibbles};
use crate::simd::dot::{DotSimd, GROUPS};

#[derive(Clone, Copy)]
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const LEN: usize = 1;
    const BYTES: usize = 18;
    const CODES: Codes = Codes::Above(8);
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors<S> {
        let scales = f16_of_blocks(simd, blocks, Self::BYTES, 0, n);
        Factors::scales(simd, [scales; 2])
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, blocks: &[u8], group: usize) -> S::Codes {
        load_nibbles(simd, blocks, Self::BYTES * group + 2)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4_1;

impl Format for Q4_1 {
    const LEN: usize = 1;
    const BYTES: usize = 20;
    const CODES: Codes = Codes::Above(0);
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = true;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors<S> {
        let scales = f16_of_blocks(simd, blocks, Self::BYTES, 0, n);
        let mins = f16_of_blocks(simd, blocks, Self::BYTES, 2, n);
        Factors::whole(scales, simd.sub(simd.zero(), mins))
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, blocks: &[u8], group: usize) -> S::Codes {
        load_nibbles(simd, blocks, Self::BYTES * group + 4)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Iq4Nl;

impl Format for Iq4Nl {
    const LEN: usize = 1;
    const BYTES: usize = 18;
    const CODES: Codes = Codes::Signed;
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors<S> {
        let scales = f16_of_blocks(simd, blocks, Self::BYTES, 0, n);
        Factors::scales(simd, [scales; 2])
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, blocks: &[u8], group: usize) -> S::Codes {
        let nibbles = load_nibbles(simd, blocks, Self::BYTES * group + 2);
        simd.choose(&NON_LINEAR, nibbles)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Mxfp4;

impl Format for Mxfp4 {
    const LEN: usize = 1;
    const BYTES: usize = 17;
    const CODES: Codes = Codes::Above(12);
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors<S> {
        let mut exponents = 0;
        for i in 0..GROUPS {
            // Of the last block again, rather than of none.
            let exponent = blocks[i.min(n - 1) * Self::BYTES];
            exponents |= u64::from(exponent) << (8 * i);
        }
        // Half, since the table is doubled.
        let scales = simd.half_powers(exponents.to_le_bytes());
        Factors::scales(simd, [scales; 2])
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, blocks: &[u8], group: usize) -> S::Codes {
        let nibbles = load_nibbles(simd, blocks, Self::BYTES * group + 1);
        simd.choose(&E2M1, nibbles)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Iq4Xs;

impl Format for Iq4Xs {
    const LEN: usize = GROUPS;
    const BYTES: usize = 136;
    const CODES: Codes = Codes::Signed;
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors<S> {
        let block = block_of::<{ Self::BYTES }>(block);
        // A byte for each nibble, and for each two bits.
        let mut low = u64::from(u32::from_le_bytes([block[4], block[5], block[6], block[7]]));
        low = (low | low << 16) & 0x0000_ffff_0000_ffff;
        low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
        low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        let mut high = u64::from(u16::from_le_bytes([block[2], block[3]]));
        high = (high | high << 24) & 0x0000_00ff_0000_00ff;
        high = (high | high << 12) & 0x000f_000f_000f_000f;
        high = (high | high << 6) & 0x0303_0303_0303_0303;
        let codes = simd.of_bytes((low | high << 4).to_le_bytes());
        let scales = simd.mul(f16_at(simd, block, 0), simd.sub(codes, simd.splat(32.0)));
        Factors::scales(simd, [scales; 2])
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, block: &[u8], group: usize) -> S::Codes {
        simd.choose(&NON_LINEAR, load_nibbles(simd, block, 8 + 16 * group))
    }
}

/// The numbers of E2M1, doubled so that they are whole, and 12 more.
const E2M1: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
/// The values of IQ4_NL.
const NON_LINEAR: [u8; 16] = [
    -127i8 as u8,
    -104i8 as u8,
    -83i8 as u8,
    -65i8 as u8,
    -49i8 as u8,
    -35i8 as u8,
    -22i8 as u8,
    -10i8 as u8,
    1,
    13,
    25,
    38,
    53,
    69,
    89,
    113,
];
