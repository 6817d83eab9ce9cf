use std::sync::Arc;

use llm_backend::{Backend, LinearPart, Ops, OutColumns, Output};
use llm_quant::{ACTIVATION_BLOCK, Activations, BlockCodes, StoredWeight};
use llm_tensor::{DType, WorkspaceShape};

use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Device, Random, SMALL, WORKS, widened};

#[derive(Debug)]
pub(crate) struct LinearCase {
    parts: Vec<Part>,
    cols: usize,
    n_tokens: usize,
    output: Output,
    magnitude: f32,
    /// An element of x that is not a number.
    nan_at: Option<usize>,
    /// Relative error that each product may have.
    pub(crate) product_error: f64,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    rows: usize,
    dtype: DType,
    bias: Option<DType>,
}

/// Ones, primes, multiples of registers, and one fewer or more.
const SHAPES: [(usize, usize); 16] = [
    (1, 1),
    (1, 7),
    (3, 16),
    (5, 17),
    (8, 31),
    (16, 32),
    (17, 33),
    (31, 64),
    (61, 127),
    (64, 128),
    (96, 100),
    (127, 257),
    (130, 576),
    (257, 40),
    (67, 1031),
    (515, 300),
];

const N_TOKENS: [usize; 9] = [1, 2, 3, 5, 8, 17, 33, 64, 100];

pub(crate) fn cases() -> Vec<LinearCase> {
    let mut cases = Vec::new();
    for (rows, cols) in SHAPES {
        for n_tokens in N_TOKENS {
            for dtype in DTYPES {
                let i = cases.len();
                cases.push(LinearCase {
                    parts: vec![Part {
                        rows,
                        dtype,
                        bias: (i % 2 == 0).then_some(dtype),
                    }],
                    cols,
                    n_tokens,
                    output: [Output::Write, Output::Add][i / 2 % 2],
                    magnitude: 1.0,
                    nan_at: None,
                    product_error: 0.0,
                });
            }
        }
    }
    for n_tokens in N_TOKENS {
        for (cols, rows, with_bias) in [
            (100, [96, 32, 32], [true; 3]),
            (65, [33, 17, 5], [false, true, false]),
            (288, [288, 96, 97], [false; 3]),
        ] {
            for (i, magnitude) in [1.0, 1e4].into_iter().enumerate() {
                let part = |p: usize| Part {
                    rows: rows[p],
                    dtype: DTYPES[(p + i) % 3],
                    bias: with_bias[p].then_some(DTYPES[p]),
                };
                cases.push(LinearCase {
                    parts: (0..3).map(part).collect(),
                    cols,
                    n_tokens,
                    output: [Output::Add, Output::Write][i],
                    magnitude,
                    nan_at: None,
                    product_error: 0.0,
                });
            }
        }
        cases.push(LinearCase {
            parts: vec![Part {
                rows: 70,
                dtype: DType::BF16,
                bias: None,
            }],
            cols: 50,
            n_tokens,
            output: Output::Write,
            magnitude: 1.0,
            nan_at: Some(7),
            product_error: 0.0,
        });
    }
    cases
}

impl LinearCase {
    fn linear(&self) -> Linear {
        let mut random = Random::new(6);
        let mut x = random.values(self.n_tokens * self.cols, self.magnitude);
        if let Some(at) = self.nan_at {
            x[at] = f32::NAN;
        }
        let width: usize = self.parts.iter().map(|part| part.rows).sum();
        let before = random.values(self.n_tokens * width, self.magnitude);
        let weights = self.parts.iter().map(|part| {
            let weight = random.weight(part.dtype, part.rows, self.cols);
            let bias = part.bias.map(|dtype| random.weight(dtype, 1, part.rows));
            (weight, bias)
        });
        Linear {
            weights: weights.collect(),
            x,
            before,
            cols: self.cols,
            n_tokens: self.n_tokens,
            output: self.output,
        }
    }
}

impl Case for LinearCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        self.linear().run(backend)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        self.linear().bounds(self.product_error)
    }
}

/// One linear operation.
pub(crate) struct Linear {
    /// With their biases.
    pub(crate) weights: Vec<(StoredWeight, Option<StoredWeight>)>,
    /// `[n_tokens, cols]`.
    pub(crate) x: Vec<f32>,
    /// The output before, `[n_tokens, Σ rows]`.
    pub(crate) before: Vec<f32>,
    pub(crate) cols: usize,
    pub(crate) n_tokens: usize,
    pub(crate) output: Output,
}

