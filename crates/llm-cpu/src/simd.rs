//! Registers of f32, so that a kernel is written once and compiled for every instruction set.
//!
//! A kernel is a [`Kernel`] whose `run` is generic over a [`Simd`] token. Having a token proves that the machine has
//! its instruction set, which is what makes the arithmetic safe to call. Everything between the token's `enter`, the
//! only function compiled with the instruction set's features, and the intrinsics must be `#[inline(always)]`: code
//! that is not inlined there would be compiled without the features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
pub(crate) mod dot;
mod element;
mod four_bit;
pub(crate) mod int;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod table;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use codes::{Codes, E4M3_FACTOR};
pub(crate) use element::{Element, ElementType, Order};
pub(crate) use four_bit::{FourBit, words_read};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

use std::fmt::Debug;

/// A computation written once for all instruction sets.
pub(crate) trait Kernel {
    /// Implementations are `#[inline(always)]`; they bound `S` by what they use.
    fn run<S: FourBit>(self, simd: S);
}

/// An instruction set that the machine is known to have.
pub(crate) trait Simd: Copy + Debug + Send + Sync + 'static {
    /// A register of [`LANES`](Self::LANES) f32.
    type F32: Copy;
    /// f32 in a register.
    const LANES: usize;
    /// True where registers are arrays, and code is compiled for them as well as it can be.
    const IS_PORTABLE: bool = false;
    /// Rows of the register tile of a matrix product.
    const TILE_ROWS: usize;
    /// Registers beside each other in a row of that tile: 1, 2 or 4.
    const TILE_VECTORS: usize;

    /// Runs `kernel` compiled for this instruction set, in a function of its own.
    fn enter<K: Kernel>(self, kernel: K);

    fn splat(self, x: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `b` where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `b` where either is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b + c`, rounded once if the instruction set can.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// To the nearest integer.
    fn round(self, x: Self::F32) -> Self::F32;
    /// `x · 2^n` for integers `n` within ±250; rounds to zero, subnormals and infinity as multiplication does.
    fn scale(self, x: Self::F32, n: Self::F32) -> Self::F32;
    /// `a` where `x` is less than zero, `b` elsewhere.
    fn where_negative(self, x: Self::F32, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Rounded to f16 and widened again, beyond its range to infinities.
    fn through_f16(self, x: Self::F32) -> Self::F32;
    /// The larger magnitude of each, of which NaN is the largest; `a` is a magnitude.
    fn max_magnitude(self, a: Self::F32, x: Self::F32) -> Self::F32;
    /// The sum of the lanes.
    fn reduce_add(self, x: Self::F32) -> f32;
    /// The largest of the lanes.
    fn reduce_max(self, x: Self::F32) -> f32;

    /// The largest of the lanes, which are magnitudes; NaN is the largest.
    #[inline(always)]
    fn reduce_max_magnitude(self, x: Self::F32) -> f32 {
        let mut lanes = [0.0; MAX_LANES];
        self.put(&mut lanes, 0, x);
        f32::from_bits(lanes.map(f32::to_bits).into_iter().fold(0, u32::max))
    }

    /// # Safety
    /// `src` can be read for `LANES` f32; no alignment is needed.
    unsafe fn load(self, src: *const f32) -> Self::F32;
    /// The first `n` lanes (all, if `n` is larger); zeros beyond.
    ///
    /// # Safety
    /// `src` can be read for `min(n, LANES)` f32; no alignment is needed.
    unsafe fn load_part(self, src: *const f32, n: usize) -> Self::F32;
    /// # Safety
    /// `src` can be read for `LANES` f16; no alignment is needed.
    unsafe fn load_f16(self, src: *const u8) -> Self::F32;
    /// # Safety
    /// `src` can be read for `LANES` bf16; no alignment is needed.
    unsafe fn load_bf16(self, src: *const u8) -> Self::F32;
    /// `2 · LANES` bf16 as those of even and those of odd index: a shift and a mask instead of two unpackings.
    ///
    /// # Safety
    /// `src` can be read for `2 · LANES` bf16; no alignment is needed.
    unsafe fn load_bf16_even_odd(self, src: *const u8) -> (Self::F32, Self::F32);
    /// # Safety
    /// `dst` can be written for `LANES` f32; no alignment is needed.
    unsafe fn store(self, dst: *mut f32, x: Self::F32);
    /// The first `n` lanes (all, if `n` is larger).
    ///
    /// # Safety
    /// `dst` can be written for `min(n, LANES)` f32; no alignment is needed.
    unsafe fn store_part(self, dst: *mut f32, x: Self::F32, n: usize);
    /// Rounds to the nearest integers, ties to even, and stores their lowest byte; that of NaN is zero.
    ///
    /// # Safety
    /// `dst` can be written for `LANES` i8; no alignment is needed.
    unsafe fn store_codes(self, dst: *mut i8, x: Self::F32);
    /// Writes the transpose of the `[LANES, LANES]` block at `src` to rows `dst_stride` apart.
    ///
    /// # Safety
    /// `src` can be read for `LANES²` f32, and `dst` written for `LANES` at each of `LANES` rows.
    unsafe fn transpose(self, src: *const f32, dst: *mut f32, dst_stride: usize);
    /// Asks for a cache line that will soon be read; the address need not be valid.
    fn prefetch(self, address: *const u8);

    /// The elements from `at` on, as many as there are up to a register; zeros beyond.
    #[inline(always)]
    fn get(self, src: &[f32], at: usize) -> Self::F32 {
        let rest = &src[at..];
        // SAFETY: the part read is `rest`.
        unsafe { self.load_part(rest.as_ptr(), rest.len()) }
    }

    /// Replaces the elements from `at` on, as many as there are up to a register.
    #[inline(always)]
    fn put(self, dst: &mut [f32], at: usize, x: Self::F32) {
        let rest = &mut dst[at..];
        // SAFETY: the part written is `rest`.
        unsafe { self.store_part(rest.as_mut_ptr(), x, rest.len()) }
    }
}

/// The most lanes of any instruction set.
pub(crate) const MAX_LANES: usize = 16;
/// Most columns of a register tile.
pub(crate) const MAX_PANEL: usize = 4 * MAX_LANES;
