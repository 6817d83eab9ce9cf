//! The "k-quants" of other than four bits: 256 elements, their scales in units of the block's own.

use super::nibbles::scales_and_mins;
use super::{Block, Sink};
use crate::simd::FourBit;

#[derive(Clone, Copy)]
pub(super) struct Q2K;

impl Block for Q2K {
    const LEN: usize = 256;
    const PART: usize = 128;
    /// Scale and minimum of each 16 elements.
    type Opened = [[f32; 16]; 2];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        84
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [[f32; 16]; 2] {
        let (scale, min) = (simd.f16_at(block, 80), simd.f16_at(block, 82));
        [
            std::array::from_fn(|i| scale * f32::from(block[i] & 15)),
            std::array::from_fn(|i| min * f32::from(block[i] >> 4)),
        ]
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        [scales, mins]: &[[f32; 16]; 2],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let bytes = &block[16 + 32 * part..][..32];
        for at in (0..32).step_by(S::LANES) {
            let codes = simd.bytes(bytes, at);
            for quarter in 0..4 {
                let code = simd.mask(simd.shift_right(codes, 2 * quarter as u32), 3);
                let group = 8 * part + 2 * quarter + at / 16;
                let scaled = simd.mul(simd.splat(scales[group]), simd.to_f32(code));
                let value = simd.sub(scaled, simd.splat(mins[group]));
                sink.take(first, 32 * quarter + at, value);
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q3K;

impl Block for Q3K {
    const LEN: usize = 256;
    const PART: usize = 128;
    type Opened = [f32; 16];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        110
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [f32; 16] {
        let (packed, scale) = (&block[96..108], simd.f16_at(block, 108));
        std::array::from_fn(|i| {
            let low = packed[i % 8] >> (i / 8 * 4) & 0xF;
            let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
            scale * f32::from((low | high << 4) as i8 - 32)
        })
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        scales: &[f32; 16],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let bytes = &block[32 + 32 * part..][..32];
        let middle = simd.splat(4.0);
        for at in (0..32).step_by(S::LANES) {
            let codes = simd.bytes(bytes, at);
            let high = simd.shift_right(simd.bytes(&block[..32], at), 4 * part as u32);
            for quarter in 0..4 {
                let low = simd.mask(simd.shift_right(codes, 2 * quarter as u32), 3);
                let third = simd.mask(simd.shift_right(high, quarter as u32), 1);
                let code = simd.to_f32(simd.or(low, simd.shift_left(third, 2)));
                let scale = simd.splat(scales[8 * part + 2 * quarter + at / 16]);
                let value = simd.mul(scale, simd.sub(code, middle));
                sink.take(first, 32 * quarter + at, value);
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5K;

impl Block for Q5K {
    const LEN: usize = 256;
    const PART: usize = 64;
    /// Scale and minimum of each 32 elements.
    type Opened = [[f32; 8]; 2];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        176
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [[f32; 8]; 2] {
        scales_and_mins(simd, block)
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        [scales, mins]: &[[f32; 8]; 2],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let bytes = &block[48 + 32 * part..][..32];
        let scales = [2 * part, 2 * part + 1].map(|i| simd.splat(scales[i]));
        let mins = [2 * part, 2 * part + 1].map(|i| simd.splat(mins[i]));
        for at in (0..32).step_by(S::LANES) {
            let nibbles = simd.bytes(bytes, at);
            let fifth = simd.shift_right(simd.bytes(&block[16..48], at), 2 * part as u32);
            let codes = [
                simd.or(
                    simd.mask(nibbles, 15),
                    simd.shift_left(simd.mask(fifth, 1), 4),
                ),
                simd.or(
                    simd.shift_right(nibbles, 4),
                    simd.shift_left(simd.mask(fifth, 2), 3),
                ),
            ];
            for half in 0..2 {
                let scaled = simd.mul(scales[half], simd.to_f32(codes[half]));
                sink.take(first, 32 * half + at, simd.sub(scaled, mins[half]));
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q6K;

impl Block for Q6K {
    const LEN: usize = 256;
    const PART: usize = 128;
    type Opened = [f32; 16];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        210
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [f32; 16] {
        let scale = simd.f16_at(block, 208);
        std::array::from_fn(|i| scale * f32::from(block[192 + i] as i8))
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        scales: &[f32; 16],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let nibbles = &block[64 * part..][..64];
        let high = &block[128 + 32 * part..][..32];
        let middle = simd.splat(32.0);
        for at in (0..32).step_by(S::LANES) {
            let high = simd.bytes(high, at);
            for quarter in 0..4 {
                let low = simd.bytes(nibbles, quarter % 2 * 32 + at);
                let low = match quarter {
                    0 | 1 => simd.mask(low, 15),
                    _ => simd.shift_right(low, 4),
                };
                // Bits 4 and 5.
                let upper = match quarter {
                    0 => simd.shift_left(high, 4),
                    1 => simd.shift_left(high, 2),
                    2 => high,
                    _ => simd.shift_right(high, 2),
                };
                let code = simd.to_f32(simd.or(low, simd.mask(upper, 0x30)));
                let scale = simd.splat(scales[8 * part + 2 * quarter + at / 16]);
                let value = simd.mul(scale, simd.sub(code, middle));
                sink.take(first, 32 * quarter + at, value);
            }
        }
    }
}
