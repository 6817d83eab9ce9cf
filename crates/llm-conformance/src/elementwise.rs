use llm_tensor::{Activation, Pairing};

use super::case::{Case, EPS};
use super::data::{Random, WORKS, downloaded, uploaded};
use crate::{Backend, Rotary};

/// An activation, in place and as a gate.
#[derive(Debug)]
pub(super) struct ActivationCase {
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

pub(super) fn activations() -> Vec<ActivationCase> {
    let mut cases = Vec::new();
    for activation in [
        Activation::Relu,
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
        if activation != Activation::Relu {
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
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let x = self.input();
        let mut on_device = uploaded(backend, &x);
        let n = self.n_tokens * self.width;
        let mut gated = backend.alloc(n).expect(WORKS);
        backend
            .gate(
                self.activation,
                &on_device,
                &mut gated,
                self.width,
                self.n_tokens,
            )
            .expect(WORKS);
        backend
            .activate(
                self.activation,
                &mut on_device,
                2 * self.width,
                self.n_tokens,
            )
            .expect(WORKS);
        let mut results = downloaded(backend, &gated, n);
        results.extend(downloaded(backend, &on_device, x.len()));
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
pub(super) struct RotaryCase {
    op: Rotary,
    n_tokens: usize,
}

pub(super) fn rotations() -> Vec<RotaryCase> {
    let mut cases = Vec::new();
    for pairing in [Pairing::Adjacent, Pairing::Halves] {
        for (n_heads, head_dim, rotary_dim) in [
            (1, 2, 2),
            (3, 12, 12),
            (4, 64, 64),
            (2, 80, 32),
            (5, 96, 24),
            (3, 128, 128),
            (2, 256, 64),
            (2, 20, 6),
        ] {
            for n_tokens in [1, 2, 33, 100] {
                cases.push(RotaryCase {
                    op: Rotary {
                        n_heads,
                        head_dim,
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
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let half = self.op.rotary_dim / 2;
        let mut angles = Vec::new();
        for token in 0..self.n_tokens {
            let angle = |i: usize| (token * 7 + 1) as f32 / (i + 1) as f32;
            angles.extend((0..half).map(|i| angle(i).cos()));
            angles.extend((0..half).map(|i| angle(i).sin()));
        }
        let x = self.x();
        let angles = uploaded(backend, &angles);
        let mut on_device = uploaded(backend, &x);
        backend
            .rotate(&self.op, &angles, &mut on_device, self.n_tokens)
            .expect(WORKS);
        downloaded(backend, &on_device, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Two products of factors up to 2 and 1, and their sum; what is not turned stays as it is.
        let turned = |i: usize| {
            let at = i % self.op.row_width;
            at < self.op.n_heads * self.op.head_dim && at % self.op.head_dim < self.op.rotary_dim
        };
        (0..expected.len())
            .map(|i| if turned(i) { 4.0 * EPS } else { 0.0 })
            .collect()
    }
}

/// Rows added to rows, each with a weight.
#[derive(Debug)]
pub(super) struct SumCase {
    width: usize,
    /// Rows of x.
    n_tokens: usize,
    /// Rows of x that those of y are added to.
    rows: Vec<usize>,
}

pub(super) fn sums() -> Vec<SumCase> {
    let mut cases = Vec::new();
    for width in [1, 7, 16, 33, 576, 3000] {
        for (n_tokens, rows) in [
            (1, vec![]),
            (1, vec![0]),
            (5, vec![4, 0, 2]),
            // Some of them more than once.
            (3, vec![1, 1, 2, 1, 0, 2]),
            (40, (0..80).map(|i| i * 7 % 40).collect()),
        ] {
            cases.push(SumCase {
                width,
                n_tokens,
                rows,
            });
        }
    }
    cases
}

struct Summands {
    /// `[n_tokens, width]`.
    x: Vec<f32>,
    /// `[rows, width]`, and as many rows as x has at least.
    y: Vec<f32>,
    /// `[rows]`.
    weights: Vec<f32>,
}

impl SumCase {
    fn inputs(&self) -> Summands {
        let mut random = Random::new(9);
        let n_rows = self.rows.len().max(self.n_tokens);
        Summands {
            x: random.values(self.n_tokens * self.width, 2.0),
            y: random.values(n_rows * self.width, 2.0),
            weights: random.values(self.rows.len(), 1.0),
        }
    }
}

impl Case for SumCase {
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let Summands { x, y, weights } = self.inputs();
        let y = uploaded(backend, &y);
        let mut added = uploaded(backend, &x);
        backend
            .add(&y, &mut added, self.width, self.n_tokens)
            .expect(WORKS);
        let mut scattered = uploaded(backend, &x);
        backend
            .scatter_add(&y, &self.rows, &weights, self.width, &mut scattered)
            .expect(WORKS);
        let mut results = downloaded(backend, &added, x.len());
        results.extend(downloaded(backend, &scattered, x.len()));
        results
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        let Summands { x, y, weights } = self.inputs();
        // A sum of two is rounded once anywhere; products may be rounded or not, and their sums are.
        let mut magnitudes: Vec<f64> = x.iter().map(|&x| f64::from(x).abs()).collect();
        let mut n_summands = vec![0.0; self.n_tokens];
        for ((&row, weight), y) in self.rows.iter().zip(weights).zip(y.chunks(self.width)) {
            n_summands[row] += 1.0;
            for (magnitude, y) in magnitudes[row * self.width..].iter_mut().zip(y) {
                *magnitude += f64::from(weight * y).abs();
            }
        }
        let scattered = magnitudes
            .chunks_exact(self.width)
            .zip(n_summands)
            .flat_map(|(row, n)| row.iter().map(move |magnitude| 2.0 * n * EPS * magnitude));
        vec![0.0; x.len()].into_iter().chain(scattered).collect()
    }
}
