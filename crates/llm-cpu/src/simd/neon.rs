use std::arch::aarch64::*;
use std::arch::asm;

use super::table::{by_promise, by_token};
use super::{Kernel, Simd};

/// NEON: four lanes, thirty-two registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// `None` where the machine lacks it.
    pub(crate) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

impl Simd for Neon {
    type F32 = float32x4_t;
    const LANES: usize = 4;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 4;

    fn enter<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "neon")]
        fn compiled<K: Kernel>(simd: Neon, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    by_token! {
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        fn splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        fn round(x: float32x4_t) -> float32x4_t = vrndnq_f32(x);
        fn through_f16(x: float32x4_t) -> float32x4_t = vcvt_f32_f16(vcvt_f16_f32(x));
        fn reduce_add(x: float32x4_t) -> f32 = vaddvq_f32(x);
        fn reduce_max(x: float32x4_t) -> f32 = vmaxnmvq_f32(x);
        fn where_negative(x: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t =
            vbslq_f32(vcltq_f32(x, vdupq_n_f32(0.0)), a, b);
    }

    by_promise! {
        fn load(src: *const f32) -> float32x4_t = vld1q_f32(src);
        fn load_f16(src: *const u8) -> float32x4_t =
            vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(src)));
        fn load_bf16(src: *const u8) -> float32x4_t = vreinterpretq_f32_u32(
            vshlq_n_u32::<16>(vmovl_u16(vreinterpret_u16_u8(vld1_u8(src)))));
        fn store(dst: *mut f32, x: float32x4_t) = vst1q_f32(dst, x);
    }

    #[inline(always)]
    fn scale(self, x: float32x4_t, n: float32x4_t) -> float32x4_t {
        // In two steps, for 2^n alone may leave the range of normal numbers where x · 2^n does not.
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let bias = vdupq_n_s32(127);
            let low = vshlq_n_s32::<23>(vaddq_s32(half, bias));
            let high = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias));
            let x = vmulq_f32(x, vreinterpretq_f32_s32(low));
            vmulq_f32(x, vreinterpretq_f32_s32(high))
        }
    }

    #[inline(always)]
    fn max_magnitude(self, a: float32x4_t, x: float32x4_t) -> float32x4_t {
        // Magnitudes are in the order of their bits.
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let x = vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(i32::MAX as u32));
            vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a), x))
        }
    }

    #[inline(always)]
    unsafe fn load_part(self, src: *const f32, n: usize) -> float32x4_t {
        // SAFETY: as the caller promises; a short piece is read from a copy that is long enough.
        unsafe {
            if n >= Self::LANES {
                return self.load(src);
            }
            let mut piece = [0f32; Self::LANES];
            std::ptr::copy_nonoverlapping(src.cast::<u8>(), piece.as_mut_ptr().cast(), 4 * n);
            self.load(piece.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_even_odd(self, src: *const u8) -> (float32x4_t, float32x4_t) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let pairs = vreinterpretq_u32_u8(vld1q_u8(src));
            let odd = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
            (
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)),
                vreinterpretq_f32_u32(odd),
            )
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut f32, x: float32x4_t, n: usize) {
        // SAFETY: as the caller promises; a short piece is copied from one that is long enough.
        unsafe {
            if n >= Self::LANES {
                return self.store(dst, x);
            }
            let mut piece = [0f32; Self::LANES];
            self.store(piece.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(piece.as_ptr().cast::<u8>(), dst.cast(), 4 * n);
        }
    }

    #[inline(always)]
    unsafe fn store_codes(self, dst: *mut i8, x: float32x4_t) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let halves = vmovn_s32(vcvtnq_s32_f32(x));
            let bytes = vmovn_s16(vcombine_s16(halves, halves));
            let word = vget_lane_u32::<0>(vreinterpret_u32_s8(bytes));
            dst.cast::<u32>().write_unaligned(word);
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, dst: *mut f32, dst_stride: usize) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let [a, b, c, d] = [0, 4, 8, 12].map(|at| vld1q_f32(src.add(at)));
            // Pairs of rows, then fours.
            let even = [vtrn1q_f32(a, b), vtrn1q_f32(c, d)].map(|x| vreinterpretq_f64_f32(x));
            let odd = [vtrn2q_f32(a, b), vtrn2q_f32(c, d)].map(|x| vreinterpretq_f64_f32(x));
            let columns = [
                vtrn1q_f64(even[0], even[1]),
                vtrn1q_f64(odd[0], odd[1]),
                vtrn2q_f64(even[0], even[1]),
                vtrn2q_f64(odd[0], odd[1]),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(dst.add(i * dst_stride), vreinterpretq_f32_f64(column));
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe {
            asm!(
                "prfm pldl1keep, [{address}]",
                address = in(reg) address,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}
