//! Registers of 8-bit codes, and sums of their products in i32: exact, hence the same on every instruction set.
//!
//! As for f32, a kernel is written once, an [`IntKernel`], and everything between [`IntLevel::run`] and the intrinsics
//! is `#[inline(always)]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::NeonDot;
#[cfg(target_arch = "x86_64")]
pub(crate) use vnni::Vnni;

use std::fmt::Debug;

use crate::isa::Level;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::simd::Portable;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};

/// A computation on 8-bit codes, written once for all instruction sets.
pub(crate) trait IntKernel {
    /// Implementations are `#[inline(always)]`.
    fn run<S: IntSimd>(self, simd: S);
}

/// An instruction set that multiplies 8-bit codes.
pub(crate) trait IntSimd: Copy + Debug + Send + Sync + 'static {
    /// [`STEP`](Self::STEP) codes, as they are multiplied.
    type Codes: Copy;
    /// Lanes of i32; their total is the sum of the products.
    type Sums: Copy;
    /// Codes that are multiplied at a time: a divisor of [`MAX_STEP`].
    const STEP: usize;
    /// Bytes that a code of [`Codes`](Self::Codes) takes.
    const CODE_BYTES: usize;
    /// Offset that [`weights`](Self::weights) adds to every code: a sum is too large by it times each activation's code.
    const OFFSET: i32;
    /// Activations that are multiplied with eight rows of weights at a time, as many as there are registers for: 1 to
    /// 3.
    const TILE_TOKENS: usize;

    fn zero(self) -> Self::Sums;
    /// `sums` and the products of codes of weights and of activations.
    fn multiply_add(self, w: Self::Codes, x: Self::Codes, sums: Self::Sums) -> Self::Sums;
    /// The total of the lanes.
    fn reduce(self, sums: Self::Sums) -> i32;
    /// The total of each.
    fn reduce_8(self, sums: [Self::Sums; 8]) -> [i32; 8];

    /// Codes of weights, at any alignment.
    ///
    /// # Safety
    /// `src` can be read for `STEP` bytes.
    unsafe fn weights(self, src: *const u8) -> Self::Codes;
    /// Codes of activations, at any alignment.
    ///
    /// # Safety
    /// `src` can be read for `STEP` bytes.
    unsafe fn activations(self, src: *const i8) -> Self::Codes;
    /// Codes that [`store`](Self::store) left.
    ///
    /// # Safety
    /// `src` can be read for `STEP · CODE_BYTES` bytes.
    unsafe fn load(self, src: *const u8) -> Self::Codes;
    /// # Safety
    /// `dst` can be written for `STEP · CODE_BYTES` bytes.
    unsafe fn store(self, dst: *mut u8, codes: Self::Codes);
    /// Asks for a cache line that will soon be read; the address need not be valid.
    fn prefetch(self, address: *const u8);

    /// The first `n` codes of [`weights`](Self::weights) (all, if `n` is larger); zeros beyond.
    ///
    /// # Safety
    /// `src` can be read for `min(n, STEP)` bytes.
    #[inline(always)]
    unsafe fn weights_part(self, src: *const u8, n: usize) -> Self::Codes {
        // SAFETY: as the caller promises; a short piece is read from a copy that is long enough.
        unsafe {
            if n >= Self::STEP {
                return self.weights(src);
            }
            let mut piece = [0; MAX_STEP];
            std::ptr::copy_nonoverlapping(src, piece.as_mut_ptr(), n);
            self.weights(piece.as_ptr())
        }
    }
}

/// The most codes that any instruction set multiplies at a time.
pub(crate) const MAX_STEP: usize = 64;

/// The instruction set that integers are computed with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum IntLevel {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX-512 with its instruction for 8-bit products.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// NEON with its instruction for 8-bit products.
    #[cfg(target_arch = "aarch64")]
    NeonDot(NeonDot),
}

impl IntLevel {
    /// The best that goes with `level`.
    pub(crate) fn of(level: Level) -> Self {
        match level {
            Level::Portable(simd) => IntLevel::Portable(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => IntLevel::Avx2(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => Vnni::new(simd).map_or(IntLevel::Avx512(simd), IntLevel::Vnni),
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => NeonDot::new(simd).map_or(IntLevel::Neon(simd), IntLevel::NeonDot),
        }
    }

    /// Runs a kernel compiled for this instruction set.
    pub(crate) fn run<K: IntKernel>(self, kernel: K) {
        match self {
            IntLevel::Portable(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            IntLevel::Avx2(simd) => simd.enter_int(kernel),
            #[cfg(target_arch = "x86_64")]
            IntLevel::Avx512(simd) => simd.enter_int(kernel),
            #[cfg(target_arch = "x86_64")]
            IntLevel::Vnni(simd) => simd.enter(kernel),
            #[cfg(target_arch = "aarch64")]
            IntLevel::Neon(simd) => simd.enter_int(kernel),
            #[cfg(target_arch = "aarch64")]
            IntLevel::NeonDot(simd) => simd.enter(kernel),
        }
    }
}

/// All that go with an instruction set that this machine has, the plainest first.
#[cfg(test)]
pub(crate) fn int_levels(isa: crate::Isa) -> Vec<IntLevel> {
    let level = Level::new(isa).expect("the machine has the instruction set");
    match (level, IntLevel::of(level)) {
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512(simd), vnni @ IntLevel::Vnni(_)) => vec![IntLevel::Avx512(simd), vnni],
        #[cfg(target_arch = "aarch64")]
        (Level::Neon(simd), dot @ IntLevel::NeonDot(_)) => vec![IntLevel::Neon(simd), dot],
        (_, best) => vec![best],
    }
}
