use std::sync::Arc;

use llm_tensor::{Activation, DType, Pairing};

use crate::case::{Case, EPS};
use crate::data::{DTYPES, Device, Random, WORKS};
use llm_backend::{Backend, Ops, Rotary, Run};

/// An activation, in place and as a gate.
#[derive(Debug)]
pub(crate) struct ActivationCase {
    activation: Activation,
    width: usize,
    n_tokens: usize,
    input: Input,
}

#[derive(Debug, Clone, Copy)]
enum Input {
    /// Numbers up to this magnitude.
    Within(f32),
    /// Zeros, subnormals, the largest numbers, infinities.
    Special,
    /// Not a number, here and there.
    WithNan,
}

pub(crate) fn activations() -> Vec<ActivationCase> {
    let mut cases = Vec::new();
    for activation in [
        Activation::Relu,
        Activation::ReluSquared,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
    ] {
        for (width, n_tokens) in [(1, 1), (7, 3), (64, 2), (129, 100), (2053, 9)] {
            for magnitude in [1e-3, 1.0, 8.0, 100.0, 1e4] {
                cases.push(ActivationCase {
                    activation,
                    width,
                    n_tokens,
                    input: Input::Within(magnitude),
                });
            }
        }
        cases.push(ActivationCase {
            activation,
            width: 9,
            n_tokens: 2,
            input: Input::Special,
        });
        // Whether max(0, NaN) is NaN differs among processors.
        if !matches!(activation, Activation::Relu | Activation::ReluSquared) {
            cases.push(ActivationCase {
                activation,
                width: 37,
                n_tokens: 2,
                input: Input::WithNan,
            });
        }
    }
    cases
}

impl ActivationCase {
    /// `[n_tokens, gate | up]`.
    fn input(&self) -> Vec<f32> {
        let n = 2 * self.n_tokens * self.width;
        let mut random = Random::new(4);
        match self.input {
            Input::Within(magnitude) => random.values(n, magnitude),
            Input::Special => {
                let special = [
                    0.0,
                    -0.0,
                    1e-45,
                    -1e-45,
                    f32::MIN_POSITIVE,
                    f32::MAX,
                    f32::MIN,
                    1e20,
                    -1e20,
                ];
                // The other factor is one, for zero times infinity is no number.
                let ones = [1.0; 9];
                special.into_iter().chain(ones).cycle().take(n).collect()
            }
            Input::WithNan => {
                let mut x = random.values(n, 1.0);
                x.iter_mut().step_by(5).for_each(|x| *x = f32::NAN);
                x
            }
        }
    }
}

impl Case for ActivationCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let x = self.input();
        let mut on_device = device.buffer(&x);
        let n = self.n_tokens * self.width;
        let mut gated = device.zeros(n);
        device
            .queue
            .gate(
                self.activation,
                &on_device,
                &mut gated,
                self.width,
                self.n_tokens,
            )
            .expect(WORKS);
        device
            .queue
            .activate(
                self.activation,
                &mut on_device,
                2 * self.width,
                self.n_tokens,
            )
            .expect(WORKS);
        let mut results = device.read(&gated, n);
        results.extend(device.read(&on_device, x.len()));
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let x = self.input();
        let gates = x.chunks_exact(2 * self.width).flat_map(|row| {
            let (gate, up) = row.split_at(self.width);
            gate.iter().zip(up).map(|(&gate, &up)| (gate, up))
        });
        gates
            .chain(x.iter().map(|&x| (x, 1.0)))
            .zip(expected)
            .map(|((x, factor), &expected)| {
                let (x, factor) = (f64::from(x), f64::from(factor).abs());
                let expected = f64::from(expected).abs();
                // Below the normal numbers precision ends, of the factor of x as of the result.
                let least = f64::from(f32::MIN_POSITIVE) * (1.0 + x.abs()) * (1.0 + factor);
                least
                    + match self.activation {
                        Activation::Relu => EPS * expected,
                        Activation::ReluSquared => 4.0 * EPS * expected,
                        // The error function is precise absolutely, not where it vanishes.
                        Activation::Gelu => 4.0 * EPS * x.abs() * factor,
                        // The exponent is rounded a few times, and the exponential magnifies that.
                        Activation::GeluTanh => {
                            let exponent = 1.6 * (x + 0.044715 * x * x * x).abs();
                            // The reference adds the tangent to one, in f64.
                            let of_reference = f64::EPSILON * x.abs() * factor;
                            EPS * (8.0 + 4.0 * exponent) * expected + of_reference
                        }
                        Activation::Silu => 8.0 * EPS * expected,
                    }
            })
            .collect()
    }
}

/// Rotary positions of the leading heads of rows.
#[derive(Debug)]
pub(crate) struct RotaryCase {
    op: Rotary,
    n_tokens: usize,
}

