use llm_quant::{DoubleAbsmax, NESTED_BLOCK};

use crate::simd::FourBit;

/// The scales of a matrix's blocks.
pub(crate) trait Scales: Copy {
    /// The scale of a block.
    ///
    /// # Panics
    /// When there is no such block.
    fn at(self, block: usize) -> f32;

    /// Some scales that follow each other, as they are looked up one after the other.
    type Window: Copy;
    /// A window of none.
    const EMPTY: Self::Window;

    /// `n` scales from `block` on, at most [`WINDOW`].
    ///
    /// # Panics
    /// When there are not so many.
    fn window<S: FourBit>(self, simd: S, block: usize, n: usize) -> Self::Window;

    /// `N` scales of a window from its `at`th on, each in as many lanes beside each other.
    ///
    /// # Safety
    /// The window was made of as many.
    unsafe fn spread<S: FourBit, const N: usize>(
        simd: S,
        window: &Self::Window,
        at: usize,
    ) -> S::F32;

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

    /// They are read where they lie.
    type Window = *const f32;
    const EMPTY: *const f32 = std::ptr::null();

    #[inline(always)]
    fn window<S: FourBit>(self, _: S, block: usize, n: usize) -> *const f32 {
        self.0[4 * block..][..4 * n].as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn spread<S: FourBit, const N: usize>(
        simd: S,
        window: &*const f32,
        at: usize,
    ) -> S::F32 {
        // SAFETY: as the caller promises.
        simd.spread(unsafe { window.add(at).cast::<[f32; N]>().read_unaligned() })
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

    /// Computed together, so that arithmetic of theirs takes nothing from that of the elements.
    type Window = [f32; WINDOW];
    const EMPTY: [f32; WINDOW] = [0.0; WINDOW];

    #[inline(always)]
    fn window<S: FourBit>(self, simd: S, block: usize, n: usize) -> [f32; WINDOW] {
        let mut scales = [0f32; WINDOW];
        let groups = [block, block + n - 1].map(|block| block / NESTED_BLOCK);
        let codes = self.codes[block..].first_chunk::<WINDOW>();
        let (Some(codes), true) = (codes, groups[0] == groups[1]) else {
            for (i, scale) in scales.iter_mut().enumerate().take(n) {
                *scale = self.at(block + i);
            }
            return scales;
        };
        // In words of two, lest they be gathered: that takes longer than to load them one by one.
        let bits = |code: u8| u64::from(self.map[usize::from(code)].to_bits());
        for (scales, codes) in scales.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0) {
            let [first, second] = *codes;
            let pair = (bits(first) | bits(second) << 32).to_ne_bytes();
            *scales = bytemuck::cast::<[u8; 8], [f32; 2]>(pair);
        }
        let absmax = simd.splat(f32_at(self.absmax, groups[0]));
        let offset = simd.splat(self.offset);
        for at in (0..WINDOW).step_by(S::LANES) {
            // Two roundings, as the encoding means it.
            let scaled = simd.add(simd.mul(simd.get(&scales, at), absmax), offset);
            simd.put(&mut scales, at, scaled);
        }
        scales
    }

    #[inline(always)]
    unsafe fn spread<S: FourBit, const N: usize>(
        simd: S,
        window: &[f32; WINDOW],
        at: usize,
    ) -> S::F32 {
        // SAFETY: as the caller promises, and a window has so many.
        simd.spread(unsafe { window.as_ptr().add(at).cast::<[f32; N]>().read() })
    }

    #[inline(always)]
    fn prefetch<S: FourBit>(self, simd: S, block: usize) {
        simd.prefetch(self.codes.as_ptr().wrapping_add(block));
    }
}

/// The most scales of a window.
pub(crate) const WINDOW: usize = 16;

/// Element `i` of f32 at any alignment.
#[inline(always)]
fn f32_at(bytes: &[u8], i: usize) -> f32 {
    let bytes = &bytes[4 * i..][..4];
    // SAFETY: there are four bytes.
    unsafe { bytes.as_ptr().cast::<f32>().read_unaligned() }
}
