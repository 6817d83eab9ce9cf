//! Values one after the other, from any element on.

use super::{AbsmaxView, FourBitView, Scales};
use crate::simd::{FourBit, Kernel};

/// Decodes elements, counted row by row.
pub(crate) struct Decode<'a> {
    pub(crate) weight: FourBitView<'a>,
    pub(crate) first: usize,
    /// As many as are decoded.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        self.weight.decode(simd, self.first, self.out);
    }
}

impl FourBitView<'_> {
    /// Writes elements from `first` on, counted row by row, to `out`: the exact products, rounded once.
    ///
    /// # Panics
    /// When they leave the matrix.
    #[inline(always)]
    pub(crate) fn decode<S: FourBit>(&self, simd: S, first: usize, out: &mut [f32]) {
        match self.absmax {
            AbsmaxView::Plain(scales) => self.decode_with(simd, scales, first, out),
            AbsmaxView::Double(scales) => self.decode_with(simd, scales, first, out),
        }
    }

    #[inline(always)]
    fn decode_with<S: FourBit>(&self, simd: S, scales: impl Scales, first: usize, out: &mut [f32]) {
        assert!(
            first + out.len() <= self.rows * self.cols,
            "{} elements from {first} on within the matrix",
            out.len()
        );
        let table = simd.table(self.table);
        let mut at = 0;
        while at < out.len() {
            let element = first + at;
            let block = element >> self.block_bits;
            let rest = ((block + 1) << self.block_bits) - element;
            let end = out.len().min(at + rest);
            let scale = scales.at(block);
            self.decode_block(simd, table, scale, element, &mut out[at..end]);
            at = end;
        }
    }

    /// Elements of one block.
    #[inline(always)]
    fn decode_block<S: FourBit>(
        &self,
        simd: S,
        table: S::Table,
        scale: f32,
        first: usize,
        out: &mut [f32],
    ) {
        let one = |element: usize| {
            let byte = self.packed[element / 2];
            let code = if element.is_multiple_of(2) {
                byte >> 4
            } else {
                byte & 15
            };
            self.table[usize::from(code)] * scale
        };
        // Up to the first whole byte.
        let (odd, out) = out.split_at_mut((first % 2).min(out.len()));
        odd.iter_mut().for_each(|out| *out = one(first));
        let first = first + odd.len();
        let mut registers = out.chunks_exact_mut(S::LANES);
        let mut element = first;
        for out in &mut registers {
            let bytes = &self.packed[element / 2..][..S::LANES / 2];
            // SAFETY: as many bytes as half the lanes.
            let values = unsafe { simd.look_up(table, bytes.as_ptr()) };
            simd.put(out, 0, simd.mul(values, simd.splat(scale)));
            element += S::LANES;
        }
        for (i, out) in registers.into_remainder().iter_mut().enumerate() {
            *out = one(element + i);
        }
    }
}
