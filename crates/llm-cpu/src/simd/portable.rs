use half::f16;

use super::{Kernel, Simd};

/// Plain loops, compiled; multiplies and adds in two roundings, as not every processor can in one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

/// f32 in what stands for a register.
const N: usize = 8;

#[inline(always)]
fn each(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F32 = [f32; N];
    const LANES: usize = N;
    const IS_PORTABLE: bool = true;
    const TILE_ROWS: usize = 2;
    const TILE_VECTORS: usize = 2;

    fn enter<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; N] {
        [x; N]
    }

    #[inline(always)]
    fn add(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: [f32; N], b: [f32; N]) -> [f32; N] {
        each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn fma(self, a: [f32; N], b: [f32; N], c: [f32; N]) -> [f32; N] {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn round(self, x: [f32; N]) -> [f32; N] {
        // Adding and subtracting 2²³ leaves no bits for a fraction; good for |x| < 2²³.
        const SHIFT: f32 = 8_388_608.0;
        x.map(|x| {
            let shift = SHIFT.copysign(x);
            (x + shift) - shift
        })
    }

    #[inline(always)]
    fn scale(self, x: [f32; N], n: [f32; N]) -> [f32; N] {
        // In two steps, for 2^n alone may leave the range of normal numbers where x · 2^n does not.
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        each(x, n, |x, n| {
            let n = n as i32;
            x * power(n >> 1) * power(n - (n >> 1))
        })
    }

    #[inline(always)]
    fn where_negative(self, x: [f32; N], a: [f32; N], b: [f32; N]) -> [f32; N] {
        std::array::from_fn(|i| if x[i] < 0.0 { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn through_f16(self, x: [f32; N]) -> [f32; N] {
        x.map(|x| f16::from_f32(x).to_f32())
    }

    #[inline(always)]
    fn max_magnitude(self, a: [f32; N], x: [f32; N]) -> [f32; N] {
        // Magnitudes are in the order of their bits.
        each(a, x, |a, x| {
            f32::from_bits(a.to_bits().max(x.abs().to_bits()))
        })
    }

    #[inline(always)]
    fn reduce_add(self, x: [f32; N]) -> f32 {
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    #[inline(always)]
    fn reduce_max(self, x: [f32; N]) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn load(self, src: *const f32) -> [f32; N] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[f32; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_part(self, src: *const f32, n: usize) -> [f32; N] {
        let mut x = [0.0; N];
        let n_bytes = n.min(N) * size_of::<f32>();
        // SAFETY: as the caller promises; bytes need no alignment.
        unsafe { std::ptr::copy_nonoverlapping(src.cast(), x.as_mut_ptr().cast::<u8>(), n_bytes) };
        x
    }

    #[inline(always)]
    unsafe fn load_f16(self, src: *const u8) -> [f32; N] {
        // SAFETY: as the caller promises.
        let bits = unsafe { src.cast::<[u16; N]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, src: *const u8) -> [f32; N] {
        // SAFETY: as the caller promises.
        let bits = unsafe { src.cast::<[u16; N]>().read_unaligned() };
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[inline(always)]
    unsafe fn load_bf16_even_odd(self, src: *const u8) -> ([f32; N], [f32; N]) {
        // SAFETY: as the caller promises.
        let pairs = unsafe { src.cast::<[u32; N]>().read_unaligned() };
        (
            pairs.map(|pair| f32::from_bits(pair << 16)),
            pairs.map(|pair| f32::from_bits(pair & 0xffff_0000)),
        )
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut f32, x: [f32; N]) {
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<[f32; N]>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut f32, x: [f32; N], n: usize) {
        // SAFETY: as the caller promises.
        unsafe { std::ptr::copy_nonoverlapping(x.as_ptr(), dst, n.min(N)) };
    }

    #[inline(always)]
    unsafe fn store_codes(self, dst: *mut i8, x: [f32; N]) {
        let codes = x.map(|x| x.round_ties_even() as i32 as i8);
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<[i8; N]>().write_unaligned(codes) }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, dst: *mut f32, dst_stride: usize) {
        for row in 0..N {
            for column in 0..N {
                // SAFETY: as the caller promises.
                unsafe { *dst.add(column * dst_stride + row) = *src.add(row * N + column) };
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
