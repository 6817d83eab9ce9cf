use std::arch::x86_64::*;

use super::Codes;
use crate::simd::Avx512;
use crate::simd::table::{by_promise, by_token};

impl Codes for Avx512 {
    type Words = __m512i;

    by_promise! {
        fn load_bytes(src: *const u8) -> __m512i = _mm512_cvtepu8_epi32(_mm_loadu_si128(src.cast()));
        fn load_i8(src: *const u8) -> __m512 =
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(src.cast())));
        // The upper byte of an f16 with the same value.
        fn load_e5m2(src: *const u8) -> __m512 = _mm512_cvtph_ps(
            _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(_mm_loadu_si128(src.cast()))));
    }

    by_token! {
        fn splat_f16(bits: u16) -> __m512 = _mm512_cvtph_ps(_mm256_set1_epi16(bits as i16));
        fn first(x: __m512) -> f32 = _mm512_cvtss_f32(x);
        fn shift_right(words: __m512i, n: u32) -> __m512i =
            _mm512_srl_epi32(words, _mm_cvtsi32_si128(n as i32));
        fn shift_left(words: __m512i, n: u32) -> __m512i =
            _mm512_sll_epi32(words, _mm_cvtsi32_si128(n as i32));
        fn mask(words: __m512i, mask: u32) -> __m512i =
            _mm512_and_si512(words, _mm512_set1_epi32(mask as i32));
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn where_set(bits: u32, value: u32) -> __m512i =
            _mm512_maskz_set1_epi32(bits as u16, value as i32);
        fn to_f32(words: __m512i) -> __m512 = _mm512_cvtepi32_ps(words);
    }

    #[inline(always)]
    unsafe fn load_e4m3(self, src: *const u8) -> __m512 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // Widened with its sign, which is then in both of the highest bits and leaves the lower of them.
            let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(src.cast())));
            let bits = _mm256_and_si256(wide, _mm256_set1_epi16(0xbfff_u16 as i16));
            let largest = _mm256_set1_epi16(0x3f80);
            let is_nan = _mm256_cmpeq_epi16(_mm256_and_si256(bits, largest), largest);
            let bits = _mm256_or_si256(bits, _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7e00)));
            _mm512_cvtph_ps(bits)
        }
    }
}
