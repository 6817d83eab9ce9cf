use llm_quant::{DoubleAbsmax, NESTED_BLOCK};

use crate::simd::FourBit;

/// The scales of a matrix's blocks.
pub(crate) trait Scales: Copy {
    /// The scale of a block.
    ///
    /// # Panics
    /// When there is no such block.
    fn at(self, block: usize) -> f32;

    /// The scales of `N` blocks from `block` on, each in as many lanes beside each other.
    ///
    /// # Safety
    /// There are so many.
    unsafe fn spread<S: FourBit, const N: usize>(self, simd: S, block: usize) -> S::F32;

    /// Asks for the scales of `block` and some that follow; there need not be such a block.
    fn prefetch<S: FourBit>(self, simd: S, block: usize);
}

/// In f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainScales<'a>(&'a [u8]);

impl<'a> PlainScales<'a> {
    pub(crate) fn new(absmax: &'a [u8]) -> Self {
        PlainScales(absmax)
    }
}

impl Scales for PlainScales<'_> {
    #[inline(always)]
    fn at(self, block: usize) -> f32 {
        f32_at(self.0, block)
    }

    #[inline(always)]
    unsafe fn spread<S: FourBit, const N: usize>(self, simd: S, block: usize) -> S::F32 {
        debug_assert!((block + N) * 4 <= self.0.len());
        // SAFETY: as the caller promises.
        simd.spread(unsafe {
            self.0
                .as_ptr()
                .cast::<[f32; N]>()
                .byte_add(4 * block)
                .read_unaligned()
        })
    }

    #[inline(always)]
    fn prefetch<S: FourBit>(self, simd: S, block: usize) {
        simd.prefetch(self.0.as_ptr().wrapping_add(4 * block));
    }
}

/// In 8 bits, with scales of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DoubleScales<'a> {
    codes: &'a [u8],
    /// f32, one for [`NESTED_BLOCK`] codes.
    absmax: &'a [u8],
    map: &'a [f32; 256],
    offset: f32,
}

impl<'a> DoubleScales<'a> {
    pub(crate) fn new(double: &'a DoubleAbsmax) -> Self {
        DoubleScales {
            codes: double.codes(),
            absmax: double.absmax(),
            map: double.map(),
            offset: double.offset(),
        }
    }
}

impl Scales for DoubleScales<'_> {
    #[inline(always)]
    fn at(self, block: usize) -> f32 {
        let value = self.map[usize::from(self.codes[block])];
        // Two roundings, as the encoding means it.
        value * f32_at(self.absmax, block / NESTED_BLOCK) + self.offset
    }

    #[inline(always)]
    unsafe fn spread<S: FourBit, const N: usize>(self, simd: S, block: usize) -> S::F32 {
        debug_assert!(block + N <= self.codes.len());
        let mut scales = [0f32; N];
        for (i, scale) in scales.iter_mut().enumerate() {
            // SAFETY: as the caller promises, and there is a scale for every group of codes.
            unsafe {
                let value = self.map[usize::from(*self.codes.get_unchecked(block + i))];
                let group = (block + i) / NESTED_BLOCK;
                let absmax = self.absmax.as_ptr().cast::<f32>().byte_add(4 * group);
                // Two roundings, as the encoding means it.
                *scale = value * absmax.read_unaligned() + self.offset;
            }
        }
        simd.spread(scales)
    }

    #[inline(always)]
    fn prefetch<S: FourBit>(self, simd: S, block: usize) {
        simd.prefetch(self.codes.as_ptr().wrapping_add(block));
    }
}

/// Element `i` of f32 at any alignment.
#[inline(always)]
fn f32_at(bytes: &[u8], i: usize) -> f32 {
    let bytes = &bytes[4 * i..][..4];
    // SAFETY: there are four bytes.
    unsafe { bytes.as_ptr().cast::<f32>().read_unaligned() }
}
