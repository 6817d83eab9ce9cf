//! Types whose blocks are decoded as `llm-quant` does: points of grids, and ternary numbers.

use llm_quant::GgmlType;

use super::{Block, Sink};
use crate::simd::FourBit;

/// A type with blocks of `LEN` elements.
#[derive(Clone, Copy)]
pub(super) struct Plain<const LEN: usize>(pub(super) GgmlType);

impl<const LEN: usize> Block for Plain<LEN> {
    const LEN: usize = LEN;
    const PART: usize = if LEN < 128 { LEN } else { 128 };
    type Opened = [f32; LEN];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        self.0.block_bytes()
    }

    #[inline(always)]
    fn open<S: FourBit>(self, _: S, block: &[u8]) -> [f32; LEN] {
        let mut values = [0.0; LEN];
        self.0.decode(block, &mut values);
        values
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        _: &[u8],
        values: &[f32; LEN],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        for at in (0..Self::PART).step_by(S::LANES) {
            sink.take(first, at, simd.get(values, part * Self::PART + at));
        }
    }
}
