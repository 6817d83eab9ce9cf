use std::arch::aarch64::*;

use super::{DotKernel, DotSimd, Eight, GROUPS};
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
            fn store(dst: *mut u8, codes: [uint8x16_t; 2]) = {
                vst1q_u8(dst, codes[0]);
                vst1q_u8(dst.add(16), codes[1]);
            };
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
            fn one_rank_up(sums: [int32x4_t; 2]) -> [int32x4_t; 2] = sums.map(|sums| vshlq_n_s32::<8>(sums));
            fn sub_sums(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] =
                [vsubq_s32(a[0], b[0]), vsubq_s32(a[1], b[1])];
            fn zero() -> [float32x4_t; 2] = [vdupq_n_f32(0.0); 2];
            fn add_scaled(sums: [int32x4_t; 2], scale: f32, to: [float32x4_t; 2]) -> [float32x4_t; 2] = {
                let scale = vdupq_n_f32(scale);
                [vfmaq_f32(to[0], vcvtq_f32_s32(sums[0]), scale),
                 vfmaq_f32(to[1], vcvtq_f32_s32(sums[1]), scale)]
            };
            fn add_halves(sums: [int32x4_t; 2], scales: [f32; 2], to: [float32x4_t; 2]) -> [float32x4_t; 2] =
                [vfmaq_f32(to[0], vcvtq_f32_s32(sums[0]), vdupq_n_f32(scales[0])),
                 vfmaq_f32(to[1], vcvtq_f32_s32(sums[1]), vdupq_n_f32(scales[1]))];
            fn subtract_product(a: [float32x4_t; 2], b: [float32x4_t; 2], from: [float32x4_t; 2])
                -> [float32x4_t; 2] =
                [vfmsq_f32(from[0], a[0], b[0]), vfmsq_f32(from[1], a[1], b[1])];
            fn splat(x: f32) -> [float32x4_t; 2] = [vdupq_n_f32(x); 2];
            fn mul(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] =
                [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])];
            fn sub(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] =
                [vsubq_f32(a[0], b[0]), vsubq_f32(a[1], b[1])];
            fn get(numbers: &[f32; GROUPS]) -> [float32x4_t; 2] =
                [vld1q_f32(numbers.as_ptr()), vld1q_f32(numbers.as_ptr().add(4))];
            fn put(numbers: &mut Eight, x: [float32x4_t; 2]) = {
                vst1q_f32(numbers.0.as_mut_ptr(), x[0]);
                vst1q_f32(numbers.0.as_mut_ptr().add(4), x[1]);
            };
            fn of_f16(bits: [u16; GROUPS]) -> [float32x4_t; 2] = [0, 4].map(|at| {
                vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(bits.as_ptr().add(at))))
            });
            fn splat_f16(bits: u16) -> [float32x4_t; 2] =
                [vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits))); 2];
            fn of_bytes(bytes: [u8; GROUPS]) -> [float32x4_t; 2] = {
                let wide = vmovl_u8(vcreate_u8(u64::from_le_bytes(bytes)));
                [vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))]
            };
            fn of_pairs(bytes: [u8; 2 * GROUPS]) -> [[float32x4_t; 2]; 2] = {
                let bytes = vreinterpretq_s8_u8(vld1q_u8(bytes.as_ptr()));
                [vuzp1q_s8(bytes, bytes), vuzp2q_s8(bytes, bytes)].map(|bytes| {
                    let wide = vmovl_s8(vget_low_s8(bytes));
                    [vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))]
                })
            };
            fn half_powers(exponents: [u8; GROUPS]) -> [float32x4_t; 2] = {
                let wide = vmovl_u8(vcreate_u8(u64::from_le_bytes(exponents)));
                [vmovl_u16(vget_low_u16(wide)), vmovl_high_u16(wide)].map(|exponents| {
                    let one = vdupq_n_u32(1);
                    let normal = vshlq_n_u32::<23>(vsubq_u32(exponents, one));
                    let subnormal = vshlq_u32(vdupq_n_u32(0x0020_0000), vreinterpretq_s32_u32(exponents));
                    let is_normal = vcgtq_u32(exponents, one);
                    vreinterpretq_f32_u32(vbslq_u32(is_normal, normal, subnormal))
                })
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
