use std::arch::x86_64::*;

use super::FourBit;
use crate::simd::{Avx512, Simd};

/// The thresholds as a binary search meets them, and the codes in order of value.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Thresholds {
    /// Of each step: the next threshold by the number of those known to be below.
    steps: [__m512; 4],
    /// In all quarters.
    codes: __m512i,
}

/// The values from -1 to 1 in as many buckets as two registers have lanes, none with more than one threshold in it.
#[derive(Clone, Copy)]
pub(crate) struct Buckets {
    /// Of each bucket: its threshold, infinity where it has none.
    thresholds: [__m512; 2],
    /// Number of thresholds below the bucket.
    ranks: [__m512i; 2],
    /// In all quarters.
    codes: __m512i,
}

/// The bucket of a value is the lowest five bits of `value · SCALE + MAGIC`: the sum's spacing is 1, so that it rounds to
/// 0.6 to 31.4 and as many more as bits hide.
const SCALE: f32 = 15.4;
const MAGIC: f32 = 12_582_912.0 + 16.0;

impl FourBit for Avx512 {
    type Table = __m512;
    type Thresholds = Avx512Thresholds;
    type Buckets = Buckets;

    #[inline(always)]
    fn table(self, values: &[f32; 16]) -> __m512 {
        // SAFETY: sixteen values; the token proves that the machine has the instruction set.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn thresholds(self, thresholds: &[f32; 15], codes: &[u8; 16]) -> Avx512Thresholds {
        let mut steps = [[0f32; 16]; 4];
        for (step, width) in steps.iter_mut().zip(WIDTHS) {
            for known in (0..16).step_by(2 * width) {
                step[known] = thresholds[known + width - 1];
            }
        }
        // SAFETY: sixteen elements each; the token.
        unsafe {
            Avx512Thresholds {
                steps: [
                    _mm512_loadu_ps(steps[0].as_ptr()),
                    _mm512_loadu_ps(steps[1].as_ptr()),
                    _mm512_loadu_ps(steps[2].as_ptr()),
                    _mm512_loadu_ps(steps[3].as_ptr()),
                ],
                codes: _mm512_broadcast_i32x4(_mm_loadu_si128(codes.as_ptr().cast())),
            }
        }
    }

    #[inline(always)]
    fn buckets(self, thresholds: &[f32; 15], codes: &[u8; 16]) -> Option<Buckets> {
        let (mut of_bucket, mut ranks) = ([f32::INFINITY; 32], [0i32; 32]);
        for &threshold in thresholds {
            // By the very rounding that values meet, which keeps their order: hence exact.
            let bucket = (threshold.mul_add(SCALE, MAGIC).to_bits() & 31) as usize;
            if of_bucket[bucket] != f32::INFINITY {
                return None;
            }
            of_bucket[bucket] = threshold;
            ranks[bucket + 1..].iter_mut().for_each(|rank| *rank += 1);
        }
        // SAFETY: two registers each; the token.
        unsafe {
            Some(Buckets {
                thresholds: [
                    _mm512_loadu_ps(of_bucket.as_ptr()),
                    _mm512_loadu_ps(of_bucket.as_ptr().add(16)),
                ],
                ranks: [
                    _mm512_loadu_si512(ranks.as_ptr().cast()),
                    _mm512_loadu_si512(ranks.as_ptr().add(16).cast()),
                ],
                codes: _mm512_broadcast_i32x4(_mm_loadu_si128(codes.as_ptr().cast())),
            })
        }
    }

    #[inline(always)]
    fn affine_table(self, table: __m512, scale: f32, min: f32) -> __m512 {
        self.sub(self.mul(table, self.splat(scale)), self.splat(min))
    }

    #[inline(always)]
    fn scaled_table(self, table: __m512, scale: f32) -> __m512 {
        self.mul(table, self.splat(scale))
    }

    #[inline(always)]
    fn choose(self, table: __m512, codes: __m512i) -> __m512 {
        // The permutation reads the lowest four bits only.
        // SAFETY: the token.
        unsafe { _mm512_permutexvar_ps(codes, table) }
    }

