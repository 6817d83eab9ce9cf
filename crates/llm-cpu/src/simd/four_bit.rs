//! Operations on 4-bit codes that an instruction set needs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::{Codes, MAX_LANES};

/// Sixteen values looked up by code, and codes found by value.
pub(crate) trait FourBit: Codes {
    /// The values of the sixteen codes.
    type Table: Copy;
    /// Bounds between the values, and their codes in order of value.
    type Thresholds: Copy;
    /// The same for thresholds that lie far enough apart, found in fewer steps.
    type Buckets: Copy;

    /// True if a tile has room for 24 sums rather than for 8.
    const MANY_REGISTERS: bool = Self::TILE_ROWS * Self::TILE_VECTORS >= 24;

    fn table(self, values: &[f32; 16]) -> Self::Table;
    fn thresholds(self, thresholds: &[f32; 15], codes: &[u8; 16]) -> Self::Thresholds;
    /// Nothing where they lie too close, or where the instruction set has no better way.
    fn buckets(self, thresholds: &[f32; 15], codes: &[u8; 16]) -> Option<Self::Buckets>;

    /// The values that are `scale` times those of the table, rounded, less `min`, rounded again.
    fn affine_table(self, table: Self::Table, scale: f32, min: f32) -> Self::Table;
    /// The values that are `scale` times those of the table.
    fn scaled_table(self, table: Self::Table, scale: f32) -> Self::Table;
    /// The values of the codes in the lowest four bits of each word.
    fn choose(self, table: Self::Table, codes: Self::Words) -> Self::F32;

    /// The values of `LANES` codes, two a byte, in their order.
    ///
    /// # Safety
    /// `src` can be read for `LANES / 2` bytes.
    unsafe fn look_up(self, table: Self::Table, src: *const u8) -> Self::F32;

    /// Register `i` of `8 · LANES` codes, two a byte: the values of every eighth from code `i` on. So lane `j` of all eight
    /// registers are the codes of word `j`.
    ///
    /// # Safety
    /// `src` can be read for [`words_read`]`(LANES)` bytes, which is more than the codes take, and `i` is less than 8.
    unsafe fn look_up_eighth(self, table: Self::Table, src: *const u8, i: usize) -> Self::F32;

    /// All eight registers of [`look_up_eighth`](Self::look_up_eighth).
    ///
    /// # Safety
    /// `src` can be read for [`words_read`]`(LANES)` bytes.
    #[inline(always)]
    unsafe fn look_up_words(self, table: Self::Table, src: *const u8) -> [Self::F32; 8] {
        let mut values = [self.splat(0.0); 8];
        for (i, values) in values.iter_mut().enumerate() {
            // SAFETY: as the caller promises.
            *values = unsafe { self.look_up_eighth(table, src, i) };
        }
        values
    }

    /// The codes of `LANES` pairs of values, each the one whose value is nearest, the lower one in the middle; a byte a
    /// pair, `even` in the high half.
    ///
    /// # Safety
    /// `dst` can be written for `LANES` bytes.
    unsafe fn store_nibbles(
        self,
        thresholds: Self::Thresholds,
        even: Self::F32,
        odd: Self::F32,
        dst: *mut u8,
    );

    /// As [`store_nibbles`](Self::store_nibbles).
    ///
    /// # Safety
    /// `dst` can be written for `LANES` bytes.
    unsafe fn store_bucketed(
        self,
        buckets: Self::Buckets,
        even: Self::F32,
        odd: Self::F32,
        dst: *mut u8,
    );

    /// The elements of `a` and `b`, one after the other, as those of even and those of odd index.
    fn deinterleave(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32);

    /// The elements of `even` and `odd` in turns: what [`deinterleave`](Self::deinterleave) takes apart.
    fn interleave(self, even: Self::F32, odd: Self::F32) -> (Self::F32, Self::F32);

    /// `N` values, a power of two, each in as many lanes beside each other.
    #[inline(always)]
    fn spread<const N: usize>(self, values: [f32; N]) -> Self::F32 {
        if N == 1 {
            return self.splat(values[0]);
        }
        let mut lanes = [0f32; MAX_LANES];
        for (i, lane) in lanes.iter_mut().take(Self::LANES).enumerate() {
            *lane = values[i * N / Self::LANES];
        }
        self.get(&lanes, 0)
    }
}

/// Bytes that [`FourBit::look_up_eighth`] may read of as many words.
pub(crate) const fn words_read(n_words: usize) -> usize {
    4 * n_words + 3
}
