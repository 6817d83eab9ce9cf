use std::sync::Arc;

use llm_backend::{Backend, Ops, StateSpace, Steps};
use llm_tensor::DType;

use crate::case::{Case, sum_error};
use crate::data::{Device, Random, WORKS, weight};
use crate::states::{self, Passes, n_positions, over_passes, passes};

/// A state space over sequences that are cut into passes.
#[derive(Debug)]
pub(crate) struct SpaceCase {
    n_heads: usize,
    n_groups: usize,
    /// Of a head, and of what states are written by.
    dims: [usize; 2],
    passes: Passes,
    steps: StepSizes,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum StepSizes {
    Usual,
    /// Bounded on both sides.
    Clamped,
    /// That forget all or nothing.
    Extreme,
}

pub(crate) fn cases() -> Vec<SpaceCase> {
    let shapes = [
        (1, 1, [1, 1]),
        (4, 2, [8, 16]),
        (3, 1, [24, 64]),
        (2, 2, [64, 128]),
        (2, 1, [70, 37]),
        (2, 1, [40, 256]),
    ];
    let mut cases = Vec::new();
    for (n_heads, n_groups, dims) in shapes {
        for passes in passes() {
            for steps in [StepSizes::Usual, StepSizes::Clamped, StepSizes::Extreme] {
                cases.push(SpaceCase {
                    n_heads,
                    n_groups,
                    dims,
                    passes: passes.clone(),
                    steps,
                });
            }
        }
    }
    cases
}

/// The same prompts, cut in other ways: a backend's results may differ by roundings alone.
pub(crate) fn cuts() -> [SpaceCase; 3] {
    states::cuts().map(|passes| SpaceCase {
        n_heads: 4,
        n_groups: 2,
        dims: [40, 32],
        passes,
        steps: StepSizes::Usual,
    })
}

impl Case for SpaceCase {
    /// Results of each sequence's positions, one after the other, and the states.
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let [head_dim, state_dim] = self.dims;
        let n_heads = self.n_heads;
        let mut device = Device::new(backend);
        let mut random = Random::new(24);
        let rate = weight(DType::F32, 1, n_heads, &random.values(n_heads, 1.5));
        let offset = weight(DType::BF16, 1, n_heads, &random.values(n_heads, 1.0));
        let skip = weight(DType::F16, 1, n_heads, &random.values(n_heads, 1.0));
        let [rate, offset, skip] = [rate, offset, skip].map(|vector| device.load(vector));
        let (magnitude, limits) = match self.steps {
            StepSizes::Usual => (1.0, [0.0, f32::INFINITY]),
            StepSizes::Clamped => (2.0, [0.25, 0.75]),
            StepSizes::Extreme => (150.0, [0.0, 100.0]),
        };
        let op = StateSpace::<B> {
            n_heads,
            head_dim,
            state_dim,
            n_groups: self.n_groups,
            rate: &rate,
            offset: &offset,
            skip: &skip,
            steps: Steps {
                first: 3,
                row_width: 3 + n_heads + 2,
                limits,
            },
        };
        let n = n_positions(&self.passes);
        let mut values = |n, magnitude| -> Vec<_> {
            let sequences = 0..self.passes[0].len();
            let values = sequences.map(|_| random.values(n, magnitude));
            values.collect()
        };
        let x = values(n * op.row_width(), 1.0);
        let steps = values(n * op.steps.row_width, magnitude);
        over_passes(
            &mut device,
            &self.passes,
            [(&x, op.row_width()), (&steps, op.steps.row_width)],
            (op.state_elements(), op.out_width()),
            |queue, ([x, steps], batch, state, out)| {
                let done = queue.state_space(&op, (x, steps), batch, state, out);
                done.expect(WORKS);
            },
        )
    }

    /// What a state keeps fades, by factors that are off by a few roundings of their exponents, so that errors add up over
    /// positions at most; a result's are those of a sum over a state.
    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let largest = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        let n = n_positions(&self.passes) as f64;
        let bound = sum_error(self.dims[1]) * (4.0 + n.sqrt()) * f64::from(largest);
        vec![bound; expected.len()]
    }
}
