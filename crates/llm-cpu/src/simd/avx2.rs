use std::arch::x86_64::*;

use super::table::{by_promise, by_token};
use super::{Kernel, Simd};

/// AVX2, FMA and F16C: eight lanes, sixteen registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where the machine lacks them.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Avx2(()))
    }
}

/// 16 words, the first 8 all ones: the 8 from `8 - n` on select `n` lanes.
static SELECT: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: the word index is 0 to 8; the caller has a token.
    unsafe { _mm256_loadu_si256(SELECT.as_ptr().add(8 - n.min(8)).cast()) }
}

impl Simd for Avx2 {
    type F32 = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    fn enter<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(simd: Avx2, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    by_token! {
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn round(x: __m256) -> __m256 =
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        fn through_f16(x: __m256) -> __m256 =
            _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        fn prefetch(address: *const u8) = _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    by_promise! {
        fn load(src: *const f32) -> __m256 = _mm256_loadu_ps(src);
        // A masked load touches the selected lanes only.
        fn load_part(src: *const f32, n: usize) -> __m256 = _mm256_maskload_ps(src, mask(n));
        fn load_f16(src: *const u8) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(src.cast()));
        fn store(dst: *mut f32, x: __m256) = _mm256_storeu_ps(dst, x);
        // A masked store touches the selected lanes only.
        fn store_part(dst: *mut f32, x: __m256, n: usize) = _mm256_maskstore_ps(dst, mask(n), x);
    }

    #[inline(always)]
    fn scale(self, x: __m256, n: __m256) -> __m256 {
        // In two steps, for 2^n alone may leave the range of normal numbers where x · 2^n does not.
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let rest = _mm256_sub_epi32(n, half);
            let high = _mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias));
            _mm256_mul_ps(
                _mm256_mul_ps(x, _mm256_castsi256_ps(low)),
                _mm256_castsi256_ps(high),
            )
        }
    }

    #[inline(always)]
    fn where_negative(self, x: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let negative = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_setzero_ps());
            _mm256_blendv_ps(b, a, negative)
        }
    }

    #[inline(always)]
    fn max_magnitude(self, a: __m256, x: __m256) -> __m256 {
        // Magnitudes are in the order of their bits.
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let x = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), x))
        }
    }

    #[inline(always)]
    fn reduce_add(self, x: __m256) -> f32 {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }

    #[inline(always)]
    fn reduce_max(self, x: __m256) -> f32 {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }

    #[inline(always)]
    fn reduce_max_magnitude(self, x: __m256) -> f32 {
        // Magnitudes are in the order of their bits.
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let x = _mm256_castps_si256(x);
            let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0x4e>(x));
            let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0xb1>(x));
            f32::from_bits(_mm_cvtsi128_si32(x) as u32)
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, src: *const u8) -> __m256 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_even_odd(self, src: *const u8) -> (__m256, __m256) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let pairs = _mm256_loadu_si256(src.cast());
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
                _mm256_castsi256_ps(odd),
            )
        }
    }

    #[inline(always)]
    unsafe fn store_codes(self, dst: *mut i8, x: __m256) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // The lowest bytes of each half's lanes into its first four bytes.
            let lowest = _mm256_set1_epi32(0x0c08_0400);
            let bytes = _mm256_shuffle_epi8(_mm256_cvtps_epi32(x), lowest);
            let (low, high) = (
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            _mm_storel_epi64(dst.cast(), _mm_unpacklo_epi32(low, high));
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, dst: *mut f32, dst_stride: usize) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm256_loadu_ps(src.add(i * 8));
            }
            // Pairs of rows, then fours, within 128-bit halves; then the halves.
            let mut s = r;
            for i in 0..4 {
                s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                let [a, b, c, d] = [s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]];
                r[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]);
                let high = _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]);
                _mm256_storeu_ps(dst.add(i * dst_stride), low);
                _mm256_storeu_ps(dst.add((i + 4) * dst_stride), high);
            }
        }
    }
}
