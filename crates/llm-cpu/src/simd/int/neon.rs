use std::arch::aarch64::*;
use std::arch::asm;

use super::{IntKernel, IntSimd};
use crate::simd::table::{by_promise, by_token};
use crate::simd::{Neon, Simd};

impl Neon {
    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn enter_int<K: IntKernel>(self, kernel: K) {
        #[target_feature(enable = "neon")]
        fn compiled<K: IntKernel>(simd: Neon, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }
}

/// NEON with its instruction for 8-bit products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDot(Neon);

impl NeonDot {
    /// `None` where the machine lacks it.
    pub(crate) fn new(simd: Neon) -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(NeonDot(simd))
    }

    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn enter<K: IntKernel>(self, kernel: K) {
        #[target_feature(enable = "neon,dotprod")]
        fn compiled<K: IntKernel>(simd: NeonDot, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }
}

/// What does not depend on how bytes are multiplied: 16 codes a register, four sums.
macro_rules! of_registers {
    () => {
        type Codes = int8x16_t;
        type Sums = int32x4_t;
        const STEP: usize = 16;
        const CODE_BYTES: usize = 1;
        const OFFSET: i32 = 0;
        const TILE_TOKENS: usize = 3;

        by_token! {
            fn zero() -> int32x4_t = vdupq_n_s32(0);
            fn reduce(sums: int32x4_t) -> i32 = vaddvq_s32(sums);
        }

        by_promise! {
            fn weights(src: *const u8) -> int8x16_t = vld1q_s8(src.cast());
            fn activations(src: *const i8) -> int8x16_t = vld1q_s8(src);
            fn load(src: *const u8) -> int8x16_t = vld1q_s8(src.cast());
            fn store(dst: *mut u8, codes: int8x16_t) = vst1q_s8(dst.cast(), codes);
        }

        #[inline(always)]
        fn reduce_8(self, sums: [int32x4_t; 8]) -> [i32; 8] {
            sums.map(|sums| self.reduce(sums))
        }
    };
}

/// Products of bytes have 16 bits, and pairs of them are added to 32.
impl IntSimd for Neon {
    of_registers!();

    #[inline(always)]
    fn multiply_add(self, w: int8x16_t, x: int8x16_t, sums: int32x4_t) -> int32x4_t {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(w), vget_low_s8(x)));
            vpadalq_s16(sums, vmull_high_s8(w, x))
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        Simd::prefetch(self, address);
    }
}

/// Four products of bytes at a time are added to each lane.
impl IntSimd for NeonDot {
    of_registers!();

    #[inline(always)]
    fn multiply_add(self, w: int8x16_t, x: int8x16_t, mut sums: int32x4_t) -> int32x4_t {
        // The intrinsic is not stable.
        // SAFETY: the token proves that the machine has the instruction.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b",
                sums = inout(vreg) sums,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        Simd::prefetch(self.0, address);
    }
}
