use super::IntSimd;
use crate::simd::Portable;

/// Codes in what stands for a register.
const N: usize = 8;

impl IntSimd for Portable {
    type Codes = [i16; N];
    type Sums = [i32; N / 2];
    const STEP: usize = N;
    const CODE_BYTES: usize = 2;
    const OFFSET: i32 = 0;
    const TILE_TOKENS: usize = 1;

    #[inline(always)]
    fn zero(self) -> [i32; N / 2] {
        [0; N / 2]
    }

    #[inline(always)]
    fn multiply_add(self, w: [i16; N], x: [i16; N], mut sums: [i32; N / 2]) -> [i32; N / 2] {
        for (i, sum) in sums.iter_mut().enumerate() {
            let product = |i: usize| i32::from(w[i]) * i32::from(x[i]);
            *sum += product(2 * i) + product(2 * i + 1);
        }
        sums
    }

    #[inline(always)]
    fn reduce(self, sums: [i32; N / 2]) -> i32 {
        sums.iter().sum()
    }

    #[inline(always)]
    fn reduce_8(self, sums: [[i32; N / 2]; 8]) -> [i32; 8] {
        sums.map(|sums| self.reduce(sums))
    }

    #[inline(always)]
    unsafe fn weights(self, src: *const u8) -> [i16; N] {
        // SAFETY: as the caller promises.
        unsafe { self.activations(src.cast()) }
    }

    #[inline(always)]
    unsafe fn activations(self, src: *const i8) -> [i16; N] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[i8; N]>().read_unaligned() }.map(i16::from)
    }

    #[inline(always)]
    unsafe fn load(self, src: *const u8) -> [i16; N] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[i16; N]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8, codes: [i16; N]) {
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<[i16; N]>().write_unaligned(codes) }
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
