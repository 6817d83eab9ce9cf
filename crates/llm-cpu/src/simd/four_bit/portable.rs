use std::convert::Infallible;

use super::FourBit;
use crate::simd::{Portable, Simd};

const N: usize = Portable::LANES;

impl FourBit for Portable {
    type Table = [f32; 16];
    type Thresholds = ([f32; 15], [u8; 16]);
    type Buckets = Infallible;

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> [f32; 16] {
        *values
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
    fn affine_table(self, table: [f32; 16], scale: f32, min: f32) -> [f32; 16] {
        table.map(|value| value * scale - min)
    }

    #[inline(always)]
    fn scaled_table(self, table: [f32; 16], scale: f32) -> [f32; 16] {
        table.map(|value| value * scale)
    }

    #[inline(always)]
    fn choose(self, table: [f32; 16], codes: [u32; N]) -> [f32; N] {
        codes.map(|code| table[(code & 15) as usize])
    }

    #[inline(always)]
    unsafe fn look_up(self, table: [f32; 16], src: *const u8) -> [f32; N] {
        // SAFETY: as the caller promises.
        let bytes = unsafe { src.cast::<[u8; N / 2]>().read_unaligned() };
        std::array::from_fn(|i| table[usize::from(bytes[i / 2] >> (4 - i % 2 * 4) & 15)])
    }

    #[inline(always)]
    unsafe fn look_up_eighth(self, table: [f32; 16], src: *const u8, i: usize) -> [f32; N] {
        // SAFETY: as the caller promises.
        let words = unsafe { src.cast::<[[u8; 4]; N]>().read_unaligned() };
        words.map(|word| table[usize::from(word[i / 2] >> (4 - i % 2 * 4) & 15)])
    }

    #[inline(always)]
    unsafe fn store_nibbles(
        self,
        (thresholds, codes): ([f32; 15], [u8; 16]),
        even: [f32; N],
        odd: [f32; N],
        dst: *mut u8,
    ) {
        let code = |x: &f32| codes[thresholds.iter().filter(|&t| x > t).count()];
        let bytes: [u8; N] = std::array::from_fn(|i| code(&even[i]) << 4 | code(&odd[i]));
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<[u8; N]>().write_unaligned(bytes) }
    }

    #[inline(always)]
    unsafe fn store_bucketed(self, none: Infallible, _: [f32; N], _: [f32; N], _: *mut u8) {
        match none {}
    }

    #[inline(always)]
    fn deinterleave(self, a: [f32; N], b: [f32; N]) -> ([f32; N], [f32; N]) {
        let at = |i: usize| if i < N { a[i] } else { b[i - N] };
        (
            std::array::from_fn(|i| at(2 * i)),
            std::array::from_fn(|i| at(2 * i + 1)),
        )
    }

    #[inline(always)]
    fn interleave(self, even: [f32; N], odd: [f32; N]) -> ([f32; N], [f32; N]) {
        let at = |i: usize| {
            if i.is_multiple_of(2) {
                even[i / 2]
            } else {
                odd[i / 2]
            }
        };
        (std::array::from_fn(at), std::array::from_fn(|i| at(N + i)))
    }
}
