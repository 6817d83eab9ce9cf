//! xIELU.

use std::sync::Arc;

use llm_backend::{Backend, Ops, Xielu};
use llm_tensor::DType;

use crate::case::{Case, EPS};
use crate::data::{Device, Random, WORKS, weight};

/// Features, on both sides of zero.
#[derive(Debug)]
pub(crate) struct XieluCase {
    /// `alpha_p`, `alpha_n`, `beta` and `eps`.
    numbers: [f32; 4],
    width: usize,
    n_tokens: usize,
    magnitude: f32,
    /// Every so many-th feature is not a number; 0 for none.
    nan_every: usize,
}

pub(crate) fn cases() -> Vec<XieluCase> {
    let mut cases = Vec::new();
    // As the layers begin, and as they may have become.
    for numbers in [[0.203, -1.05, 0.5, -1e-6], [3.5, 2.0, 0.25, -0.125]] {
        let sizes = [(1, 1), (7, 3), (64, 2), (129, 100), (2053, 9)];
        for (i, (width, n_tokens)) in sizes.into_iter().enumerate() {
            for magnitude in [1e-7, 1e-3, 1.0, 40.0] {
                cases.push(XieluCase {
                    numbers,
                    width,
                    n_tokens,
                    magnitude,
                    nan_every: [0, 5][usize::from(i == 1)],
                });
            }
        }
    }
    cases
}

impl XieluCase {
    fn input(&self) -> Vec<f32> {
        let n = self.n_tokens * self.width;
        let mut x = Random::new(41).values(n, self.magnitude);
        // Zeros are below, not above.
        x[0] = [0.0, -0.0][self.n_tokens % 2];
        if self.nan_every > 0 {
            let flaws = x.iter_mut().step_by(self.nan_every);
            flaws.for_each(|x| *x = f32::NAN);
        }
        x
    }
}

impl Case for XieluCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let dtypes = [DType::F32, DType::F32, DType::BF16, DType::F16];
        let mut numbers = dtypes.into_iter().zip(self.numbers);
        let numbers = [(); 4].map(|()| {
            let (dtype, number) = numbers.next().expect("four numbers");
            device.load(weight(dtype, 1, 1, &[number]))
        });
        let [alpha_p, alpha_n, beta, eps] = &numbers;
        let op = Xielu::<B> {
            alpha_p,
            alpha_n,
            beta,
            eps,
        };
        let mut x = device.buffer(&self.input());
        let activated = (device.queue).activate_xielu(&op, &mut x, self.width, self.n_tokens);
        activated.expect(WORKS);
        device.read(&x, self.n_tokens * self.width)
    }

    /// Terms are rounded each by itself, and below zero some cancel.
    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        let [alpha_p, alpha_n, beta, eps] = self.numbers.map(f64::from);
        let softplus = |x: f64| x.exp().ln_1p();
        let (above, below) = (softplus(alpha_p), beta + softplus(alpha_n));
        let bound = |x: f32| {
            let x = f64::from(x);
            let terms = match x > 0.0 {
                true => above * x * x,
                false => below * (2.0 * x.abs() + eps.abs()),
            };
            8.0 * EPS * (terms + beta * x.abs()) + f64::from(f32::MIN_POSITIVE)
        };
        self.input().into_iter().map(bound).collect()
    }
}
