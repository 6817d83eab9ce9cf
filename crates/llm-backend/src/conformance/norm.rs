use llm_tensor::{DType, Norm};

use super::case::{Case, sum_error};
use super::data::{DTYPES, Random, WORKS, downloaded, uploaded, widened};
use crate::{Backend, HostWeight, NormOp};

#[derive(Debug)]
pub(super) struct NormCase {
    norm: Norm,
    dtype: DType,
    with_bias: bool,
    width: usize,
    n_tokens: usize,
    magnitude: f32,
    /// Added to every element: the mean, far from zero.
    offset: f32,
    /// An element that is not a number.
    nan_at: Option<usize>,
}

const NORM_EPS: f32 = 1e-5;

pub(super) fn cases() -> Vec<NormCase> {
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
    gain: HostWeight,
    bias: Option<HostWeight>,
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
    fn run<B: Backend>(&self, backend: &B) -> Vec<f32> {
        let Inputs { gain, bias, x } = self.inputs();
        let gain = backend.load(gain).expect(WORKS);
        let bias = bias.map(|bias| backend.load(bias).expect(WORKS));
        let op = NormOp {
            norm: self.norm,
            eps: NORM_EPS,
            gain: &gain,
            bias: bias.as_ref(),
        };
        let mut out = backend.alloc(x.len()).expect(WORKS);
        let x_on_device = uploaded(backend, &x);
        backend
            .norm(&op, &x_on_device, &mut out, self.n_tokens)
            .expect(WORKS);
        downloaded(backend, &out, x.len())
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Inputs { gain, bias, x } = self.inputs();
        let gain = widened(&gain);
        let bias = bias.map(|bias| widened(&bias));
        let relative = sum_error(self.width);
        let mut bounds = Vec::with_capacity(x.len());
        for (x, expected) in x
            .chunks_exact(self.width)
            .zip(expected.chunks_exact(self.width))
        {
            let n = self.width as f64;
            let mean_of = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x.into())).sum::<f64>() / n;
            let (mean, mean_error) = match self.norm {
                Norm::Layer => (mean_of(&|x| x), relative * mean_of(&f64::abs)),
                Norm::Rms => (0.0, 0.0),
            };
            let variance = mean_of(&|x| (x - mean) * (x - mean)) + f64::from(NORM_EPS);
            // An error of the mean moves the variance by its square, which halves in the root.
            let scale_error = relative + mean_error * mean_error / variance / 2.0;
            for (i, &expected) in expected.iter().enumerate() {
                let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[i]));
                let centred = (f64::from(expected) - bias).abs();
                let shift = mean_error / variance.sqrt() * f64::from(gain[i]).abs();
                bounds.push(centred * scale_error + shift + relative * bias.abs());
            }
        }
        bounds
    }
}
