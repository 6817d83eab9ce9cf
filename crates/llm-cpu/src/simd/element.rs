use half::{bf16, f16};
use llm_tensor::DType;

use super::{FourBit, MAX_LANES, Simd};

/// Storage of an element of a weight or a cache.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Bytes of one element.
    const SIZE: usize;
    /// In which [`load_pair`](Self::load_pair) gives elements.
    const ORDER: Order;

    /// One element, widened.
    ///
    /// # Safety
    /// `src` can be read for one element; no alignment is needed.
    unsafe fn read(src: *const u8) -> f32;

    /// Stores one element, rounded to nearest, ties to even.
    ///
    /// # Safety
    /// `dst` can be written for one element; no alignment is needed.
    unsafe fn write(dst: *mut u8, x: f32);

    /// `LANES` elements in their order.
    ///
    /// # Safety
    /// `src` can be read for `LANES` elements; no alignment is needed.
    unsafe fn load<S: Simd>(simd: S, src: *const u8) -> S::F32;

    /// `2 · LANES` elements in [`ORDER`](Self::ORDER).
    ///
    /// # Safety
    /// `src` can be read for `2 · LANES` elements; no alignment is needed.
    unsafe fn load_pair<S: Simd>(simd: S, src: *const u8) -> (S::F32, S::F32);

    /// The first `n` elements of a [`load_pair`](Self::load_pair); zeros beyond.
    ///
    /// # Safety
    /// `src` can be read for `n` elements and `n ≤ 2 · LANES`; no alignment is needed.
    #[inline(always)]
    unsafe fn load_pair_part<S: Simd>(simd: S, src: *const u8, n: usize) -> (S::F32, S::F32) {
        let mut piece = [0u8; 2 * MAX_LANES * size_of::<f32>()];
        // SAFETY: the caller promises `n` elements of at most 4 bytes, and `n` to be at most `2 · LANES`.
        unsafe {
            std::ptr::copy_nonoverlapping(src, piece.as_mut_ptr(), n * Self::SIZE);
            Self::load_pair(simd, piece.as_ptr())
        }
    }

    /// `2 · LANES` elements as those of even and those of odd index.
    ///
    /// # Safety
    /// `src` can be read for `2 · LANES` elements; no alignment is needed.
    #[inline(always)]
    unsafe fn load_even_odd<S: FourBit>(simd: S, src: *const u8) -> (S::F32, S::F32) {
        // SAFETY: as the caller promises.
        let (first, second) = unsafe { Self::load_pair(simd, src) };
        match Self::ORDER {
            Order::EvenOdd => (first, second),
            Order::Straight | Order::Eighths => simd.deinterleave(first, second),
        }
    }

    /// The first `n` elements of a [`load`](Self::load); zeros beyond.
    ///
    /// # Safety
    /// `src` can be read for `min(n, LANES)` elements; no alignment is needed.
    #[inline(always)]
    unsafe fn load_part<S: Simd>(simd: S, src: *const u8, n: usize) -> S::F32 {
        // SAFETY: the caller promises the elements; a short piece is read from a copy that is long enough.
        unsafe {
            if n >= S::LANES {
                return Self::load(simd, src);
            }
            let mut piece = [0u8; MAX_LANES * size_of::<f32>()];
            std::ptr::copy_nonoverlapping(src, piece.as_mut_ptr(), n * Self::SIZE);
            Self::load(simd, piece.as_ptr())
        }
    }
}

impl Element for f32 {
    const SIZE: usize = 4;
    const ORDER: Order = Order::Straight;

    #[inline(always)]
    unsafe fn read(src: *const u8) -> f32 {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<f32>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn write(dst: *mut u8, x: f32) {
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<f32>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { simd.load(src.cast()) }
    }

    #[inline(always)]
    unsafe fn load_pair<S: Simd>(simd: S, src: *const u8) -> (S::F32, S::F32) {
        // SAFETY: as the caller promises.
        unsafe {
            let src = src.cast::<f32>();
            (simd.load(src), simd.load(src.add(S::LANES)))
        }
    }
}

impl Element for f16 {
    const SIZE: usize = 2;
    const ORDER: Order = Order::Straight;

    #[inline(always)]
    unsafe fn read(src: *const u8) -> f32 {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<f16>().read_unaligned() }.to_f32()
    }

    #[inline(always)]
    unsafe fn write(dst: *mut u8, x: f32) {
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<f16>().write_unaligned(f16::from_f32(x)) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { simd.load_f16(src) }
    }

    #[inline(always)]
    unsafe fn load_pair<S: Simd>(simd: S, src: *const u8) -> (S::F32, S::F32) {
        // SAFETY: as the caller promises.
        unsafe {
            (
                simd.load_f16(src),
                simd.load_f16(src.add(S::LANES * Self::SIZE)),
            )
        }
    }
}

impl Element for bf16 {
    const SIZE: usize = 2;
    const ORDER: Order = Order::EvenOdd;

    #[inline(always)]
    unsafe fn read(src: *const u8) -> f32 {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<bf16>().read_unaligned() }.to_f32()
    }

    #[inline(always)]
    unsafe fn write(dst: *mut u8, x: f32) {
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<bf16>().write_unaligned(bf16::from_f32(x)) }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { simd.load_bf16(src) }
    }

    #[inline(always)]
    unsafe fn load_pair<S: Simd>(simd: S, src: *const u8) -> (S::F32, S::F32) {
        // SAFETY: as the caller promises.
        unsafe { simd.load_bf16_even_odd(src) }
    }
}

/// The [`Element`]s, as a value to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ElementType {
    F32,
    F16,
    Bf16,
}

impl ElementType {
    /// `None` for what is not computed with.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(ElementType::F32),
            DType::F16 => Some(ElementType::F16),
            DType::BF16 => Some(ElementType::Bf16),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub(crate) fn size(self) -> usize {
        match self {
            ElementType::F32 => f32::SIZE,
            ElementType::F16 => f16::SIZE,
            ElementType::Bf16 => bf16::SIZE,
        }
    }

    /// As [`Element::ORDER`].
    pub(crate) fn order(self) -> Order {
        match self {
            ElementType::F32 => f32::ORDER,
            ElementType::F16 => f16::ORDER,
            ElementType::Bf16 => bf16::ORDER,
        }
    }
}

/// Order in which registers full of a weight's elements come out of its bytes, and so the order of x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other.
    Straight,
    /// Of `2 · LANES`, those of even index before those of odd index.
    EvenOdd,
    /// Of `8 · LANES`, every eighth from the first on, then every eighth from the second on, and so forth.
    Eighths,
}

impl Order {
    pub(crate) const ALL: [Order; 3] = [Order::Straight, Order::EvenOdd, Order::Eighths];
}
