//! Panels of codes: four columns of 16 rows of weights a register, which codes of activations are multiplied with four at a
//! time.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::{DotLevel, DotSimd};
#[cfg(target_arch = "x86_64")]
use crate::simd::int::Vnni;
#[cfg(target_arch = "aarch64")]
use crate::simd::int::{IntSimd, NeonDot};
use crate::simd::table::{by_promise, by_token};

/// A computation on panels of codes.
pub(crate) trait PanelKernel {
    /// Implementations are `#[inline(always)]`.
    fn run<S: PanelSimd>(self, simd: S);
}

/// An instruction set that multiplies panels of codes faster than rows of them.
pub(crate) trait PanelSimd: DotSimd {
    /// What codes of activations are moved by, 0 or 128.
    const BIAS: u8;
    /// A sum for each row.
    type RowSums: Copy;
    /// f32 for each row.
    type RowF32: Copy;

    /// Runs `kernel` compiled for this instruction set, in a function of its own.
    fn enter_panel<K: PanelKernel>(self, kernel: K);

    /// # Safety
    /// `src` can be read for [`PANEL_ROWS`] words.
    unsafe fn load_sums(self, src: *const i32) -> Self::RowSums;
    /// # Safety
    /// As for [`load_sums`](Self::load_sums).
    unsafe fn load_f32(self, src: *const f32) -> Self::RowF32;
    /// # Safety
    /// `dst` can be written for [`PANEL_ROWS`] words.
    unsafe fn store_f32(self, dst: *mut f32, x: Self::RowF32);
    fn rows_of_zero(self) -> Self::RowF32;
    /// Signed codes of four columns of each row.
    ///
    /// # Safety
    /// As for [`load_sums`](Self::load_sums).
    unsafe fn load_codes(self, src: *const u8) -> Self::RowSums;
    /// `sums` and the products with four codes of activations, moved by the bias.
    ///
    /// # Safety
    /// `x` can be read for 4 bytes.
    unsafe fn multiply_codes(
        self,
        weights: Self::RowSums,
        x: *const u8,
        sums: Self::RowSums,
    ) -> Self::RowSums;
    /// `to` and the sums times the rows' scales and the activations'.
    fn add_scaled_rows(
        self,
        sums: Self::RowSums,
        scales: Self::RowF32,
        scale: f32,
        to: Self::RowF32,
    ) -> Self::RowF32;
    /// `from` less minimums times activations' sum.
    fn subtract_rows(self, mins: Self::RowF32, sum: f32, from: Self::RowF32) -> Self::RowF32;
}

/// The instruction set that panels of codes are multiplied with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PanelLevel {
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    #[cfg(target_arch = "aarch64")]
    NeonDot(NeonDot),
}

impl PanelLevel {
    /// `None` where rows are multiplied as fast.
    pub(crate) fn of(level: DotLevel) -> Option<Self> {
        match level {
            #[cfg(target_arch = "x86_64")]
            DotLevel::Vnni(simd) => Some(PanelLevel::Vnni(simd)),
            DotLevel::Portable(_) => None,
            #[cfg(target_arch = "x86_64")]
            DotLevel::Avx2(_) => None,
            #[cfg(target_arch = "aarch64")]
            DotLevel::NeonDot(simd) => Some(PanelLevel::NeonDot(simd)),
            #[cfg(target_arch = "aarch64")]
            DotLevel::Neon(_) => None,
        }
    }

    /// Runs a kernel compiled for this instruction set.
    pub(crate) fn run<K: PanelKernel>(self, kernel: K) {
        match self {
            #[cfg(target_arch = "x86_64")]
            PanelLevel::Vnni(simd) => simd.enter_panel(kernel),
            #[cfg(target_arch = "aarch64")]
            PanelLevel::NeonDot(simd) => simd.enter_panel(kernel),
        }
    }

