//! Bounds of the machine, for benchmarks to hold the kernels against.

use std::hint::black_box;

use crate::Cpu;
use crate::simd::{Kernel, Simd};

impl Cpu {
    /// Reads `bytes` once, all threads together, as fast as loads with software prefetch can.
    pub fn read_through(&self, bytes: &[u8]) {
        let n_units = bytes.len().div_ceil(UNIT_BYTES);
        self.pool.split(n_units, 1, (), |units, ()| {
            let end = bytes.len().min(units.end * UNIT_BYTES);
            let mut sum = 0.0;
            self.level.run(Read {
                bytes: &bytes[units.start * UNIT_BYTES..end],
                sum: &mut sum,
            });
            black_box(sum);
        });
    }

    /// Does nothing but multiply and add in registers, on all threads; returns the number of floating-point
    /// operations.
    pub fn multiply_add(&self, n_steps: usize) -> u64 {
        self.pool.run(&|_| {
            let mut sum = 0.0;
            self.level.run(MultiplyAdd {
                n_steps,
                sum: &mut sum,
            });
            black_box(sum);
        });
        let n_lanes = self.level.geometry().lanes * CHAINS * self.n_threads();
        2 * (n_steps * n_lanes) as u64
    }
}

struct Read<'a> {
    bytes: &'a [u8],
    sum: &'a mut f32,
}

impl Kernel for Read<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat(0.0); 4];
        for lines in self.bytes.chunks_exact(256) {
            for line in lines.chunks_exact(64) {
                simd.prefetch(line.as_ptr().wrapping_add(4096));
                for (i, words) in line.chunks_exact(4 * S::LANES).enumerate() {
                    // SAFETY: a chunk is a register's size.
                    let x = unsafe { simd.load(words.as_ptr().cast()) };
                    sums[i % 4] = simd.add(sums[i % 4], x);
                }
            }
        }
        for sum in sums {
            *self.sum += simd.reduce_add(sum);
        }
    }
}

struct MultiplyAdd<'a> {
    n_steps: usize,
    sum: &'a mut f32,
}

impl Kernel for MultiplyAdd<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat(0.0); CHAINS];
        let (a, b) = (black_box(0.5), black_box(0.25));
        let (a, b) = (simd.splat(a), simd.splat(b));
        for _ in 0..self.n_steps {
            for sum in &mut sums {
                *sum = simd.fma(a, *sum, b);
            }
        }
        for sum in sums {
            *self.sum += simd.reduce_add(sum);
        }
    }
}

/// Unit of the split among threads.
const UNIT_BYTES: usize = 1 << 16;
/// Independent sums: enough to hide an instruction's latency, few enough for sixteen registers.
const CHAINS: usize = 10;
