use std::arch::x86_64::*;

use super::avx512::reduce_8;
use super::{IntKernel, IntSimd};
use crate::simd::Avx512;
use crate::simd::table::{by_promise, by_token};

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vnni(());

impl Vnni {
    /// `None` where the machine lacks it.
    pub(crate) fn new(_: Avx512) -> Option<Self> {
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

    by_token! {
        fn zero() -> __m512i = _mm512_setzero_si512();
        fn multiply_add(w: __m512i, x: __m512i, sums: __m512i) -> __m512i =
            _mm512_dpbusd_epi32(sums, w, x);
        fn reduce(sums: __m512i) -> i32 = _mm512_reduce_add_epi32(sums);
        fn reduce_8(sums: [__m512i; 8]) -> [i32; 8] = reduce_8(sums);
        fn prefetch(address: *const u8) = _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    by_promise! {
        fn weights(src: *const u8) -> __m512i =
            _mm512_xor_si512(_mm512_loadu_si512(src.cast()), _mm512_set1_epi8(-128));
        fn activations(src: *const i8) -> __m512i = _mm512_loadu_si512(src.cast());
        fn load(src: *const u8) -> __m512i = _mm512_loadu_si512(src.cast());
        fn store(dst: *mut u8, codes: __m512i) = _mm512_storeu_si512(dst.cast(), codes);
    }
}
