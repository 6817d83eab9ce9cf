//! Rows of x in the order in which a product with few of them reads them.

use crate::simd::{FourBit, Kernel, Order};

/// Brings rows of `x` into an order.
pub(crate) struct Arrange<'a> {
    pub(crate) order: Order,
    /// `[n_tokens, cols]`.
    pub(crate) x: &'a [f32],
    pub(crate) cols: usize,
    /// `[n_tokens, padded_cols]`: zeros beyond the columns.
    pub(crate) arranged: &'a mut [f32],
    /// A multiple of `8 · LANES`.
    pub(crate) padded_cols: usize,
}

impl Kernel for Arrange<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        for (x, arranged) in self
            .x
            .chunks_exact(self.cols)
            .zip(self.arranged.chunks_exact_mut(self.padded_cols))
        {
            let (values, zeros) = arranged.split_at_mut(self.cols);
            values.copy_from_slice(x);
            zeros.fill(0.0);
            match self.order {
                Order::Straight => {}
                Order::EvenOdd => {
                    for step in arranged.chunks_exact_mut(2 * S::LANES) {
                        split::<S, 2>(simd, step);
                    }
                }
                Order::Eighths => {
                    for step in arranged.chunks_exact_mut(8 * S::LANES) {
                        split::<S, 8>(simd, step);
                    }
                }
            }
        }
    }
}

/// Brings `N` registers, a power of two, into the order of every `N`th element from the first on, and so forth.
#[inline(always)]
fn split<S: FourBit, const N: usize>(simd: S, step: &mut [f32]) {
    let mut registers = [simd.splat(0.0); N];
    for (i, register) in registers.iter_mut().enumerate() {
        *register = simd.get(step, i * S::LANES);
    }
    // Each round sends elements of even index to the first half, so that after log2(N) of them a register's number is
    // the index modulo N.
    for _ in 0..N.ilog2() {
        let pairs = registers;
        for i in 0..N / 2 {
            let (even, odd) = simd.deinterleave(pairs[2 * i], pairs[2 * i + 1]);
            (registers[i], registers[N / 2 + i]) = (even, odd);
        }
    }
    for (i, register) in registers.into_iter().enumerate() {
        simd.put(step, i * S::LANES, register);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::isa::Level;

    #[test]
    fn orders_are_what_they_are_called() {
        for level in Isa::ALL.into_iter().filter_map(Level::new) {
            let lanes = level.geometry().lanes;
            let (cols, padded_cols) = (9 * lanes + 3, 16 * lanes);
            let x: Vec<f32> = (0..2 * cols).map(|i| 1.0 + i as f32).collect();
            for (order, n) in Order::ALL.into_iter().zip([1, 2, 8]) {
                let mut arranged = vec![f32::NAN; 2 * padded_cols];
                level.run(Arrange {
                    order,
                    x: &x,
                    cols,
                    arranged: &mut arranged,
                    padded_cols,
                });
                for (i, &found) in arranged.iter().enumerate() {
                    let (token, column) = (i / padded_cols, i % padded_cols);
                    let (step, within) = (column / (n * lanes), column % (n * lanes));
                    let source = step * n * lanes + within % lanes * n + within / lanes;
                    let expected = x[token * cols..][..cols].get(source).copied();
                    assert_eq!(found, expected.unwrap_or(0.0), "{order:?} {i}");
                }
            }
        }
    }
}
