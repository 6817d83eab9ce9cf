use std::arch::x86_64::*;

use super::table::{by_promise, by_token};
use super::{Kernel, Simd};

/// AVX-512 F, BW, DQ and VL: sixteen lanes, thirty-two registers, masks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `None` where the machine lacks them.
    pub(crate) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        .then_some(Avx512(()))
    }
}

/// Selects the first `n` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

impl Simd for Avx512 {
    type F32 = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 4;

    fn enter<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn compiled<K: Kernel>(simd: Avx512, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    by_token! {
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn scale(x: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(x, n);
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn round(x: __m512) -> __m512 =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        fn through_f16(x: __m512) -> __m512 =
            _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
        fn reduce_add(x: __m512) -> f32 = _mm512_reduce_add_ps(x);
        fn reduce_max(x: __m512) -> f32 = _mm512_reduce_max_ps(x);
        // Magnitudes are in the order of their bits.
        fn reduce_max_magnitude(x: __m512) -> f32 =
            f32::from_bits(_mm512_reduce_max_epi32(_mm512_castps_si512(x)) as u32);
        fn prefetch(address: *const u8) = _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    by_promise! {
        fn load(src: *const f32) -> __m512 = _mm512_loadu_ps(src);
        // A masked load touches the selected lanes only.
        fn load_part(src: *const f32, n: usize) -> __m512 = _mm512_maskz_loadu_ps(mask(n), src);
        fn load_f16(src: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(src.cast()));
        fn store(dst: *mut f32, x: __m512) = _mm512_storeu_ps(dst, x);
        // A masked store touches the selected lanes only.
        fn store_part(dst: *mut f32, x: __m512, n: usize) = _mm512_mask_storeu_ps(dst, mask(n), x);
        fn store_codes(dst: *mut i8, x: __m512) =
            _mm_storeu_si128(dst.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
    }

    #[inline(always)]
    fn where_negative(self, x: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
            _mm512_mask_blend_ps(negative, b, a)
        }
    }

    #[inline(always)]
    fn max_magnitude(self, a: __m512, x: __m512) -> __m512 {
        // Magnitudes are in the order of their bits.
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe {
            let x = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
            _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), x))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, src: *const u8) -> __m512 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(src.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_even_odd(self, src: *const u8) -> (__m512, __m512) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let pairs = _mm512_loadu_si512(src.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                _mm512_castsi512_ps(odd),
            )
        }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, dst: *mut f32, dst_stride: usize) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, r) in r.iter_mut().enumerate() {
                *r = _mm512_loadu_ps(src.add(i * 16));
            }
            // Pairs of rows, then fours, within 128-bit quarters; then the quarters, in two steps.
            let mut s = r;
            for i in 0..8 {
                s[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                s[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                let [a, b, c, d] = [s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]];
                r[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                r[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                r[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                r[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            for i in 0..4 {
                let (a, b) = (r[i], r[4 + i]);
                let (c, d) = (r[8 + i], r[12 + i]);
                let (ab_even, ab_odd) = (
                    _mm512_shuffle_f32x4::<0x88>(a, b),
                    _mm512_shuffle_f32x4::<0xdd>(a, b),
                );
                let (cd_even, cd_odd) = (
                    _mm512_shuffle_f32x4::<0x88>(c, d),
                    _mm512_shuffle_f32x4::<0xdd>(c, d),
                );
                // Quarter q of row i held column 4q + i.
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even),
                    _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd),
                    _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even),
                    _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd),
                ];
                for (q, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(dst.add((4 * q + i) * dst_stride), column);
                }
            }
        }
    }
}