    #[inline(always)]
    unsafe fn look_up(self, table: __m512, src: *const u8) -> __m512 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let [low, high] = src.cast::<[i32; 2]>().read_unaligned();
            let words = _mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xff00, high);
            let shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
            let codes = _mm512_srlv_epi32(words, _mm512_broadcast_i32x8(shifts));
            _mm512_permutexvar_ps(codes, table)
        }
    }

    #[inline(always)]
    unsafe fn look_up_eighth(self, table: __m512, src: *const u8, i: usize) -> __m512 {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            // A load from byte i / 2 on stands for a shift; the permutation reads the lowest four bits only.
            let words = _mm512_loadu_si512(src.add(i / 2).cast());
            let codes = if i.is_multiple_of(2) {
                _mm512_srli_epi32::<4>(words)
            } else {
                words
            };
            _mm512_permutexvar_ps(codes, table)
        }
    }

    #[inline(always)]
    unsafe fn store_nibbles(
        self,
        search: Avx512Thresholds,
        even: __m512,
        odd: __m512,
        dst: *mut u8,
    ) {
        // SAFETY: as the caller promises, and the token.
        unsafe { store_ranks(search.codes, rank(search, even), rank(search, odd), dst) }
    }

    #[inline(always)]
    unsafe fn store_bucketed(self, buckets: Buckets, even: __m512, odd: __m512, dst: *mut u8) {
        // SAFETY: as the caller promises, and the token.
        unsafe {
            let (even, odd) = (rank_in_bucket(buckets, even), rank_in_bucket(buckets, odd));
            store_ranks(buckets.codes, even, odd, dst);
        }
    }

    #[inline(always)]
    fn deinterleave(self, a: __m512, b: __m512) -> (__m512, __m512) {
        // SAFETY: the token.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            (
                _mm512_permutex2var_ps(a, even, b),
                _mm512_permutex2var_ps(a, odd, b),
            )
        }
    }

    #[inline(always)]
    fn interleave(self, even: __m512, odd: __m512) -> (__m512, __m512) {
        // SAFETY: the token.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_or_si512(low, _mm512_set1_epi32(8));
            (
                _mm512_permutex2var_ps(even, low, odd),
                _mm512_permutex2var_ps(even, high, odd),
            )
        }
    }

    #[inline(always)]
    fn spread<const N: usize>(self, values: [f32; N]) -> __m512 {
        let mut lanes = self.splat(values[0]);
        for (i, &value) in values.iter().enumerate().skip(1) {
            // The lanes from this value's first on.
            let mask = !0 << (i * Self::LANES / N);
            // SAFETY: the token.
            lanes = unsafe { _mm512_mask_broadcastss_ps(lanes, mask, _mm_set_ss(value)) };
        }
        lanes
    }
}

/// Half of the thresholds that are left at each step of a search.
const WIDTHS: [usize; 4] = [8, 4, 2, 1];

/// Writes a byte for each lane: the code of rank `even` in the high half, that of `odd` in the low one.
#[inline(always)]
unsafe fn store_ranks(codes: __m512i, even: __m512i, odd: __m512i, dst: *mut u8) {
    // SAFETY: the caller has a token, and room for 16 bytes.
    unsafe {
        let ranks = _mm512_or_si512(even, _mm512_slli_epi32::<8>(odd));
        let codes = _mm512_shuffle_epi8(codes, ranks);
        let bytes = _mm512_or_si512(_mm512_slli_epi32::<4>(codes), _mm512_srli_epi32::<8>(codes));
        _mm_storeu_si128(dst.cast(), _mm512_cvtepi32_epi8(bytes));
    }
}

/// Number of thresholds below each lane, by its bucket.
#[inline(always)]
unsafe fn rank_in_bucket(buckets: Buckets, x: __m512) -> __m512i {
    // SAFETY: the caller has a token.
    unsafe {
        // The reciprocal of a subnormal number may be infinite; NaN stays, and is above nothing.
        let x = _mm512_min_ps(_mm512_set1_ps(1.0), x);
        let sum = _mm512_fmadd_ps(x, _mm512_set1_ps(SCALE), _mm512_set1_ps(MAGIC));
        let bucket = _mm512_castps_si512(sum);
        let [low, high] = buckets.thresholds;
        let threshold = _mm512_permutex2var_ps(low, bucket, high);
        let [low, high] = buckets.ranks;
        let rank = _mm512_permutex2var_epi32(low, bucket, high);
        let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, threshold);
        _mm512_mask_add_epi32(rank, above, rank, _mm512_set1_epi32(1))
    }
}

/// Number of thresholds below each lane.
#[inline(always)]
unsafe fn rank(search: Avx512Thresholds, x: __m512) -> __m512i {
    // SAFETY: the caller has a token.
    unsafe {
        let mut rank = _mm512_setzero_si512();
        for (step, width) in search.steps.into_iter().zip(WIDTHS) {
            let threshold = _mm512_permutexvar_ps(rank, step);
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, threshold);
            rank = _mm512_mask_add_epi32(rank, above, rank, _mm512_set1_epi32(width as i32));
        }
        rank
    }
}
