use std::arch::x86_64::*;

use super::Codes;
use crate::simd::Avx2;
use crate::simd::table::{by_promise, by_token};

impl Codes for Avx2 {
    type Words = __m256i;

    by_promise! {
        fn load_bytes(src: *const u8) -> __m256i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(src.cast()));
        fn load_i8(src: *const u8) -> __m256 =
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(src.cast())));
        // The upper byte of an f16 with the same value.
        fn load_e5m2(src: *const u8) -> __m256 =
            _mm256_cvtph_ps(_mm_slli_epi16::<8>(_mm_cvtepu8_epi16(_mm_loadl_epi64(src.cast()))));
    }

    by_token! {
        fn splat_f16(bits: u16) -> __m256 = _mm256_cvtph_ps(_mm_set1_epi16(bits as i16));
        fn first(x: __m256) -> f32 = _mm256_cvtss_f32(x);
        fn shift_right(words: __m256i, n: u32) -> __m256i =
            _mm256_srl_epi32(words, _mm_cvtsi32_si128(n as i32));
        fn shift_left(words: __m256i, n: u32) -> __m256i =
            _mm256_sll_epi32(words, _mm_cvtsi32_si128(n as i32));
        fn mask(words: __m256i, mask: u32) -> __m256i =
            _mm256_and_si256(words, _mm256_set1_epi32(mask as i32));
        fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        fn to_f32(words: __m256i) -> __m256 = _mm256_cvtepi32_ps(words);
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, src: *const u8) -> __m256 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // Widened with its sign, which is then in both of the highest bits and leaves the lower of them.
            let wide = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(_mm_loadl_epi64(src.cast())));
            let bits = _mm_and_si128(wide, _mm_set1_epi16(0xbfff_u16 as i16));
            let largest = _mm_set1_epi16(0x3f80);
            let is_nan = _mm_cmpeq_epi16(_mm_and_si128(bits, largest), largest);
            let bits = _mm_or_si128(bits, _mm_and_si128(is_nan, _mm_set1_epi16(0x7e00)));
            _mm256_cvtph_ps(bits)
        }
    }

    #[inline(always)]
    fn where_set(self, bits: u32, value: u32) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let masked = _mm256_and_si256(_mm256_set1_epi32(bits as i32), bit);
            let is_set = _mm256_cmpeq_epi32(masked, bit);
            _mm256_and_si256(is_set, _mm256_set1_epi32(value as i32))
        }
    }
}
