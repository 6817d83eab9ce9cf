use std::sync::Arc;

use llm_tensor::{DType, Norm};

use crate::case::{Case, sum_error};
use crate::data::{DTYPES, Device, Random, WORKS, widened};
use llm_backend::{Backend, Heads, NormOp, Ops};
use llm_quant::StoredWeight;

/// Rows of their own.
#[derive(Debug)]
pub(crate) struct NormCase {
    norm: Norm,
    dtype: DType,
    with_bias: bool,
    gain_offset: f32,
    width: usize,
    n_tokens: usize,
    magnitude: f32,
    /// Added to every element: the mean, far from zero.
    offset: f32,
    /// An element that is not a number.
    nan_at: Option<usize>,
}

const NORM_EPS: f32 = 1e-5;

pub(crate) fn cases() -> Vec<NormCase> {
    let mut cases = Vec::new();
    for norm in [Norm::Layer, Norm::Rms] {
        for (i, width) in [1, 2, 7, 16, 31, 64, 129, 576, 1000]
            .into_iter()
            .enumerate()
        {
            for (magnitude, offset) in [(1.0, 0.0), (1.0, 1e3), (1e4, 0.0), (1e-4, 0.0)] {
                for n_tokens in [1, 3, 100] {
                    cases.push(NormCase {
                        norm,
                        dtype: DTYPES[i % 3],
                        with_bias: n_tokens != 3,
                        gain_offset: [0.0, 1.0][cases.len() % 2],
                        width,
                        n_tokens,
                        magnitude,
                        offset,
                        nan_at: None,
                    });
                }
            }
        }
        cases.push(NormCase {
            norm,
            dtype: DType::F32,
            with_bias: false,
            gain_offset: 0.0,
            width: 40,
            n_tokens: 3,
            magnitude: 1.0,
            offset: 0.0,
            nan_at: Some(50),
        });
    }
    cases
}

struct Inputs {
    gain: StoredWeight,
    bias: Option<StoredWeight>,
    x: Vec<f32>,
}

impl NormCase {
    fn inputs(&self) -> Inputs {
        let mut random = Random::new(3);
        let mut x = random.values(self.n_tokens * self.width, self.magnitude);
        x.iter_mut().for_each(|x| *x += self.offset);
        if let Some(at) = self.nan_at {
            x[at] = f32::NAN;
        }
        Inputs {
            gain: random.weight(self.dtype, 1, self.width),
            bias: self
                .with_bias
                .then(|| random.weight(self.dtype, 1, self.width)),
            x,
        }
    }
}

impl Case for NormCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let Inputs { gain, bias, x } = self.inputs();
        let gain = device.load(gain);
        let bias = bias.map(|bias| device.load(bias));
        let op = NormOp {
            norm: self.norm,
            eps: NORM_EPS,
            gain_offset: self.gain_offset,
            gain: &gain,
            bias: bias.as_ref(),
        };
        let mut out = device.zeros(x.len());
        let x_on_device = device.buffer(&x);
        device
            .queue
            .norm(&op, &x_on_device, &mut out, self.n_tokens)
            .expect(WORKS);
        device.read(&out, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Inputs { gain, bias, x } = self.inputs();
        let vectors = Vectors::of(self.norm, self.gain_offset, &gain, bias.as_ref());
        x.chunks_exact(self.width)
            .zip(expected.chunks_exact(self.width))
            .flat_map(|(x, expected)| vectors.bounds(x, expected))
            .collect()
    }
}

/// Some heads of each row, in place.
#[derive(Debug)]
pub(crate) struct HeadsCase {
    norm: Norm,
    dtype: DType,
    with_bias: bool,
    gain_offset: f32,
    heads: Heads,
    n_tokens: usize,
}

pub(crate) fn heads() -> Vec<HeadsCase> {
    let mut cases = Vec::new();
    for norm in [Norm::Layer, Norm::Rms] {
        for (head_dim, first, n_heads, row_heads) in [
            (1, 0, 1, 1),
            (12, 0, 3, 5),
            (16, 2, 1, 4),
            (20, 4, 2, 6),
            (64, 0, 9, 15),
            (80, 3, 3, 9),
            (128, 16, 8, 32),
            (7, 1, 0, 2),
        ] {
            for (i, n_tokens) in [1, 2, 33].into_iter().enumerate() {
                // A row need not be whole heads.
                let row_width = row_heads * head_dim + i;
                cases.push(HeadsCase {
                    norm,
                    dtype: DTYPES[cases.len() % 3],
                    with_bias: cases.len() % 4 == 0,
                    gain_offset: [0.0, 1.0][cases.len() % 2],
                    heads: Heads {
                        first,
                        n_heads,
                        head_dim,
                        row_width,
                    },
                    n_tokens,
                });
            }
        }
    }
    cases
}

impl HeadsCase {
    fn inputs(&self) -> Inputs {
        let mut random = Random::new(8);
        let mut weight = || random.weight(self.dtype, 1, self.heads.head_dim);
        Inputs {
            gain: weight(),
            bias: self.with_bias.then(weight),
            x: random.values(self.n_tokens * self.heads.row_width, 2.0),
        }
    }
}

