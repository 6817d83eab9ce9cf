//! Clamped gates.

use llm_tensor::{ClampedGate, GateOrder};

use crate::math::clamped;
use crate::simd::{Kernel, Simd};

/// The clamped gate of a row.
pub(crate) struct Clamped<'a> {
    pub(crate) gate: ClampedGate,
    /// `[2 · width]`, features in the gate's order.
    pub(crate) row: &'a [f32],
    /// `[width]`.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Clamped<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.gate.order {
            GateOrder::Halves => {
                let (g, u) = self.row.split_at(self.out.len());
                clamped_all(simd, &self.gate, (g, u), self.out);
            }
            GateOrder::Pairs => {
                let pairs = self.row.as_chunks::<2>().0;
                for (pairs, out) in pairs.chunks(APART).zip(self.out.chunks_mut(APART)) {
                    let (mut g, mut u) = ([0.0; APART], [0.0; APART]);
                    for (pair, (g, u)) in pairs.iter().zip(g.iter_mut().zip(&mut u)) {
                        [*g, *u] = *pair;
                    }
                    let n = out.len();
                    clamped_all(simd, &self.gate, (&g[..n], &u[..n]), out);
                }
            }
        }
    }
}

/// Pairs that are taken apart at once.
const APART: usize = 64;

#[inline(always)]
fn clamped_all<S: Simd>(simd: S, gate: &ClampedGate, (g, u): (&[f32], &[f32]), out: &mut [f32]) {
    for at in (0..out.len()).step_by(S::LANES) {
        let y = clamped(simd, gate, simd.get(g, at), simd.get(u, at));
        simd.put(out, at, y);
    }
}
