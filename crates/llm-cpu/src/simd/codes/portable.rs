use half::f16;

use super::Codes;
use crate::simd::{Portable, Simd};

const N: usize = Portable::LANES;

impl Codes for Portable {
    type Words = [u32; N];

    #[inline(always)]
    unsafe fn load_bytes(self, src: *const u8) -> [u32; N] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[u8; N]>().read() }.map(u32::from)
    }

    #[inline(always)]
    unsafe fn load_i8(self, src: *const u8) -> [f32; N] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[i8; N]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, src: *const u8) -> [f32; N] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[u8; N]>().read() }.map(|code| {
            if code & 0x7f == 0x7f {
                return f32::NAN;
            }
            let bits = u16::from(code & 0x80) << 8 | u16::from(code & 0x7f) << 7;
            f16::from_bits(bits).to_f32()
        })
    }

    #[inline(always)]
    unsafe fn load_e5m2(self, src: *const u8) -> [f32; N] {
        // SAFETY: as the caller promises.
        let codes = unsafe { src.cast::<[u8; N]>().read() };
        codes.map(|code| f16::from_bits(u16::from(code) << 8).to_f32())
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> [f32; N] {
        [f16::from_bits(bits).to_f32(); N]
    }

    #[inline(always)]
    fn first(self, x: [f32; N]) -> f32 {
        x[0]
    }

    #[inline(always)]
    fn shift_right(self, words: [u32; N], n: u32) -> [u32; N] {
        words.map(|word| word >> n)
    }

    #[inline(always)]
    fn shift_left(self, words: [u32; N], n: u32) -> [u32; N] {
        words.map(|word| word << n)
    }

    #[inline(always)]
    fn mask(self, words: [u32; N], mask: u32) -> [u32; N] {
        words.map(|word| word & mask)
    }

    #[inline(always)]
    fn or(self, a: [u32; N], b: [u32; N]) -> [u32; N] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn where_set(self, bits: u32, value: u32) -> [u32; N] {
        std::array::from_fn(|i| if bits >> i & 1 == 0 { 0 } else { value })
    }

    #[inline(always)]
    fn to_f32(self, words: [u32; N]) -> [f32; N] {
        words.map(|word| word as f32)
    }
}
