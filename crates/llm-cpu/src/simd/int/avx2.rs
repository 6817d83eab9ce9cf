use std::arch::x86_64::*;

use super::{IntKernel, IntSimd};
use crate::simd::Avx2;
use crate::simd::table::{by_promise, by_token};

impl Avx2 {
    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn enter_int<K: IntKernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: IntKernel>(simd: Avx2, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }
}

/// Codes are widened to 16 bits: the products of bytes that the instruction set has saturate.
impl IntSimd for Avx2 {
    type Codes = __m256i;
    type Sums = __m256i;
    const STEP: usize = 16;
    const CODE_BYTES: usize = 2;
    const OFFSET: i32 = 0;
    const TILE_TOKENS: usize = 1;

    by_token! {
        fn zero() -> __m256i = _mm256_setzero_si256();
        fn multiply_add(w: __m256i, x: __m256i, sums: __m256i) -> __m256i =
            _mm256_add_epi32(sums, _mm256_madd_epi16(w, x));
        fn prefetch(address: *const u8) = _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    by_promise! {
        fn weights(src: *const u8) -> __m256i = _mm256_cvtepi8_epi16(_mm_loadu_si128(src.cast()));
        fn activations(src: *const i8) -> __m256i = _mm256_cvtepi8_epi16(_mm_loadu_si128(src.cast()));
        fn load(src: *const u8) -> __m256i = _mm256_loadu_si256(src.cast());
        fn store(dst: *mut u8, codes: __m256i) = _mm256_storeu_si256(dst.cast(), codes);
    }

    #[inline(always)]
    fn reduce(self, sums: __m256i) -> i32 {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let high = _mm256_extracti128_si256::<1>(sums);
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), high);
            let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b1110>(sums));
            _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32::<0b01>(sums)))
        }
    }

    #[inline(always)]
    fn reduce_8(self, sums: [__m256i; 8]) -> [i32; 8] {
        // SAFETY: the token proves that the machine has the instruction set; the array is as long as a register.
        unsafe {
            // Pairs, then fours, within 128-bit halves; then the halves.
            let [a, b, c, d, e, f, g, h] = sums;
            let low = fours(pairs(a, b), pairs(c, d));
            let high = fours(pairs(e, f), pairs(g, h));
            let totals = _mm256_add_epi32(
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            );
            let mut out = [0; 8];
            _mm256_storeu_si256(out.as_mut_ptr().cast(), totals);
            out
        }
    }
}

/// Sums of pairs of lanes, `a`'s and `b`'s in turns.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn pairs(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)) }
}

/// The same of pairs of lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn fours(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)) }
}
