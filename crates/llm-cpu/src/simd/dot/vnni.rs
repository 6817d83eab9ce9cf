use std::arch::x86_64::*;

use super::avx2::{four, nibbles, of_avx2};
use super::{DotKernel, DotSimd, Eight, GROUPS};
use crate::simd::int::Vnni;
use crate::simd::table::{by_promise, by_token};

/// Four products of bytes at a time are added to each lane. One of their factors is unsigned.
impl DotSimd for Vnni {
    of_avx2!();
    const TOKENS: usize = 4;

    fn enter_dot<K: DotKernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn compiled<K: DotKernel>(simd: Vnni, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    by_token! {
        fn where_set(bits: u32, value: u8) -> __m256i =
            _mm256_maskz_set1_epi8(bits, value as i8);
        fn less(x: __m256i, offset: u8) -> __m256i = {
            let zero = _mm256_setzero_si256();
            let more = _mm256_dpbusd_epi32(zero, _mm256_set1_epi8(offset as i8), x);
            _mm256_sub_epi32(zero, more)
        };
        fn multiply(w: __m256i, x: __m256i, sums: __m256i) -> __m256i =
            _mm256_dpbusd_epi32(sums, w, x);
        // Weights are moved from −128..128 to 0..256.
        fn begin_signed(x: __m256i) -> __m256i = {
            let zero = _mm256_setzero_si256();
            let more = _mm256_dpbusd_epi32(zero, _mm256_set1_epi8(-128), x);
            _mm256_sub_epi32(zero, more)
        };
        fn multiply_signed(w: __m256i, x: __m256i, sums: __m256i) -> __m256i =
            _mm256_dpbusd_epi32(sums, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), x);
    }
}
