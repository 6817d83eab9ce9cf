use std::arch::x86_64::*;
use std::mem::transmute;

use crate::dense::DenseView;
use crate::gemm::{Gemm, Preparation};
use crate::simd::{Avx512, Simd};
use crate::tile::Factors;
use crate::weight::Floats;

/// AVX-512 with products of pairs of bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairs(Avx512);

impl Pairs {
    /// `None` where the machine lacks them.
    pub(super) fn new(simd: Avx512) -> Option<Self> {
        is_x86_feature_detected!("avx512bf16").then_some(Pairs(simd))
    }

    /// Runs a product compiled for this instruction set.
    pub(super) fn enter(self, gemm: Gemm<'_>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
        fn compiled(pairs: Pairs, gemm: Gemm<'_>) {
            gemm.run_with(pairs.0, pairs);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, gemm) }
    }
}

impl Factors<Avx512> for Pairs {
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn load(self, simd: Avx512, src: *const u8) -> __m512 {
        // SAFETY: as the caller promises.
        unsafe { simd.load(src.cast()) }
    }

    #[inline(always)]
    fn multiply_add(self, _: Avx512, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: the token; registers of any kind of lanes are as large.
        unsafe {
            let (a, b) = (
                transmute::<__m512, __m512bh>(a),
                transmute::<__m512, __m512bh>(b),
            );
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

impl Preparation<Avx512> for Pairs {
    type Factors = Pairs;
    const COLUMNS: usize = 2;

    #[inline(always)]
    fn factors(self) -> Pairs {
        self
    }

    #[inline(always)]
    fn lanes<'a>(self, weight: Floats<'a>) -> Option<DenseView<'a>> {
        match weight {
            Floats::Dense(weight) => weight.pairs_as_words(),
            Floats::FourBit(_) | Floats::Packed(_) => None,
        }
    }

    #[inline(always)]
    fn prepare_row(self, simd: Avx512, x: &[f32], lanes: &mut [f32]) {
        for at in (0..x.len()).step_by(2 * Avx512::LANES) {
            let low = simd.get(x, at);
            let high = match x.len() > at + Avx512::LANES {
                true => simd.get(x, at + Avx512::LANES),
                false => simd.splat(0.0),
            };
            // SAFETY: the token; registers of any kind of lanes are as large.
            let pairs = unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)) };
            simd.put(lanes, at / 2, pairs);
        }
    }

    #[inline(always)]
    fn prepare_panel(self, simd: Avx512, panel: &mut [f32], width: usize) {
        for pair in 0..panel.len() / (2 * width) {
            for at in (0..width).step_by(Avx512::LANES) {
                let first = simd.get(panel, 2 * pair * width + at);
                let second = simd.get(panel, (2 * pair + 1) * width + at);
                // SAFETY: the token; registers of any kind of lanes are as large.
                let pairs = unsafe {
                    let low = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(first));
                    let high = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(second));
                    let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
                    _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(low), high))
                };
                // Behind what is still to be read.
                let to = pair * width + at;
                simd.put(&mut panel[..to + Avx512::LANES], to, pairs);
            }
        }
    }
}
