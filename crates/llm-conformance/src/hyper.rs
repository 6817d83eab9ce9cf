//! Weights of streams.

use std::sync::Arc;

use llm_backend::{Backend, Ops, StreamWeights, Streams};
use llm_tensor::DType;

use crate::case::{Case, EPS, sum_error};
use crate::data::{Device, Random, WORKS};

/// Rows of streams, and of products that their weights are made of.
#[derive(Debug)]
pub(crate) struct WeightsCase {
    n: usize,
    width: usize,
    n_rounds: usize,
    only_read: bool,
    dtype: DType,
    n_tokens: usize,
    /// Magnitude of streams, and of products by it.
    magnitude: f32,
}

pub(crate) fn cases() -> Vec<WeightsCase> {
    let mut cases = Vec::new();
    for (n, width) in [(4, 48), (3, 7), (1, 33), (8, 5), (2, 600)] {
        for n_tokens in [1, 5, 70] {
            for magnitude in [1.0, 30.0, 1e-4] {
                for only_read in [false, true] {
                    let i = cases.len();
                    cases.push(WeightsCase {
                        n,
                        width,
                        n_rounds: [20, 1, 4][i % 3],
                        only_read,
                        dtype: [DType::F32, DType::BF16][i / 2 % 2],
                        n_tokens,
                        magnitude,
                    });
                }
            }
        }
    }
    cases
}

impl Case for WeightsCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let (n, n_tokens) = (self.n, self.n_tokens);
        let (n_scales, n_weights) = match self.only_read {
            true => (1, n),
            false => (3, n * (2 + n)),
        };
        let (mut device, mut random) = (Device::new(backend), Random::new(43));
        let scale = device.load(random.weight(self.dtype, 1, n_scales));
        let base = device.load(random.weight(self.dtype, 1, n_weights));
        let s = random.values(n_tokens * n * self.width, self.magnitude);
        let products = random.values(n_tokens * n_weights, 2.0 * self.magnitude);
        let (s, mut weights) = (device.buffer(&s), device.buffer(&products));
        let op = StreamWeights {
            streams: Streams {
                n,
                width: self.width,
            },
            norm_eps: 1e-6,
            scale: &scale,
            base: &base,
            eps: 1e-6,
            n_rounds: self.n_rounds,
            only_read: self.only_read,
        };
        let weighed = (device.queue).weigh_streams(&op, &s, &mut weights, n_tokens);
        weighed.expect(WORKS);
        device.read(&weights, n_tokens * n_weights)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Arguments are below ten: products are a few times the root of the mean square. Each round divides by sums of a few numbers, and
        // brings their errors down as it brings the matrix to one that it would be brought to anyway.
        let argument = 10.0 * (sum_error(self.n * self.width) + 4.0 * EPS);
        let rounds = 2.0 * self.n_rounds as f64 * sum_error(self.n);
        vec![2.0 * argument + rounds + 16.0 * EPS; expected.len()]
    }
}
