use std::arch::x86_64::*;

use super::avx512::reduce_8;
use super::{IntKernel, IntSimd};
use crate::simd::Avx512;

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vnni(());

impl Vnni {
    /// `None` where the machine lacks it.
    pub(super) fn new(_: Avx512) -> Option<Self> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni(()))
    }

    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn enter<K: IntKernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn compiled<K: IntKernel>(simd: Vnni, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }
}

/// Four products of bytes at a time are added to each lane. One of their factors is unsigned: weights are moved from
/// −128..128 to 0..256.
impl IntSimd for Vnni {
    type Codes = __m512i;
    type Sums = __m512i;
    const STEP: usize = 64;
    const CODE_BYTES: usize = 1;
    const OFFSET: i32 = 128;
    const TILE_TOKENS: usize = 3;

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn multiply_add(self, w: __m512i, x: __m512i, sums: __m512i) -> __m512i {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { _mm512_dpbusd_epi32(sums, w, x) }
    }

    #[inline(always)]
    fn reduce(self, sums: __m512i) -> i32 {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { _mm512_reduce_add_epi32(sums) }
    }

    #[inline(always)]
    fn reduce_8(self, sums: [__m512i; 8]) -> [i32; 8] {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { reduce_8(sums) }
    }

    #[inline(always)]
    unsafe fn weights(self, src: *const u8) -> __m512i {
        // SAFETY: as the caller promises, and the token.
        unsafe { _mm512_xor_si512(_mm512_loadu_si512(src.cast()), _mm512_set1_epi8(-128)) }
    }

    #[inline(always)]
    unsafe fn activations(self, src: *const i8) -> __m512i {
        // SAFETY: as the caller promises, and the token.
        unsafe { _mm512_loadu_si512(src.cast()) }
    }

    #[inline(always)]
    unsafe fn load(self, src: *const u8) -> __m512i {
        // SAFETY: as the caller promises, and the token.
        unsafe { _mm512_loadu_si512(src.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8, codes: __m512i) {
        // SAFETY: as the caller promises, and the token.
        unsafe { _mm512_storeu_si512(dst.cast(), codes) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch never faults; the token.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
