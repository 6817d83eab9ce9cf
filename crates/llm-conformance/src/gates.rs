//! Clamped gates.

use std::sync::Arc;

use llm_backend::{Backend, Ops};
use llm_tensor::{ClampedGate, GateOrder};

use crate::case::{Case, EPS};
use crate::data::{Device, Random, WORKS};

/// Rows of features, in either order.
#[derive(Debug)]
pub(crate) struct ClampedCase {
    gate: ClampedGate,
    width: usize,
    n_tokens: usize,
    magnitude: f32,
    /// Every so many-th feature is not a number; 0 for none.
    nan_every: usize,
}

/// With what is added to the second feature.
pub(crate) fn clamped(added: f32) -> Vec<ClampedCase> {
    let mut cases = Vec::new();
    for order in [GateOrder::Halves, GateOrder::Pairs] {
        for (alpha, limit) in [(1.702, 7.0), (1.0, 0.5), (3.0, 1e3)] {
            for (i, (width, n_tokens)) in [(1, 1), (7, 3), (64, 2), (129, 100), (2053, 9)]
                .into_iter()
                .enumerate()
            {
                for magnitude in [1e-3, 1.0, 20.0] {
                    cases.push(ClampedCase {
                        gate: ClampedGate {
                            alpha,
                            limit,
                            added,
                            order,
                        },
                        width,
                        n_tokens,
                        magnitude,
                        nan_every: [0, 5][usize::from(i == 1)],
                    });
                }
            }
        }
    }
    cases
}

impl ClampedCase {
    fn input(&self) -> Vec<f32> {
        let n = 2 * self.n_tokens * self.width;
        let mut x = Random::new(23).values(n, self.magnitude);
        if self.nan_every > 0 {
            let flaws = x.iter_mut().step_by(self.nan_every);
            flaws.for_each(|x| *x = f32::NAN);
        }
        x
    }
}

impl Case for ClampedCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let x = device.buffer(&self.input());
        let n = self.n_tokens * self.width;
        let mut out = device.zeros(n);
        let gated =
            (device.queue).gate_clamped(&self.gate, &x, &mut out, self.width, self.n_tokens);
        gated.expect(WORKS);
        device.read(&out, n)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        let (alpha, limit) = (f64::from(self.gate.alpha), f64::from(self.gate.limit));
        let x = self.input();
        let rows = x.chunks_exact(2 * self.width);
        let features = rows.flat_map(|row| {
            let of = |i| {
                self.gate
                    .features(self.width, i)
                    .map(|at| f64::from(row[at]))
            };
            (0..self.width).map(of)
        });
        let bound = |[g, u]: [f64; 2]| {
            let (g, u) = (g.min(limit).abs(), u.abs().min(limit));
            // The exponent is rounded, and the exponential magnifies that; the sum with one rounds absolutely.
            let relative = EPS * (10.0 + 2.0 * alpha * g);
            let glu = g.min(g / (1.0 + (-alpha * g).exp()).max(1.0));
            relative * glu.max(g) * (u + 1.0) + f64::from(f32::MIN_POSITIVE)
        };
        features.map(bound).collect()
    }
}
