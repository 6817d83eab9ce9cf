use std::arch::aarch64::*;

use super::Codes;
use crate::simd::Neon;
use crate::simd::table::{by_promise, by_token};

/// Four bytes, in the lowest lanes.
#[inline(always)]
unsafe fn four(src: *const u8) -> uint8x8_t {
    // SAFETY: the caller promises four bytes, and has a token.
    unsafe { vcreate_u8(u64::from(src.cast::<u32>().read_unaligned())) }
}

impl Codes for Neon {
    type Words = uint32x4_t;

    by_promise! {
        fn load_bytes(src: *const u8) -> uint32x4_t =
            vmovl_u16(vget_low_u16(vmovl_u8(four(src))));
        fn load_i8(src: *const u8) -> float32x4_t = vcvtq_f32_s32(vmovl_s16(vget_low_s16(
            vmovl_s8(vreinterpret_s8_u8(four(src))))));
        // The upper byte of an f16 with the same value.
        fn load_e5m2(src: *const u8) -> float32x4_t = vcvt_f32_f16(vreinterpret_f16_u16(
            vget_low_u16(vshlq_n_u16::<8>(vmovl_u8(four(src))))));
    }

    by_token! {
        fn first(x: float32x4_t) -> f32 = vgetq_lane_f32::<0>(x);
        fn splat_f16(bits: u16) -> float32x4_t =
            vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits)));
        fn shift_right(words: uint32x4_t, n: u32) -> uint32x4_t =
            vshlq_u32(words, vdupq_n_s32(-(n as i32)));
        fn shift_left(words: uint32x4_t, n: u32) -> uint32x4_t =
            vshlq_u32(words, vdupq_n_s32(n as i32));
        fn mask(words: uint32x4_t, mask: u32) -> uint32x4_t = vandq_u32(words, vdupq_n_u32(mask));
        fn or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        fn to_f32(words: uint32x4_t) -> float32x4_t = vcvtq_f32_u32(words);
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, src: *const u8) -> float32x4_t {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // Widened with its sign, which is then in both of the highest bits and leaves the lower of them.
            let wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four(src))));
            let wide = vreinterpret_u16_s16(vshl_n_s16::<7>(wide));
            let bits = vand_u16(wide, vdup_n_u16(0xbfff));
            let largest = vdup_n_u16(0x3f80);
            let is_nan = vceq_u16(vand_u16(bits, largest), largest);
            let bits = vorr_u16(bits, vand_u16(is_nan, vdup_n_u16(0x7e00)));
            vcvt_f32_f16(vreinterpret_f16_u16(bits))
        }
    }

    #[inline(always)]
    fn where_set(self, bits: u32, value: u32) -> uint32x4_t {
        // SAFETY: the token proves that the machine has the instruction set; four words.
        unsafe {
            let bit = vld1q_u32([1, 2, 4, 8].as_ptr());
            vandq_u32(vtstq_u32(vdupq_n_u32(bits), bit), vdupq_n_u32(value))
        }
    }
}