pub(crate) fn rotations() -> Vec<RotaryCase> {
    let mut cases = Vec::new();
    for pairing in [Pairing::Adjacent, Pairing::Halves] {
        for (n_heads, head_dim, first, rotary_dim) in [
            (1, 2, 0, 2),
            (3, 12, 0, 12),
            (4, 64, 0, 64),
            (2, 80, 0, 32),
            (5, 96, 0, 24),
            (3, 128, 0, 128),
            (2, 256, 0, 64),
            (2, 20, 0, 6),
            (1, 576, 512, 64),
            (3, 192, 128, 64),
            (4, 20, 12, 8),
            (2, 19, 7, 10),
        ] {
            for n_tokens in [1, 2, 33, 100] {
                cases.push(RotaryCase {
                    op: Rotary {
                        n_heads,
                        head_dim,
                        first,
                        rotary_dim,
                        pairing,
                        row_width: (n_heads + 1) * head_dim,
                    },
                    n_tokens,
                });
            }
        }
    }
    cases
}

impl RotaryCase {
    fn x(&self) -> Vec<f32> {
        Random::new(5).values(self.n_tokens * self.op.row_width, 2.0)
    }
}

impl Case for RotaryCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let half = self.op.rotary_dim / 2;
        let mut angles = Vec::new();
        for token in 0..self.n_tokens {
            let angle = |i: usize| (token * 7 + 1) as f32 / (i + 1) as f32;
            angles.extend((0..half).map(|i| angle(i).cos()));
            angles.extend((0..half).map(|i| angle(i).sin()));
        }
        let x = self.x();
        let angles = device.buffer(&angles);
        let mut on_device = device.buffer(&x);
        device
            .queue
            .rotate(&self.op, &angles, &mut on_device, self.n_tokens)
            .expect(WORKS);
        device.read(&on_device, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Two products of factors up to 2 and 1, and their sum; what is not turned stays as it is.
        let turned = |i: usize| {
            let at = i % self.op.row_width;
            let turned = self.op.first..self.op.first + self.op.rotary_dim;
            at < self.op.n_heads * self.op.head_dim && turned.contains(&(at % self.op.head_dim))
        };
        (0..expected.len())
            .map(|i| if turned(i) { 4.0 * EPS } else { 0.0 })
            .collect()
    }
}

/// Rows added to rows.
#[derive(Debug)]
pub(crate) struct SumCase {
    width: usize,
    n_tokens: usize,
}

pub(crate) fn sums() -> Vec<SumCase> {
    let mut cases = Vec::new();
    for width in [1, 7, 16, 33, 576, 3000] {
        for n_tokens in [1, 3, 5, 40] {
            cases.push(SumCase { width, n_tokens });
        }
    }
    cases
}

impl Case for SumCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let mut random = Random::new(9);
        let n = self.n_tokens * self.width;
        let mut x = device.buffer(&random.values(n, 2.0));
        let y = device.buffer(&random.values(n, 2.0));
        device
            .queue
            .add(&y, &mut x, self.width, self.n_tokens)
            .expect(WORKS);
        device.read(&x, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // A sum of two is rounded once anywhere.
        vec![0.0; expected.len()]
    }
}

/// Rows whose columns are multiplied by runs; each product is rounded once anywhere.
#[derive(Debug)]
pub(crate) struct ScaleCase {
    /// Columns and factors.
    runs: Vec<(usize, f32)>,
    n_tokens: usize,
}

pub(crate) fn scales() -> Vec<ScaleCase> {
    let runs: [&[(usize, f32)]; 6] = [
        &[(1, 3.0)],
        &[(7, 0.3)],
        &[(300, 1.0), (300, -0.7)],
        &[(1, 0.1), (2, 1.0), (253, 1e-3), (1, 7.0), (1030, 0.9)],
        &[(64, 0.0)],
        &[(33, 0.0), (32, 0.25), (500, 0.0)],
    ];
    let case = |runs: &[(usize, f32)], n_tokens| ScaleCase {
        runs: runs.to_vec(),
        n_tokens,
    };
    let of_runs = |runs| [1, 3, 40].map(|n_tokens| case(runs, n_tokens));
    runs.into_iter().flat_map(of_runs).collect()
}

impl Case for ScaleCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let run = |&(n_columns, factor)| Run { n_columns, factor };
        let runs: Vec<_> = self.runs.iter().map(run).collect();
        let width = Run::width(&runs);
        let mut x = Random::new(29).values((self.n_tokens + 1) * width, 2.0);
        // What zeros replace may be no number.
        if runs[0].factor == 0.0 {
            x[0] = f32::NAN;
        }
        let mut x = device.buffer(&x);
        device
            .queue
            .scale(&runs, &mut x, self.n_tokens)
            .expect(WORKS);
        // The row behind those that are named stays.
        device.read(&x, (self.n_tokens + 1) * width)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        vec![0.0; expected.len()]
    }
}

