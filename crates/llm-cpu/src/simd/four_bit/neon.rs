use std::arch::aarch64::*;
use std::convert::Infallible;

use super::FourBit;
use crate::simd::{Codes, Neon, Simd};

impl FourBit for Neon {
    /// The bytes of the sixteen values.
    type Table = uint8x16x4_t;
    type Thresholds = ([f32; 15], [u8; 16]);
    type Buckets = Infallible;

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> uint8x16x4_t {
        // SAFETY: sixteen values are 64 bytes; the token proves that the machine has the instruction set.
        unsafe { vld1q_u8_x4(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn thresholds(self, thresholds: &[f32; 15], codes: &[u8; 16]) -> ([f32; 15], [u8; 16]) {
        (*thresholds, *codes)
    }

    #[inline(always)]
    fn buckets(self, _: &[f32; 15], _: &[u8; 16]) -> Option<Infallible> {
        None
    }

    #[inline(always)]
    fn affine_table(self, table: uint8x16x4_t, scale: f32, min: f32) -> uint8x16x4_t {
        let (scale, min) = (self.splat(scale), self.splat(min));
        map(table, |values| self.sub(self.mul(values, scale), min))
    }

    #[inline(always)]
    fn scaled_table(self, table: uint8x16x4_t, scale: f32) -> uint8x16x4_t {
        let scale = self.splat(scale);
        map(table, |values| self.mul(values, scale))
    }

    #[inline(always)]
    fn choose(self, table: uint8x16x4_t, codes: uint32x4_t) -> float32x4_t {
        // SAFETY: the token.
        unsafe {
            // The places of each value's four bytes.
            let codes = vshlq_n_u32::<2>(vandq_u32(codes, vdupq_n_u32(15)));
            let places = vmlaq_n_u32(vdupq_n_u32(0x0302_0100), codes, 0x0101_0101);
            vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(places)))
        }
    }

    #[inline(always)]
    unsafe fn look_up(self, table: uint8x16x4_t, src: *const u8) -> float32x4_t {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let codes = vdupq_n_u32(src.cast::<u16>().read_unaligned().into());
            let shifts = vld1q_s32([-4, 0, -12, -8].as_ptr());
            self.choose(table, vshlq_u32(codes, shifts))
        }
    }

    #[inline(always)]
    unsafe fn look_up_eighth(self, table: uint8x16x4_t, src: *const u8, i: usize) -> float32x4_t {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // A load from byte i / 2 on stands for a shift.
            let words = vreinterpretq_u32_u8(vld1q_u8(src.add(i / 2)));
            match i.is_multiple_of(2) {
                true => self.choose(table, self.shift_right(words, 4)),
                false => self.choose(table, words),
            }
        }
    }

    #[inline(always)]
    unsafe fn store_nibbles(
        self,
        (thresholds, codes): ([f32; 15], [u8; 16]),
        even: float32x4_t,
        odd: float32x4_t,
        dst: *mut u8,
    ) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let rank = |x: float32x4_t| {
                let mut rank = vdupq_n_u32(0);
                for threshold in thresholds {
                    // All ones, hence one less than nothing, where x is above.
                    rank = vsubq_u32(rank, vcgtq_f32(x, vdupq_n_f32(threshold)));
                }
                let mut ranks = [0u32; 4];
                vst1q_u32(ranks.as_mut_ptr(), rank);
                ranks.map(|rank| codes[rank as usize])
            };
            let (even, odd) = (rank(even), rank(odd));
            let bytes: [u8; 4] = std::array::from_fn(|i| even[i] << 4 | odd[i]);
            dst.cast::<[u8; 4]>().write(bytes);
        }
    }

    #[inline(always)]
    unsafe fn store_bucketed(self, none: Infallible, _: float32x4_t, _: float32x4_t, _: *mut u8) {
        match none {}
    }

    #[inline(always)]
    fn deinterleave(self, a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) {
        // SAFETY: the token.
        unsafe { (vuzp1q_f32(a, b), vuzp2q_f32(a, b)) }
    }

    #[inline(always)]
    fn interleave(self, even: float32x4_t, odd: float32x4_t) -> (float32x4_t, float32x4_t) {
        // SAFETY: the token.
        unsafe { (vzip1q_f32(even, odd), vzip2q_f32(even, odd)) }
    }
}

#[inline(always)]
fn map(table: uint8x16x4_t, f: impl Fn(float32x4_t) -> float32x4_t) -> uint8x16x4_t {
    // SAFETY: only callers with a token have a table.
    unsafe {
        let part = |bytes| vreinterpretq_u8_f32(f(vreinterpretq_f32_u8(bytes)));
        uint8x16x4_t(part(table.0), part(table.1), part(table.2), part(table.3))
    }
}
