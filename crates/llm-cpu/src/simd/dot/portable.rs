use half::f16;

use super::{DotKernel, DotSimd, Eight, GROUPS};
use crate::simd::Portable;

/// Lanes: four codes each.
const LANES: usize = 8;

impl DotSimd for Portable {
    type Codes = [u8; 32];
    type Sums = [i32; LANES];
    type F32 = [f32; LANES];
    const TOKENS: usize = 1;

    fn enter_dot<K: DotKernel>(self, kernel: K) {
        kernel.run(self);
    }

    #[inline(always)]
    unsafe fn load(self, src: *const u8) -> [u8; 32] {
        // SAFETY: as the caller promises.
        unsafe { src.cast::<[u8; 32]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8, codes: [u8; 32]) {
        // SAFETY: as the caller promises.
        unsafe { dst.cast::<[u8; 32]>().write_unaligned(codes) }
    }

    #[inline(always)]
    unsafe fn load_nibbles(self, src: *const u8) -> [u8; 32] {
        // SAFETY: as the caller promises.
        let bytes = unsafe { src.cast::<[u8; 16]>().read_unaligned() };
        std::array::from_fn(|i| bytes[i % 16] >> (i / 16 * 4) & 15)
    }

    #[inline(always)]
    fn field(self, codes: [u8; 32], shift: u32, mask: u8) -> [u8; 32] {
        codes.map(|code| code >> shift & mask)
    }

    #[inline(always)]
    fn lifted(self, codes: [u8; 32], shift: u32, mask: u8) -> [u8; 32] {
        codes.map(|code| code << shift & mask)
    }

    #[inline(always)]
    fn or(self, a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn where_set(self, bits: u32, value: u8) -> [u8; 32] {
        std::array::from_fn(|i| (bits >> i & 1) as u8 * value)
    }

    #[inline(always)]
    fn choose(self, table: &[u8; 16], codes: [u8; 32]) -> [u8; 32] {
        codes.map(|code| table[usize::from(code) % 16])
    }

    #[inline(always)]
    fn none(self) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn less(self, x: [u8; 32], offset: u8) -> [i32; LANES] {
        self.multiply([offset; 32], x, [0; LANES]).map(|sum| -sum)
    }

    #[inline(always)]
    fn multiply(self, w: [u8; 32], x: [u8; 32], sums: [i32; LANES]) -> [i32; LANES] {
        self.multiply_signed(w, x, sums)
    }

    #[inline(always)]
    fn begin_signed(self, _: [u8; 32]) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn multiply_signed(self, w: [u8; 32], x: [u8; 32], mut sums: [i32; LANES]) -> [i32; LANES] {
        for (lane, sum) in sums.iter_mut().enumerate() {
            for i in 4 * lane..4 * lane + 4 {
                *sum += i32::from(w[i] as i8) * i32::from(x[i] as i8);
            }
        }
        sums
    }

    #[inline(always)]
    fn one_rank_up(self, sums: [i32; LANES]) -> [i32; LANES] {
        sums.map(|sum| sum << 8)
    }

    #[inline(always)]
    fn sub_sums(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| a[lane] - b[lane])
    }

    #[inline(always)]
    fn zero(self) -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    fn add_scaled(self, sums: [i32; LANES], scale: f32, to: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| to[i] + sums[i] as f32 * scale)
    }

    #[inline(always)]
    fn add_halves(self, sums: [i32; LANES], scales: [f32; 2], to: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| to[i] + sums[i] as f32 * scales[2 * i / LANES])
    }

    #[inline(always)]
    fn subtract_product(
        self,
        a: [f32; LANES],
        b: [f32; LANES],
        from: [f32; LANES],
    ) -> [f32; LANES] {
        std::array::from_fn(|i| from[i] - a[i] * b[i])
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn get(self, numbers: &[f32; GROUPS]) -> [f32; LANES] {
        *numbers
    }

    #[inline(always)]
    fn put(self, numbers: &mut Eight, x: [f32; LANES]) {
        numbers.0 = x;
    }

    #[inline(always)]
    fn of_f16(self, bits: [u16; GROUPS]) -> [f32; LANES] {
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> [f32; LANES] {
        [f16::from_bits(bits).to_f32(); LANES]
    }

    #[inline(always)]
    fn of_bytes(self, bytes: [u8; GROUPS]) -> [f32; LANES] {
        bytes.map(f32::from)
    }

    #[inline(always)]
    fn of_pairs(self, bytes: [u8; 2 * GROUPS]) -> [[f32; LANES]; 2] {
        [0, 1].map(|odd| std::array::from_fn(|i| f32::from(bytes[2 * i + odd] as i8)))
    }

    #[inline(always)]
    fn half_powers(self, exponents: [u8; GROUPS]) -> [f32; LANES] {
        exponents.map(|exponent| {
            let exponent = u32::from(exponent);
            f32::from_bits(if exponent < 2 {
                0x0020_0000 << exponent
            } else {
                (exponent - 1) << 23
            })
        })
    }

    #[inline(always)]
    fn reduce(self, sums: [f32; LANES]) -> f32 {
        sums.iter().sum()
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
