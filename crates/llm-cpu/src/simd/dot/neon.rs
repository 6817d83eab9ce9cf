use std::arch::aarch64::*;

use super::{DotKernel, DotSimd, GROUPS};
use crate::simd::int::{IntSimd, NeonDot};
use crate::simd::table::{by_promise, by_token};
use crate::simd::{Neon, Simd};

/// What does not depend on how bytes are multiplied, which [`IntSimd::multiply_add`] does: two registers of codes, and sums
/// of eight lanes.
macro_rules! of_registers {
    () => {
        type Codes = [uint8x16_t; 2];
        type Sums = [int32x4_t; 2];
        type F32 = [float32x4_t; 2];
        const TOKENS: usize = 2;

        by_promise! {
            fn load(src: *const u8) -> [uint8x16_t; 2] = [vld1q_u8(src), vld1q_u8(src.add(16))];
            fn load_nibbles(src: *const u8) -> [uint8x16_t; 2] = {
                let bytes = vld1q_u8(src);
                [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
            };
        }

        by_token! {
            fn field(codes: [uint8x16_t; 2], shift: u32, mask: u8) -> [uint8x16_t; 2] =
                codes.map(|codes| vandq_u8(
                    vshlq_u8(codes, vdupq_n_s8(-(shift as i8))), vdupq_n_u8(mask)));
            fn lifted(codes: [uint8x16_t; 2], shift: u32, mask: u8) -> [uint8x16_t; 2] =
                codes.map(|codes| vandq_u8(
                    vshlq_u8(codes, vdupq_n_s8(shift as i8)), vdupq_n_u8(mask)));
            fn or(a: [uint8x16_t; 2], b: [uint8x16_t; 2]) -> [uint8x16_t; 2] =
                [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])];
            fn where_set(bits: u32, value: u8) -> [uint8x16_t; 2] =
                [bits, bits >> 16].map(|bits| {
                    let bytes = vcombine_u8(vdup_n_u8(bits as u8), vdup_n_u8((bits >> 8) as u8));
                    let each = vcreate_u8(0x8040_2010_0804_0201);
                    let is_set = vtstq_u8(bytes, vcombine_u8(each, each));
                    vandq_u8(is_set, vdupq_n_u8(value))
                });
            fn choose(table: &[u8; 16], codes: [uint8x16_t; 2]) -> [uint8x16_t; 2] = {
                let table = vld1q_u8(table.as_ptr());
                codes.map(|codes| vqtbl1q_u8(table, codes))
            };
            fn none() -> [int32x4_t; 2] = [vdupq_n_s32(0); 2];
            fn zero() -> [float32x4_t; 2] = [vdupq_n_f32(0.0); 2];
            fn add_scaled(sums: [int32x4_t; 2], scale: f32, to: [float32x4_t; 2]) -> [float32x4_t; 2] = {
                let scale = vdupq_n_f32(scale);
                [vfmaq_f32(to[0], vcvtq_f32_s32(sums[0]), scale),
                 vfmaq_f32(to[1], vcvtq_f32_s32(sums[1]), scale)]
            };
            fn add_halves(sums: [int32x4_t; 2], scales: [f32; 2], to: [float32x4_t; 2]) -> [float32x4_t; 2] =
                [vfmaq_f32(to[0], vcvtq_f32_s32(sums[0]), vdupq_n_f32(scales[0])),
                 vfmaq_f32(to[1], vcvtq_f32_s32(sums[1]), vdupq_n_f32(scales[1]))];
            fn subtract(a: &[f32; GROUPS], b: &[f32; GROUPS], from: [float32x4_t; 2]) -> [float32x4_t; 2] = {
                let (a, b) = (a.as_ptr(), b.as_ptr());
                [vfmsq_f32(from[0], vld1q_f32(a), vld1q_f32(b)),
                 vfmsq_f32(from[1], vld1q_f32(a.add(4)), vld1q_f32(b.add(4)))]
            };
            fn widen(bits: &[u16; GROUPS]) -> [f32; GROUPS] = {
                let mut widened = [0.0; GROUPS];
                for at in [0, 4] {
                    let bits = vreinterpret_f16_u16(vld1_u16(bits.as_ptr().add(at)));
                    vst1q_f32(widened.as_mut_ptr().add(at), vcvt_f32_f16(bits));
                }
                widened
            };
            fn reduce(sums: [float32x4_t; 2]) -> f32 = vaddvq_f32(vaddq_f32(sums[0], sums[1]));
        }

        #[inline(always)]
        fn less(self, x: [uint8x16_t; 2], offset: u8) -> [int32x4_t; 2] {
            // SAFETY: the token proves that the machine has the instruction set.
            let offset = unsafe { vdupq_n_u8(offset.wrapping_neg()) };
            self.multiply_signed([offset; 2], x, self.none())
        }

        #[inline(always)]
        fn multiply(
            self,
            w: [uint8x16_t; 2],
            x: [uint8x16_t; 2],
            sums: [int32x4_t; 2],
        ) -> [int32x4_t; 2] {
            self.multiply_signed(w, x, sums)
        }

        #[inline(always)]
        fn begin_signed(self, _: [uint8x16_t; 2]) -> [int32x4_t; 2] {
            self.none()
        }

        #[inline(always)]
        fn multiply_signed(
            self,
            w: [uint8x16_t; 2],
            x: [uint8x16_t; 2],
            sums: [int32x4_t; 2],
        ) -> [int32x4_t; 2] {
            std::array::from_fn(|i| {
                // SAFETY: the token proves that the machine has the instruction set.
                let (w, x) = unsafe { (vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_u8(x[i])) };
                self.multiply_add(w, x, sums[i])
            })
        }
    };
}

impl DotSimd for Neon {
    of_registers!();

    fn enter_dot<K: DotKernel>(self, kernel: K) {
        #[target_feature(enable = "neon")]
        fn compiled<K: DotKernel>(simd: Neon, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        Simd::prefetch(self, address);
    }
}

impl DotSimd for NeonDot {
    of_registers!();

    fn enter_dot<K: DotKernel>(self, kernel: K) {
        #[target_feature(enable = "neon,dotprod")]
        fn compiled<K: DotKernel>(simd: NeonDot, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        IntSimd::prefetch(self, address);
    }
}
