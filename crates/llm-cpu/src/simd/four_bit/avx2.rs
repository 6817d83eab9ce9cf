use std::arch::x86_64::*;
use std::convert::Infallible;

use super::FourBit;
use crate::simd::{Avx2, Simd};

/// The thresholds as a binary search meets them, and the codes in order of value.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Thresholds {
    /// Of each step but the first: the threshold by the outcome of the steps before.
    steps: [__m256; 3],
    first: __m256,
    /// In both halves.
    codes: __m256i,
}

impl FourBit for Avx2 {
    /// The lower and the upper eight values.
    type Table = [__m256; 2];
    type Thresholds = Avx2Thresholds;
    type Buckets = Infallible;

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: sixteen values; the token proves that the machine has the instruction set.
        unsafe {
            [
                _mm256_loadu_ps(values.as_ptr()),
                _mm256_loadu_ps(values.as_ptr().add(8)),
            ]
        }
    }

    #[inline(always)]
    fn thresholds(self, thresholds: &[f32; 15], codes: &[u8; 16]) -> Avx2Thresholds {
        let mut steps = [[0f32; 8]; 3];
        for (level, step) in steps.iter_mut().enumerate() {
            // After `level + 1` steps, `outcome` stands for this many thresholds of 16 below.
            let width = 8 >> level;
            for outcome in 0..2 << level {
                step[outcome] = thresholds[outcome * width + width / 2 - 1];
            }
        }
        // SAFETY: eight and sixteen elements; the token.
        unsafe {
            Avx2Thresholds {
                steps: [
                    _mm256_loadu_ps(steps[0].as_ptr()),
                    _mm256_loadu_ps(steps[1].as_ptr()),
                    _mm256_loadu_ps(steps[2].as_ptr()),
                ],
                first: _mm256_set1_ps(thresholds[7]),
                codes: _mm256_broadcastsi128_si256(_mm_loadu_si128(codes.as_ptr().cast())),
            }
        }
    }

    #[inline(always)]
    fn buckets(self, _: &[f32; 15], _: &[u8; 16]) -> Option<Infallible> {
        None
    }

    #[inline(always)]
    fn affine_table(self, table: [__m256; 2], scale: f32, min: f32) -> [__m256; 2] {
        let min = self.splat(min);
        let scaled = self.scaled_table(table, scale);
        scaled.map(|values| self.sub(values, min))
    }

    #[inline(always)]
    fn scaled_table(self, table: [__m256; 2], scale: f32) -> [__m256; 2] {
        let scale = self.splat(scale);
        table.map(|values| self.mul(values, scale))
    }

    #[inline(always)]
    fn choose(self, table: [__m256; 2], codes: __m256i) -> __m256 {
        // SAFETY: the token.
        unsafe { select(table, codes, _mm256_slli_epi32::<28>(codes)) }
    }

    #[inline(always)]
    unsafe fn look_up(self, table: [__m256; 2], src: *const u8) -> __m256 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let codes = _mm256_set1_epi32(src.cast::<i32>().read_unaligned());
            let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
            let codes = _mm256_srlv_epi32(codes, shifts);
            select(table, codes, _mm256_slli_epi32::<28>(codes))
        }
    }

    #[inline(always)]
    unsafe fn look_up_eighth(self, table: [__m256; 2], src: *const u8, i: usize) -> __m256 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // A load from byte i / 2 on stands for a shift.
            let words = _mm256_loadu_si256(src.add(i / 2).cast());
            if i.is_multiple_of(2) {
                let codes = _mm256_srli_epi32::<4>(words);
                select(table, codes, _mm256_slli_epi32::<24>(words))
            } else {
                select(table, words, _mm256_slli_epi32::<28>(words))
            }
        }
    }

    #[inline(always)]
    unsafe fn store_nibbles(self, search: Avx2Thresholds, even: __m256, odd: __m256, dst: *mut u8) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let ranks = _mm256_or_si256(
                rank(search, even),
                _mm256_slli_epi32::<8>(rank(search, odd)),
            );
            let codes = _mm256_shuffle_epi8(search.codes, ranks);
            let bytes =
                _mm256_or_si256(_mm256_slli_epi32::<4>(codes), _mm256_srli_epi32::<8>(codes));
            // The lowest byte of each word.
            let lowest = _mm256_set1_epi32(0x0c08_0400);
            let bytes = _mm256_shuffle_epi8(bytes, lowest);
            let (low, high) = (
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            _mm_storel_epi64(dst.cast(), _mm_unpacklo_epi32(low, high));
        }
    }

    #[inline(always)]
    unsafe fn store_bucketed(self, none: Infallible, _: __m256, _: __m256, _: *mut u8) {
        match none {}
    }

    #[inline(always)]
    fn deinterleave(self, a: __m256, b: __m256) -> (__m256, __m256) {
        // SAFETY: the token.
        unsafe {
            // Within 128-bit halves; then the middle quarters change places.
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0xdd>(a, b));
            (
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(even)),
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(odd)),
            )
        }
    }

    #[inline(always)]
    fn interleave(self, even: __m256, odd: __m256) -> (__m256, __m256) {
        // SAFETY: the token.
        unsafe {
            // Within 128-bit halves; then the halves change places.
            let low = _mm256_unpacklo_ps(even, odd);
            let high = _mm256_unpackhi_ps(even, odd);
            (
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            )
        }
    }
}

/// The values of the codes in the lowest four bits of each lane, whose highest bit is the sign of `upper`.
#[inline(always)]
unsafe fn select(table: [__m256; 2], codes: __m256i, upper: __m256i) -> __m256 {
    // SAFETY: the caller has a token.
    unsafe {
        _mm256_blendv_ps(
            _mm256_permutevar8x32_ps(table[0], codes),
            _mm256_permutevar8x32_ps(table[1], codes),
            _mm256_castsi256_ps(upper),
        )
    }
}

/// Number of thresholds below each lane.
#[inline(always)]
unsafe fn rank(search: Avx2Thresholds, x: __m256) -> __m256i {
    // SAFETY: the caller has a token.
    unsafe {
        let above = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(x, search.first));
        let mut rank = _mm256_sub_epi32(_mm256_setzero_si256(), above);
        for step in search.steps {
            let threshold = _mm256_permutevar8x32_ps(step, rank);
            let above = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(x, threshold));
            rank = _mm256_sub_epi32(_mm256_add_epi32(rank, rank), above);
        }
        rank
    }
}
