//! Blocks of 32 elements with codes of more than four bits.

use super::{Codes, Factors, Format, Scales, f16_of_blocks, load, load_nibbles};
use crate::simd::dot::DotSimd;

#[derive(Clone, Copy)]
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const LEN: usize = 1;
    const BYTES: usize = 34;
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
        load(simd, blocks, Self::BYTES * group + 2)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5_0;

impl Format for Q5_0 {
    const LEN: usize = 1;
    const BYTES: usize = 22;
    const CODES: Codes = Codes::Above(16);
    const SCALES: Scales = Scales::Whole;
    const HAS_MINS: bool = false;

    #[inline(always)]
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors<S> {
        let scales = f16_of_blocks(simd, blocks, Self::BYTES, 0, n);
        Factors::scales(simd, [scales; 2])
    }

    #[inline(always)]
    fn codes<S: DotSimd>(simd: S, blocks: &[u8], group: usize) -> S::Codes {
        five_bits(simd, blocks, Self::BYTES * group + 2)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5_1;

impl Format for Q5_1 {
    const LEN: usize = 1;
    const BYTES: usize = 24;
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
        five_bits(simd, blocks, Self::BYTES * group + 4)
    }
}

/// Codes of five bits: four bytes of fifth bits, then the halves of 16.
#[inline(always)]
fn five_bits<S: DotSimd>(simd: S, bytes: &[u8], at: usize) -> S::Codes {
    let nibbles = load_nibbles(simd, bytes, at + 4);
    let fifth = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    simd.or(nibbles, simd.where_set(fifth, 16))
}
