use std::arch::x86_64::*;

use super::{IntKernel, IntSimd};
use crate::simd::Avx512;
use crate::simd::table::{by_promise, by_token};

impl Avx512 {
    /// Runs `kernel` compiled for this instruction set.
    pub(super) fn enter_int<K: IntKernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn compiled<K: IntKernel>(simd: Avx512, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }
}

/// Codes are widened to 16 bits: the products of bytes that the instruction set has saturate.
impl IntSimd for Avx512 {
    type Codes = __m512i;
    type Sums = __m512i;
    const STEP: usize = 32;
    const CODE_BYTES: usize = 2;
    const OFFSET: i32 = 0;
    const TILE_TOKENS: usize = 3;

    by_token! {
        fn zero() -> __m512i = _mm512_setzero_si512();
        fn multiply_add(w: __m512i, x: __m512i, sums: __m512i) -> __m512i =
            _mm512_add_epi32(sums, _mm512_madd_epi16(w, x));
        fn reduce(sums: __m512i) -> i32 = _mm512_reduce_add_epi32(sums);
        fn reduce_8(sums: [__m512i; 8]) -> [i32; 8] = reduce_8(sums);
        fn prefetch(address: *const u8) = _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }

    by_promise! {
        fn weights(src: *const u8) -> __m512i = _mm512_cvtepi8_epi16(_mm256_loadu_si256(src.cast()));
        fn activations(src: *const i8) -> __m512i =
            _mm512_cvtepi8_epi16(_mm256_loadu_si256(src.cast()));
        fn load(src: *const u8) -> __m512i = _mm512_loadu_si512(src.cast());
        fn store(dst: *mut u8, codes: __m512i) = _mm512_storeu_si512(dst.cast(), codes);
    }
}

/// The total of each, all eight in one tree.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
pub(super) unsafe fn reduce_8(sums: [__m512i; 8]) -> [i32; 8] {
    // SAFETY: as the caller promises; the array is as long as the register stored to it.
    unsafe {
        // Pairs, then fours, within 128-bit quarters; then the quarters, in two steps.
        let [a, b, c, d, e, f, g, h] = sums;
        let low = fours(pairs(a, b), pairs(c, d));
        let high = fours(pairs(e, f), pairs(g, h));
        let halves = _mm512_add_epi32(
            _mm512_shuffle_i32x4::<0x88>(low, high),
            _mm512_shuffle_i32x4::<0xdd>(low, high),
        );
        let totals = _mm512_add_epi32(
            _mm512_shuffle_i32x4::<0x08>(halves, halves),
            _mm512_shuffle_i32x4::<0x0d>(halves, halves),
        );
        let mut out = [0; 8];
        _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_castsi512_si256(totals));
        out
    }
}

/// Sums of pairs of lanes, `a`'s and `b`'s in turns.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn pairs(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)) }
}

/// The same of pairs of lanes.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn fours(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe { _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)) }
}
