use std::arch::x86_64::*;

use super::{DotKernel, DotSimd, GROUPS};
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
            fn zero() -> __m256 = _mm256_setzero_ps();
            fn add_scaled(sums: __m256i, scale: f32, to: __m256) -> __m256 =
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale), to);
            fn add_halves(sums: __m256i, scales: [f32; 2], to: __m256) -> __m256 = {
                let [low, high] = scales.map(|scale| _mm256_set1_ps(scale));
                let scales = _mm256_blend_ps::<0xf0>(low, high);
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scales, to)
            };
            fn subtract(a: &[f32; GROUPS], b: &[f32; GROUPS], from: __m256) -> __m256 =
                _mm256_fnmadd_ps(_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr()), from);
            fn widen(bits: &[u16; GROUPS]) -> [f32; GROUPS] = {
                let mut widened = [0.0; GROUPS];
                let values = _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast()));
                _mm256_storeu_ps(widened.as_mut_ptr(), values);
                widened
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

/// The low halves of bytes, then the high ones.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: __m128i) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe {
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
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
