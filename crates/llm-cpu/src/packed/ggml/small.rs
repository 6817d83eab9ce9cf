//! Blocks of 32 elements with codes of more than four bits.

use super::{Block, Sink};
use crate::simd::FourBit;

#[derive(Clone, Copy)]
pub(super) struct Q8_0;

impl Block for Q8_0 {
    const LEN: usize = 32;
    const PART: usize = 32;
    type Opened = f32;

    #[inline(always)]
    fn n_bytes(self) -> usize {
        34
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> f32 {
        simd.f16_at(block, 0)
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        scale: &f32,
        _: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let scale = simd.splat(*scale);
        for at in (0..32).step_by(S::LANES) {
            sink.take(first, at, simd.mul(simd.signed(block, 2 + at), scale));
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5_0;

impl Block for Q5_0 {
    const LEN: usize = 32;
    const PART: usize = 32;
    type Opened = f32;

    #[inline(always)]
    fn n_bytes(self) -> usize {
        22
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> f32 {
        simd.f16_at(block, 0)
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        scale: &f32,
        _: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let (scale, middle) = (simd.splat(*scale), simd.splat(16.0));
        for at in (0..16).step_by(S::LANES) {
            let [low, high] = five_bits(simd, &block[2..], at);
            sink.take(first, at, simd.mul(scale, simd.sub(low, middle)));
            sink.take(first, 16 + at, simd.mul(scale, simd.sub(high, middle)));
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5_1;

impl Block for Q5_1 {
    const LEN: usize = 32;
    const PART: usize = 32;
    type Opened = [f32; 2];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        24
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [f32; 2] {
        [simd.f16_at(block, 0), simd.f16_at(block, 2)]
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        opened: &[f32; 2],
        _: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let [scale, min] = opened.map(|value| simd.splat(value));
        for at in (0..16).step_by(S::LANES) {
            let [low, high] = five_bits(simd, &block[4..], at);
            sink.take(first, at, simd.add(simd.mul(scale, low), min));
            sink.take(first, 16 + at, simd.add(simd.mul(scale, high), min));
        }
    }
}

/// The five-bit codes of elements `at..at + LANES`, and of those 16 later: four bytes of fifth bits, bit i for element i, before
/// the nibbles.
#[inline(always)]
fn five_bits<S: FourBit>(simd: S, bytes: &[u8], at: usize) -> [S::F32; 2] {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let nibbles = simd.bytes(bytes, 4 + at);
    let low = simd.or(simd.mask(nibbles, 15), simd.where_set(fifth >> at, 16));
    let high = simd.where_set(fifth >> (16 + at), 16);
    let high = simd.or(simd.shift_right(nibbles, 4), high);
    [simd.to_f32(low), simd.to_f32(high)]
}