    /// What codes of activations are moved by.
    pub(crate) fn bias(self) -> u8 {
        match self {
            #[cfg(target_arch = "x86_64")]
            PanelLevel::Vnni(_) => Vnni::BIAS,
            #[cfg(target_arch = "aarch64")]
            PanelLevel::NeonDot(_) => NeonDot::BIAS,
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl PanelSimd for Vnni {
    const BIAS: u8 = 128;
    type RowSums = __m512i;
    type RowF32 = __m512;

    fn enter_panel<K: PanelKernel>(self, kernel: K) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn compiled<K: PanelKernel>(simd: Vnni, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    by_promise! {
        fn load_sums(src: *const i32) -> __m512i = _mm512_loadu_si512(src.cast());
        fn load_f32(src: *const f32) -> __m512 = _mm512_loadu_ps(src);
        fn store_f32(dst: *mut f32, x: __m512) = _mm512_storeu_ps(dst, x);
        fn load_codes(src: *const u8) -> __m512i = _mm512_loadu_si512(src.cast());
        fn multiply_codes(weights: __m512i, x: *const u8, sums: __m512i) -> __m512i =
            _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(x.cast::<i32>().read_unaligned()), weights);
    }

    by_token! {
        fn rows_of_zero() -> __m512 = _mm512_setzero_ps();
        fn add_scaled_rows(sums: __m512i, scales: __m512, scale: f32, to: __m512) -> __m512 = {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale));
            _mm512_fmadd_ps(scaled, scales, to)
        };
        fn subtract_rows(mins: __m512, sum: f32, from: __m512) -> __m512 =
            _mm512_fnmadd_ps(mins, _mm512_set1_ps(sum), from);
    }
}

#[cfg(target_arch = "aarch64")]
impl PanelSimd for NeonDot {
    const BIAS: u8 = 0;
    type RowSums = [int32x4_t; 4];
    type RowF32 = [float32x4_t; 4];

    fn enter_panel<K: PanelKernel>(self, kernel: K) {
        #[target_feature(enable = "neon,dotprod")]
        fn compiled<K: PanelKernel>(simd: NeonDot, kernel: K) {
            kernel.run(simd);
        }
        // SAFETY: the token proves that the machine has the instruction set.
        unsafe { compiled(self, kernel) }
    }

    by_promise! {
        fn load_sums(src: *const i32) -> [int32x4_t; 4] =
            [vld1q_s32(src), vld1q_s32(src.add(4)), vld1q_s32(src.add(8)), vld1q_s32(src.add(12))];
        fn load_f32(src: *const f32) -> [float32x4_t; 4] =
            [vld1q_f32(src), vld1q_f32(src.add(4)), vld1q_f32(src.add(8)), vld1q_f32(src.add(12))];
        fn store_f32(dst: *mut f32, x: [float32x4_t; 4]) = {
            vst1q_f32(dst, x[0]);
            vst1q_f32(dst.add(4), x[1]);
            vst1q_f32(dst.add(8), x[2]);
            vst1q_f32(dst.add(12), x[3]);
        };
    }

    #[inline(always)]
    unsafe fn load_codes(self, src: *const u8) -> [int32x4_t; 4] {
        // SAFETY: as the caller promises.
        unsafe { self.load_sums(src.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_codes(
        self,
        weights: [int32x4_t; 4],
        x: *const u8,
        mut sums: [int32x4_t; 4],
    ) -> [int32x4_t; 4] {
        // SAFETY: as the caller promises, and the token.
        let x = unsafe {
            let word = x.cast::<i32>().read_unaligned();
            vreinterpretq_s8_s32(vdupq_n_s32(word))
        };
        for i in 0..4 {
            // SAFETY: the token proves that the machine has the instruction set.
            let weights = unsafe { vreinterpretq_s8_s32(weights[i]) };
            sums[i] = self.multiply_add(weights, x, sums[i]);
        }
        sums
    }

    by_token! {
        fn rows_of_zero() -> [float32x4_t; 4] = [vdupq_n_f32(0.0); 4];
        fn add_scaled_rows(
            sums: [int32x4_t; 4],
            scales: [float32x4_t; 4],
            scale: f32,
            to: [float32x4_t; 4]
        ) -> [float32x4_t; 4] = {
            let mut to = to;
            for i in 0..4 {
                let scaled = vmulq_n_f32(vcvtq_f32_s32(sums[i]), scale);
                to[i] = vfmaq_f32(to[i], scaled, scales[i]);
            }
            to
        };
        fn subtract_rows(mins: [float32x4_t; 4], sum: f32, from: [float32x4_t; 4]) -> [float32x4_t; 4] = {
            let mut from = from;
            for i in 0..4 {
                from[i] = vfmsq_n_f32(from[i], mins[i], sum);
            }
            from
        };
    }
}

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;