impl Case for HeadsCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let Inputs { gain, bias, x } = self.inputs();
        let gain = device.load(gain);
        let bias = bias.map(|bias| device.load(bias));
        let op = NormOp {
            norm: self.norm,
            eps: NORM_EPS,
            gain_offset: self.gain_offset,
            gain: &gain,
            bias: bias.as_ref(),
        };
        let mut on_device = device.buffer(&x);
        device
            .queue
            .norm_heads(&op, &self.heads, &mut on_device, self.n_tokens)
            .expect(WORKS);
        device.read(&on_device, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Inputs { gain, bias, x } = self.inputs();
        let vectors = Vectors::of(self.norm, self.gain_offset, &gain, bias.as_ref());
        let Heads {
            first,
            n_heads,
            head_dim,
            row_width,
        } = self.heads;
        // Other heads stay as they are.
        let mut bounds = vec![0.0; expected.len()];
        for token in 0..self.n_tokens {
            for head in first..first + n_heads {
                let at = token * row_width + head * head_dim;
                let range = at..at + head_dim;
                let of_head = vectors.bounds(&x[range.clone()], &expected[range.clone()]);
                bounds[range].copy_from_slice(&of_head);
            }
        }
        bounds
    }
}

/// Some heads of each row over the roots of their mean squares, in place.
#[derive(Debug)]
pub(crate) struct UnitCase {
    heads: Heads,
    n_tokens: usize,
    magnitude: f32,
}

pub(crate) fn unit_heads() -> Vec<UnitCase> {
    let mut cases = Vec::new();
    for (head_dim, first, n_heads, row_heads) in [
        (1, 0, 1, 1),
        (12, 3, 2, 5),
        (20, 4, 2, 6),
        (64, 0, 9, 15),
        (256, 3, 1, 4),
        (512, 2, 2, 4),
        (7, 1, 0, 2),
    ] {
        for (i, n_tokens) in [1, 2, 33].into_iter().enumerate() {
            cases.push(UnitCase {
                heads: Heads {
                    first,
                    n_heads,
                    head_dim,
                    row_width: row_heads * head_dim + i,
                },
                n_tokens,
                magnitude: [2.0, 1e-3, 1e4][cases.len() % 3],
            });
        }
    }
    cases
}

impl UnitCase {
    fn x(&self) -> Vec<f32> {
        Random::new(8).values(self.n_tokens * self.heads.row_width, self.magnitude)
    }
}

impl Case for UnitCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let x = self.x();
        let mut on_device = device.buffer(&x);
        let divided = device
            .queue
            .unit_heads(NORM_EPS, &self.heads, &mut on_device, self.n_tokens);
        divided.expect(WORKS);
        device.read(&on_device, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Heads {
            first,
            n_heads,
            head_dim,
            row_width,
        } = self.heads;
        let relative = sum_error(head_dim);
        let of = |(i, &expected): (usize, &f32)| {
            let head = i % row_width / head_dim;
            match (first..first + n_heads).contains(&head) {
                true => relative * f64::from(expected).abs(),
                // Others stay as they are.
                false => 0.0,
            }
        };
        expected.iter().enumerate().map(of).collect()
    }
}

/// Vectors that the bounds of a normalised one depend on.
struct Vectors {
    norm: Norm,
    gain: Vec<f64>,
    bias: Vec<f64>,
}

impl Vectors {
    fn of(norm: Norm, gain_offset: f32, gain: &StoredWeight, bias: Option<&StoredWeight>) -> Self {
        let gain = widened(gain);
        let gain = gain.iter().map(|&g| f64::from(gain_offset) + f64::from(g));
        let gain: Vec<f64> = gain.collect();
        let zeros = vec![0.0; gain.len()];
        Vectors {
            norm,
            bias: bias.map_or(zeros, |bias| {
                widened(bias).into_iter().map(f64::from).collect()
            }),
            gain,
        }
    }

    fn bounds(&self, x: &[f32], expected: &[f32]) -> Vec<f64> {
        let n = x.len() as f64;
        let relative = sum_error(x.len());
        let mean_of = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x.into())).sum::<f64>() / n;
        let (mean, mean_error) = match self.norm {
            Norm::Layer => (mean_of(&|x| x), relative * mean_of(&f64::abs)),
            Norm::Rms => (0.0, 0.0),
        };
        let variance = mean_of(&|x| (x - mean) * (x - mean)) + f64::from(NORM_EPS);
        // An error of the mean moves the variance by its square, which halves in the root.
        let scale_error = relative + mean_error * mean_error / variance / 2.0;
        let vectors = self.gain.iter().zip(&self.bias);
        vectors
            .zip(expected)
            .map(|((gain, bias), &expected)| {
                let centred = (f64::from(expected) - bias).abs();
                let shift = mean_error / variance.sqrt() * gain.abs();
                centred * scale_error + shift + relative * bias.abs()
            })
            .collect()
    }
}