/// Rows times the element of a weight, or each column times its own.
#[derive(Debug)]
pub(crate) struct ProductCase {
    width: usize,
    n_tokens: usize,
    /// Elements of the weight.
    n_factors: usize,
    /// Element type of the weight.
    dtype: DType,
}

pub(crate) fn products() -> Vec<ProductCase> {
    let mut cases = Vec::new();
    for (i, width) in [1, 7, 16, 33, 576, 3000].into_iter().enumerate() {
        for n_tokens in [1, 3, 40] {
            let dtype = DTYPES[i % 3];
            cases.extend([1, width].map(|n_factors| ProductCase {
                width,
                n_tokens,
                n_factors,
                dtype,
            }));
        }
    }
    cases
}

impl Case for ProductCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let mut random = Random::new(23);
        let by = device.load(random.weight(self.dtype, 1, self.n_factors));
        let n = self.n_tokens * self.width;
        let mut x = device.buffer(&random.values(n, 2.0));
        let product = device
            .queue
            .scale_by(&by, &mut x, self.width, self.n_tokens);
        product.expect(WORKS);
        device.read(&x, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let bound = |&product: &f32| EPS * f64::from(product).abs();
        expected.iter().map(bound).collect()
    }
}

/// A sum of rows and others times the sigmoids of their gates.
#[derive(Debug)]
pub(crate) struct GatedSumCase {
    width: usize,
    n_tokens: usize,
    /// Of gates.
    magnitude: f32,
}

pub(crate) fn gated_sums() -> Vec<GatedSumCase> {
    let mut cases = Vec::new();
    for width in [1, 7, 16, 33, 576, 3000] {
        for n_tokens in [1, 3, 40] {
            cases.push(GatedSumCase {
                width,
                n_tokens,
                magnitude: [1.0, 20.0, 1e4][cases.len() % 3],
            });
        }
    }
    cases
}

impl Case for GatedSumCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let mut random = Random::new(19);
        let n = self.n_tokens * self.width;
        let mut x = device.buffer(&random.values(n, 2.0));
        let y = device.buffer(&random.values(n, 2.0));
        let gates = device.buffer(&random.values(self.n_tokens, self.magnitude));
        let sum = device
            .queue
            .add_gated(&gates, &y, &mut x, self.width, self.n_tokens);
        sum.expect(WORKS);
        device.read(&x, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // The exponential, its sum with one and the quotient, times at most two; then the sum.
        let bound = |&sum: &f32| EPS * (2.0 * 6.0 + 2.0 + f64::from(sum).abs());
        expected.iter().map(bound).collect()
    }
}

/// Columns of rows' largest numbers; exact, as nothing is computed.
#[derive(Debug)]
pub(crate) struct LargestCase {
    width: usize,
    n_rows: usize,
    content: Content,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Random,
    /// A few different numbers, zeros of either sign among them.
    Equal,
    /// Not finite, here and there, once, or everywhere.
    NotFinite,
}

pub(crate) fn largest() -> Vec<LargestCase> {
    let mut cases = Vec::new();
    for width in [1, 31, 1000, 5001, 9000] {
        for n_rows in [1, 3, 20] {
            for content in [Content::Random, Content::Equal, Content::NotFinite] {
                cases.push(LargestCase {
                    width,
                    n_rows,
                    content,
                });
            }
        }
    }
    cases
}

impl LargestCase {
    fn x(&self) -> Vec<f32> {
        let mut random = Random::new(31);
        let n = self.n_rows * self.width;
        match self.content {
            Content::Random => random.values(n, 30.0),
            Content::Equal => {
                let few = [-1.0, -0.0, 0.0];
                (0..n).map(|_| few[random.below(3)]).collect()
            }
            Content::NotFinite => {
                let mut x = random.values(n, 30.0);
                for (i, row) in x.chunks_exact_mut(self.width).enumerate() {
                    let flaws = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -f32::NAN];
                    let step = [7, 1, 2, self.width, 0][i % 5];
                    if step > 0 {
                        let last = row.iter_mut().rev().step_by(step);
                        last.for_each(|x| *x = flaws[i % 4]);
                    }
                }
                x
            }
        }
    }
}

impl Case for LargestCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let x = device.buffer(&self.x());
        let mut columns = vec![Some(u32::MAX); self.n_rows];
        device
            .queue
            .argmax(&x, self.width, &mut columns)
            .expect(WORKS);
        let as_number = |column: Option<u32>| column.map_or(-1.0, |column| column as f32);
        columns.into_iter().map(as_number).collect()
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        vec![0.0; expected.len()]
    }
}