impl Linear {
    pub(crate) fn run<B: Backend>(self, backend: &Arc<B>) -> Vec<f32> {
        let shape = WorkspaceShape {
            n_tokens: self.n_tokens,
            cols: self.cols,
            rows: self.before.len() / self.n_tokens,
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &shape);
        // Other numbers of rows are multiplied whole: what a matrix's rows are cut by changes nothing.
        if self.n_tokens % 4 == 1 {
            return self.run_in_slices(device);
        }
        let load = |weight| device.load(weight);
        let weights: Vec<_> = self
            .weights
            .into_iter()
            .map(|(weight, bias)| (load(weight), bias.map(load)))
            .collect();
        let parts: Vec<_> = weights
            .iter()
            .map(|(weight, bias)| LinearPart {
                weight,
                bias: bias.as_ref(),
            })
            .collect();
        let x = device.buffer(&self.x);
        let mut out = device.buffer(&self.before);
        device
            .queue
            .linear(&parts, &x, self.output, &mut out, self.n_tokens)
            .expect(WORKS);
        device.read(&out, self.before.len())
    }

    /// The same matrix by matrix, of each some rows after the other.
    fn run_in_slices<B: Backend>(self, mut device: Device<B>) -> Vec<f32> {
        let x = device.buffer(&self.x);
        let mut out = device.buffer(&self.before);
        let width = self.before.len() / self.n_tokens;
        let mut first = 0;
        for (weight, bias) in self.weights {
            let bias = bias.map(|bias| device.load(bias));
            let (n_rows, cols) = (weight.rows, weight.cols as u64);
            let step = weight.scheme.row_step(n_rows as u64, cols) as usize;
            let n = n_rows.div_ceil(3).next_multiple_of(step);
            for start in (0..n_rows).step_by(n) {
                let rows = start..(start + n).min(n_rows);
                let slice = weight.slice(rows.clone(), |_, bytes, window| {
                    bytes.slice(window.start as usize..window.end as usize)
                });
                let (slice, bias) = (
                    device.load(slice),
                    bias.as_ref()
                        .map(|bias| device.elements(bias, rows.clone())),
                );
                let part = LinearPart {
                    weight: &slice,
                    bias: bias.as_ref(),
                };
                let columns = OutColumns {
                    first: first + rows.start,
                    width,
                };
                let (queue, n_tokens) = (&mut device.queue, self.n_tokens);
                queue
                    .linear_to(Some(columns), &[part], &x, self.output, &mut out, n_tokens)
                    .expect(WORKS);
            }
            first += n_rows;
        }
        device.read(&out, self.before.len())
    }

    /// Distance that each result may have from the exact one, if every product has a relative error of `product_error` besides
    /// that of sums of rounded products.
    pub(crate) fn bounds(&self, product_error: f64) -> Vec<f64> {
        self.bounds_with(Activations::F32, product_error)
    }

    /// The same where these activations are multiplied.
    pub(crate) fn bounds_with(&self, activations: Activations, product_error: f64) -> Vec<f64> {
        let relative = product_error + sum_error(self.cols);
        // A result may be added to, and rounded, after every piece of the columns.
        let n_pieces = self.cols.div_ceil(FEWEST_COLUMNS) as f64;
        let added = EPS * (1.0 + n_pieces / 2.0);
        let parts: Vec<_> = self
            .weights
            .iter()
            .map(|(weight, bias)| {
                let is_rounded = activations.are_rounded_for(weight.scheme);
                (widened(weight), bias.as_ref().map(widened), is_rounded)
            })
            .collect();
        let mut bounds = Vec::with_capacity(self.before.len());
        for x in self.x.chunks_exact(self.cols) {
            for (weight, bias, is_rounded) in &parts {
                for (row, weight) in weight.chunks_exact(self.cols).enumerate() {
                    let products: f64 = match is_rounded {
                        false => {
                            let products = weight.iter().zip(x);
                            products.map(|(w, x)| f64::from(w * x).abs()).sum()
                        }
                        true => rounded_products(weight, x),
                    };
                    let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]).abs());
                    let before = f64::from(self.before[bounds.len()]).abs();
                    bounds.push(relative * products + added * (bias + before));
                }
            }
        }
        bounds
    }
}

/// Magnitudes of the products of codes, and of minimums, with rounded activations.
///
/// Codes times scales, and minimums, may be larger than what they leave of each other: with codes of all sizes in a block, no more
/// than four times as large as its largest element.
fn rounded_products(weight: &[f32], x: &[f32]) -> f64 {
    let blocks = weight
        .chunks(ACTIVATION_BLOCK)
        .zip(x.chunks(ACTIVATION_BLOCK));
    let products = blocks.map(|(weight, x)| {
        let largest = weight.iter().fold(0f32, |max, w| max.max(w.abs()));
        let block = BlockCodes::of(x);
        let sum: f64 = (0..x.len()).map(|i| block.value(i).abs()).sum();
        4.0 * f64::from(largest) * sum
    });
    products.sum()
}

/// Columns of a piece that a kernel sums before it adds to the result, at least.
const FEWEST_COLUMNS: usize = 128;
