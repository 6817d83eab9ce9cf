use std::arch::x86_64::*;

use super::{DotKernel, DotSimd, Eight, GROUPS};
use crate::simd::Avx2;
use crate::simd::table::{by_promise, by_token};

/// What needs no more than AVX2, FMA and F16C.
macro_rules! of_avx2 {
    () => {
        type Codes = __m256i;
        type Sums = __m256i;
        type F32 = __m256;

        by_promise! {
            fn load(src: *const u8) -> __m256i = _mm256_loadu_si256(src.cast());
            fn store(dst: *mut u8, codes: __m256i) = _mm256_storeu_si256(dst.cast(), codes);
            fn load_nibbles(src: *const u8) -> __m256i = nibbles(_mm_loadu_si128(src.cast()));
        }

        by_token! {
            fn field(codes: __m256i, shift: u32, mask: u8) -> __m256i = _mm256_and_si256(
                _mm256_srl_epi16(codes, _mm_cvtsi32_si128(shift as i32)),
                _mm256_set1_epi8(mask as i8));
            fn lifted(codes: __m256i, shift: u32, mask: u8) -> __m256i = _mm256_and_si256(
                _mm256_sll_epi16(codes, _mm_cvtsi32_si128(shift as i32)),
                _mm256_set1_epi8(mask as i8));
            fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
            fn choose(table: &[u8; 16], codes: __m256i) -> __m256i = _mm256_shuffle_epi8(
                _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), codes);
            fn none() -> __m256i = _mm256_setzero_si256();
            fn one_rank_up(sums: __m256i) -> __m256i = _mm256_slli_epi32::<8>(sums);
            fn sub_sums(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
            fn zero() -> __m256 = _mm256_setzero_ps();
            fn add_scaled(sums: __m256i, scale: f32, to: __m256) -> __m256 =
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale), to);
            fn add_halves(sums: __m256i, scales: [f32; 2], to: __m256) -> __m256 = {
                let [low, high] = scales;
                let (low, high) = (_mm256_set1_ps(low), _mm256_set1_ps(high));
                let scales = _mm256_blend_ps::<0xf0>(low, high);
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scales, to)
            };
            fn subtract_product(a: __m256, b: __m256, from: __m256) -> __m256 =
                _mm256_fnmadd_ps(a, b, from);
            fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            fn get(numbers: &[f32; GROUPS]) -> __m256 = _mm256_loadu_ps(numbers.as_ptr());
            // Read back one by one from the cache: the compiler would shuffle registers, of which codes ask enough.
            fn put(numbers: &mut Eight, x: __m256) = std::ptr::from_mut(numbers).cast::<__m256>().write_volatile(x);
            fn of_f16(bits: [u16; GROUPS]) -> __m256 = {
                let [a, b, c, d, e, f, g, h] = bits;
                _mm256_cvtph_ps(_mm_set_epi64x(four(e, f, g, h), four(a, b, c, d)))
            };
            fn splat_f16(bits: u16) -> __m256 = _mm256_cvtph_ps(_mm_set1_epi16(bits as i16));
            fn of_bytes(bytes: [u8; GROUPS]) -> __m256 =
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes))));
            fn of_pairs(bytes: [u8; 2 * GROUPS]) -> [__m256; 2] = {
                let apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
                let even = _mm_shuffle_epi8(_mm_loadu_si128(bytes.as_ptr().cast()), apart);
                let odd = _mm_unpackhi_epi64(even, even);
                [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(even)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(odd))]
            };
            fn half_powers(exponents: [u8; GROUPS]) -> __m256 = {
                let exponents = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(exponents)));
                let one = _mm256_set1_epi32(1);
                let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, one));
                let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
                let is_normal = _mm256_cmpgt_epi32(exponents, one);
                _mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal))
            };
            fn reduce(sums: __m256) -> f32 = {
                let high = _mm256_extractf128_ps::<1>(sums);
                let sums = _mm_add_ps(_mm256_castps256_ps128(sums), high);
                let sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
                _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)))
            };
            fn prefetch(address: *const u8) = _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
    };
}

pub(super) use of_avx2;

/// Four words of 16 bits as one of 64, put together where integers are computed with.
#[inline(always)]
pub(super) fn four(a: u16, b: u16, c: u16, d: u16) -> i64 {
    (u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48) as i64
}

/// The low halves of bytes, then the high ones.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: __m128i) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        // One shift of both, rather than a shift and a shuffle.
        let both = _mm256_broadcastsi128_si256(bytes);
        let shifted = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
        _mm256_and_si256(shifted, _mm256_set1_epi8(15))
    }
}

/// Pairs of products have 16 bits, which those of codes up to 128 with codes up to 127 fit into.
impl DotSimd for Avx2 {
    of_avx2!();
    const TOKENS: usize = 2;

    fn enter_dot<K: DotKernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: DotKernel>(simd: Avx2, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    #[inline(always)]
    fn where_set(self, bits: u32, value: u8) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            // Each byte of the word eight times, of which each keeps a bit.
            let bytes = _mm256_setr_epi64x(
                0,
                0x0101_0101_0101_0101,
                0x0202_0202_0202_0202,
                0x0303_0303_0303_0303,
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let word = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), bytes);
            let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(word, bit), bit);
            _mm256_and_si256(is_set, _mm256_set1_epi8(value as i8))
        }
    }

    #[inline(always)]
    fn less(self, x: __m256i, offset: u8) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(offset as i8), x);
            _mm256_madd_epi16(pairs, _mm256_set1_epi16(-1))
        }
    }

    #[inline(always)]
    fn multiply(self, w: __m256i, x: __m256i, sums: __m256i) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let fours = _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
            _mm256_add_epi32(sums, fours)
        }
    }

    #[inline(always)]
    fn begin_signed(self, _: __m256i) -> __m256i {
        self.none()
    }

    #[inline(always)]
    fn multiply_signed(self, w: __m256i, x: __m256i, sums: __m256i) -> __m256i {
        // SAFETY: the token proves that the machine has the instruction set.
        let (magnitude, x) = unsafe { (_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) };
        self.multiply(magnitude, x, sums)
    }
}
