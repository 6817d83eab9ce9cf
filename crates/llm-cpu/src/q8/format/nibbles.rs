//! Codes of four bits in blocks of 32, low halves of bytes first, and such blocks in blocks of 256.

use super::{Codes, Factors, Format, Scales, f16_at, f16_of_blocks, load_nibbles};
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
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors {
        let scales = f16_of_blocks(simd, blocks, Self::BYTES, 0, n);
        Factors::whole(scales, [0.0; GROUPS])
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
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors {
        let [scales, mins] = [0, 2].map(|at| f16_of_blocks(simd, blocks, Self::BYTES, at, n));
        Factors::whole(scales, mins.map(|min| -min))
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
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors {
        let scales = f16_of_blocks(simd, blocks, Self::BYTES, 0, n);
        Factors::whole(scales, [0.0; GROUPS])
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
    fn factors<S: DotSimd>(_: S, blocks: &[u8], n: usize) -> Factors {
        let mut scales = [0.0; GROUPS];
        let blocks = blocks.chunks_exact(Self::BYTES);
        for (scale, block) in scales.iter_mut().zip(blocks).take(n) {
            // Half of 2^(exponent - 127), since the table is doubled.
            let exponent = u32::from(block[0]);
            *scale = f32::from_bits(if exponent < 2 {
                0x0020_0000 << exponent
            } else {
                (exponent - 1) << 23
            });
        }
        Factors::whole(scales, [0.0; GROUPS])
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
    fn factors<S: DotSimd>(simd: S, block: &[u8], _: usize) -> Factors {
        let scale = f16_at(simd, block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        let scales = std::array::from_fn(|i| {
            let low = block[4 + i / 2] >> (i % 2 * 4) & 0xF;
            let code = low | ((high >> (2 * i) & 3) as u8) << 4;
            scale * f32::from(code as i8 - 32)
        });
        Factors::whole(scales, [0.0; GROUPS])
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
