//! Registers of 32 codes of weights or activations, and sums of their products: whole numbers, hence exact, which blocks'
//! scales turn into f32.
//!
//! As for f32, a kernel is written once, a [`DotKernel`], and everything between [`DotLevel::run`] and the intrinsics is
//! `#[inline(always)]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod panel;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::fmt::Debug;

use crate::isa::Level;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::simd::Portable;
#[cfg(target_arch = "aarch64")]
use crate::simd::int::NeonDot;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, int::Vnni};

/// A computation on blocks of codes, written once for all instruction sets.
pub(crate) trait DotKernel {
    /// Implementations are `#[inline(always)]`.
    fn run<S: DotSimd>(self, simd: S);
}

/// An instruction set that multiplies blocks of codes.
pub(crate) trait DotSimd: Copy + Debug + Send + Sync + 'static {
    /// A block's codes, a byte each.
    type Codes: Copy;
    /// [`GROUPS`] lanes of i32; a lane has products of codes that are beside each other, those of a block's first 16 codes in the
    /// first half of the lanes.
    type Sums: Copy;
    /// As many f32.
    type F32: Copy;
    /// Rows of activations that are multiplied with four rows of weights at a time, as many as there are registers for: at
    /// most [`MAX_TOKENS`].
    const TOKENS: usize;

    /// Runs `kernel` compiled for this instruction set, in a function of its own.
    fn enter_dot<K: DotKernel>(self, kernel: K);

    /// # Safety
    /// `src` can be read for 32 bytes; no alignment is needed.
    unsafe fn load(self, src: *const u8) -> Self::Codes;
    /// # Safety
    /// `dst` can be written for 32 bytes; no alignment is needed.
    unsafe fn store(self, dst: *mut u8, codes: Self::Codes);
    /// The low halves of 16 bytes, then their high halves.
    ///
    /// # Safety
    /// `src` can be read for 16 bytes; no alignment is needed.
    unsafe fn load_nibbles(self, src: *const u8) -> Self::Codes;
    /// Bits of each byte: those of `mask` when it has been shifted right, none of which comes from another byte.
    fn field(self, codes: Self::Codes, shift: u32, mask: u8) -> Self::Codes;
    /// The same, shifted left.
    fn lifted(self, codes: Self::Codes, shift: u32, mask: u8) -> Self::Codes;
    fn or(self, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// `value` in the bytes whose bit is set, zero elsewhere.
    fn where_set(self, bits: u32, value: u8) -> Self::Codes;
    /// The bytes of a table at codes from 0 to 15.
    fn choose(self, table: &[u8; 16], codes: Self::Codes) -> Self::Codes;

    /// No sums.
    fn none(self) -> Self::Sums;
    /// What products of codes that are too large by `offset`, at most 32, begin with.
    fn less(self, x: Self::Codes, offset: u8) -> Self::Sums;
    /// `sums` and the products of codes from 0 to 127 with those from −128 to 127.
    fn multiply(self, w: Self::Codes, x: Self::Codes, sums: Self::Sums) -> Self::Sums;
    /// What [`multiply_signed`](Self::multiply_signed) begins with.
    fn begin_signed(self, x: Self::Codes) -> Self::Sums;
    /// `sums` and the products of codes from −128 to 127 with those from −127 to 127.
    fn multiply_signed(self, w: Self::Codes, x: Self::Codes, sums: Self::Sums) -> Self::Sums;

    /// Sums of digits as sums of digits that are one rank higher: 256 times as large.
    fn one_rank_up(self, sums: Self::Sums) -> Self::Sums;
    fn sub_sums(self, a: Self::Sums, b: Self::Sums) -> Self::Sums;

    fn zero(self) -> Self::F32;
    /// `to` and the sums times a block's scale.
    fn add_scaled(self, sums: Self::Sums, scale: f32, to: Self::F32) -> Self::F32;
    /// `to` and the sums times the scales of a block's halves.
    fn add_halves(self, sums: Self::Sums, scales: [f32; 2], to: Self::F32) -> Self::F32;
    /// `from` less products, in any lanes.
    fn subtract_product(self, a: Self::F32, b: Self::F32, from: Self::F32) -> Self::F32;
    fn splat(self, x: f32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn get(self, numbers: &[f32; GROUPS]) -> Self::F32;
    fn put(self, numbers: &mut Eight, x: Self::F32);
    /// Numbers of f16.
    fn of_f16(self, bits: [u16; GROUPS]) -> Self::F32;
    /// One in all lanes.
    fn splat_f16(self, bits: u16) -> Self::F32;
    /// Bytes as numbers from 0 to 255.
    fn of_bytes(self, bytes: [u8; GROUPS]) -> Self::F32;
    /// Bytes as numbers from −128 to 127: those of even index, and those of odd index.
    fn of_pairs(self, bytes: [u8; 2 * GROUPS]) -> [Self::F32; 2];
    /// Exponents as half of the powers of two that E8M0 has for them; 255 is one as all others are.
    fn half_powers(self, exponents: [u8; GROUPS]) -> Self::F32;
    /// The sum of the lanes.
    fn reduce(self, sums: Self::F32) -> f32;
    /// Asks for a cache line that will soon be read; the address need not be valid.
    fn prefetch(self, address: *const u8);
}

/// The instruction set that blocks of codes are multiplied with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DotLevel {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 with its instruction for 8-bit products.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// NEON with its instruction for 8-bit products.
    #[cfg(target_arch = "aarch64")]
    NeonDot(NeonDot),
}

impl DotLevel {
    /// The best that goes with `level`.
    pub(crate) fn of(level: Level) -> Self {
        match level {
            Level::Portable(simd) => DotLevel::Portable(simd),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(simd) => DotLevel::Avx2(simd),
            // Without that instruction, wider registers gain nothing that would be worth kernels of their own.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(simd) => match (Vnni::new(simd), Avx2::new()) {
                (Some(vnni), _) => DotLevel::Vnni(vnni),
                (None, Some(avx2)) => DotLevel::Avx2(avx2),
                (None, None) => DotLevel::Portable(Portable),
            },
            #[cfg(target_arch = "aarch64")]
            Level::Neon(simd) => NeonDot::new(simd).map_or(DotLevel::Neon(simd), DotLevel::NeonDot),
        }
    }

    /// Runs a kernel compiled for this instruction set.
    pub(crate) fn run<K: DotKernel>(self, kernel: K) {
        match self {
            DotLevel::Portable(simd) => simd.enter_dot(kernel),
            #[cfg(target_arch = "x86_64")]
            DotLevel::Avx2(simd) => simd.enter_dot(kernel),
            #[cfg(target_arch = "x86_64")]
            DotLevel::Vnni(simd) => simd.enter_dot(kernel),
            #[cfg(target_arch = "aarch64")]
            DotLevel::Neon(simd) => simd.enter_dot(kernel),
            #[cfg(target_arch = "aarch64")]
            DotLevel::NeonDot(simd) => simd.enter_dot(kernel),
        }
    }
}

/// Numbers of a register in memory.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Eight(pub(crate) [f32; GROUPS]);

/// Blocks whose scales are looked up together.
pub(crate) const GROUPS: usize = 8;
/// The most rows of activations at a time.
pub(crate) const MAX_TOKENS: usize = 4;
