//! Operations on the codes of packed weights that an instruction set needs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::Simd;

/// Codes of a few bits, one a lane, and numbers of 8 and 16 bits widened.
pub(crate) trait Codes: Simd {
    /// A register of as many u32 as there are lanes.
    type Words: Copy;

    /// `LANES` bytes.
    ///
    /// # Safety
    /// `src` can be read for `LANES` bytes.
    unsafe fn load_bytes(self, src: *const u8) -> Self::Words;
    /// `LANES` signed bytes.
    ///
    /// # Safety
    /// `src` can be read for `LANES` bytes.
    unsafe fn load_i8(self, src: *const u8) -> Self::F32;
    /// `LANES` numbers of E4M3, [`E4M3_FACTOR`] times smaller; those with all bits of the magnitude set are NaN.
    ///
    /// # Safety
    /// `src` can be read for `LANES` bytes.
    unsafe fn load_e4m3(self, src: *const u8) -> Self::F32;
    /// `LANES` numbers of E5M2.
    ///
    /// # Safety
    /// `src` can be read for `LANES` bytes.
    unsafe fn load_e5m2(self, src: *const u8) -> Self::F32;

    /// An f16 in all lanes.
    fn splat_f16(self, bits: u16) -> Self::F32;
    /// The first lane.
    fn first(self, x: Self::F32) -> f32;

    fn shift_right(self, words: Self::Words, n: u32) -> Self::Words;
    fn shift_left(self, words: Self::Words, n: u32) -> Self::Words;
    fn mask(self, words: Self::Words, mask: u32) -> Self::Words;
    fn or(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// `value` in the lanes whose bit of `bits` is set, zero elsewhere.
    fn where_set(self, bits: u32, value: u32) -> Self::Words;
    /// As numbers; words are below 2³¹.
    fn to_f32(self, words: Self::Words) -> Self::F32;

    /// The codes from `at` on, a byte each.
    ///
    /// # Panics
    /// When there are fewer than lanes.
    #[inline(always)]
    fn bytes(self, codes: &[u8], at: usize) -> Self::Words {
        let codes = &codes[at..][..Self::LANES];
        // SAFETY: as many bytes as lanes.
        unsafe { self.load_bytes(codes.as_ptr()) }
    }

    /// The signed codes from `at` on.
    ///
    /// # Panics
    /// When there are fewer than lanes.
    #[inline(always)]
    fn signed(self, codes: &[u8], at: usize) -> Self::F32 {
        let codes = &codes[at..][..Self::LANES];
        // SAFETY: as many bytes as lanes.
        unsafe { self.load_i8(codes.as_ptr()) }
    }

    /// The f16 at a byte of a block.
    #[inline(always)]
    fn f16_at(self, block: &[u8], at: usize) -> f32 {
        self.first(self.splat_f16(u16::from_le_bytes([block[at], block[at + 1]])))
    }
}

/// The same bits as an f16 are smaller by the exponents' biases.
pub(crate) const E4M3_FACTOR: f32 = 256.0;
