//! Linear operations with weights in LLM.int8(), alone and beside dense ones.

use std::sync::Arc;

use llm_backend::{Backend, Output};
use llm_quant::{Activations8, Int8, Int8Weight, PRODUCT_SCALE, Scheme, StoredWeight};
use llm_tensor::DType;

use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Random, at_odd_address, widened};
use crate::linear::Linear;

#[derive(Debug)]
pub(crate) struct Int8Case {
    parts: Vec<Part>,
    cols: usize,
    n_tokens: usize,
    output: Output,
    /// Every so many-th activation is large; 0 for none.
    outlier_every: usize,
    /// An element of x that is not a number.
    nan_at: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    rows: usize,
    kind: Kind,
    bias: Option<DType>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Dense(DType),
    Int8(Int8),
    PerUse(DType, Int8),
}

/// Ones, registers and panels, and one fewer or more.
const SHAPES: [(usize, usize); 13] = [
    (1, 1),
    (2, 7),
    (3, 31),
    (5, 32),
    (8, 63),
    (9, 64),
    (16, 65),
    (33, 128),
    (70, 300),
    (67, 1031),
    (19, 2048),
    (9, 2112),
    (2, 4100),
];

const N_TOKENS: [usize; 7] = [1, 2, 3, 7, 11, 12, 40];

/// Of each how many activations are outliers: none, one or a few, columns enough for two panels.
const OUTLIER_EVERY: [usize; 4] = [0, 1999, 101, 6];

/// Never, what is usual, and less than most activations.
const THRESHOLDS: [f32; 3] = [0.0, 6.0, 0.25];

pub(crate) fn cases() -> Vec<Int8Case> {
    let mut cases = Vec::new();
    for (rows, cols) in SHAPES {
        for n_tokens in N_TOKENS {
            for outlier_every in OUTLIER_EVERY {
                let i = cases.len();
                let format = Int8 {
                    threshold: THRESHOLDS[i % THRESHOLDS.len()],
                };
                let kind = match i % 5 {
                    0..3 => Kind::Int8(format),
                    _ => Kind::PerUse(DTYPES[i / 5 % DTYPES.len()], format),
                };
                cases.push(Int8Case {
                    parts: vec![Part {
                        rows,
                        kind,
                        bias: (i % 2 == 0).then_some(DTYPES[i / 2 % DTYPES.len()]),
                    }],
                    cols,
                    n_tokens,
                    output: [Output::Write, Output::Add][i / 4 % 2],
                    outlier_every,
                    nan_at: (i % 16 == 3).then_some(cols / 2),
                });
            }
        }
    }
    // Parts that share activations' codes, or do not.
    for n_tokens in N_TOKENS {
        for outlier_every in OUTLIER_EVERY {
            let often = Int8 { threshold: 0.5 };
            let usual = Int8 { threshold: 6.0 };
            let part = |rows, kind, bias| Part { rows, kind, bias };
            cases.push(Int8Case {
                parts: vec![
                    part(33, Kind::Int8(usual), Some(DType::BF16)),
                    part(7, Kind::Dense(DType::BF16), Some(DType::F32)),
                    part(50, Kind::PerUse(DType::F16, usual), None),
                    part(18, Kind::Int8(often), None),
                    part(13, Kind::Int8(usual), Some(DType::F16)),
                ],
                cols: 200,
                n_tokens,
                output: [Output::Add, Output::Write][n_tokens % 2],
                outlier_every,
                nan_at: None,
            });
        }
    }
    cases
}

impl Int8Case {
    fn linear(&self) -> Linear {
        let mut random = Random::new(18);
        let mut x = random.values(self.n_tokens * self.cols, 1.0);
        if self.outlier_every > 0 {
            // The first is exactly the usual threshold.
            for (i, x) in x.iter_mut().step_by(self.outlier_every).enumerate() {
                *x = 6.0 + 50.0 * i as f32;
            }
        }
        if let Some(at) = self.nan_at {
            x[at] = f32::NAN;
        }
        let width: usize = self.parts.iter().map(|part| part.rows).sum();
        let before = random.values(self.n_tokens * width, 1.0);
        let weights = self.parts.iter().map(|part| {
            let weight = part.weight(&mut random, self.cols);
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

impl Part {
    fn weight(&self, random: &mut Random, cols: usize) -> StoredWeight {
        match self.kind {
            Kind::Dense(dtype) => random.weight(dtype, self.rows, cols),
            Kind::PerUse(dtype, format) => StoredWeight {
                scheme: Scheme::Int8PerUse(dtype, format),
                ..random.weight(dtype, self.rows, cols)
            },
            Kind::Int8(format) => weight(random, (self.rows, cols), format),
        }
    }
}

/// A weight of any codes, those too that no encoder writes.
pub(crate) fn weight(
    random: &mut Random,
    (rows, cols): (usize, usize),
    format: Int8,
) -> StoredWeight {
    let codes = random.values(rows * cols, 128.0);
    let codes: Vec<u8> = codes.iter().map(|code| code.floor() as i8 as u8).collect();
    let absmax = random.values(rows, 1.0);
    let absmax: Vec<u8> = absmax.iter().flat_map(|x| x.abs().to_le_bytes()).collect();
    let (codes, absmax) = (at_odd_address(&codes), at_odd_address(&absmax));
    let weight = Int8Weight::new((rows, cols), format, codes, absmax);
    weight.expect("a code an element, a scale a row").into()
}

impl Case for Int8Case {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        self.linear().run(backend)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        let Linear {
            weights, x, before, ..
        } = self.linear();
        let mut bounds = vec![0.0; before.len()];
        let width = before.len() / self.n_tokens;
        let mut column = 0;
        for (weight, bias) in &weights {
            let bias = bias.as_ref().map(widened);
            let products = ProductBounds::new(weight, &x, self.cols);
            for row in 0..products.rows {
                let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]).abs());
                for token in 0..self.n_tokens {
                    let at = token * width + column + row;
                    let added = bias + f64::from(before[at]).abs();
                    bounds[at] = products.bound(token, row) + 2.0 * EPS * added;
                }
            }
            column += products.rows;
        }
        bounds
    }
}

/// Distance that each product of rows of `x` `[_, cols]` and of a weight in any scheme may have from the exact one.
pub(crate) fn product_bounds(weight: &StoredWeight, x: &[f32]) -> Vec<f64> {
    let products = ProductBounds::new(weight, x, weight.cols);
    let tokens = 0..x.len() / weight.cols;
    let of_token = |token| (0..weight.rows).map(move |row| (token, row));
    let pairs = tokens.flat_map(of_token);
    pairs
        .map(|(token, row)| products.bound(token, row))
        .collect()
}

/// Distance that a product of a row of weights and one of activations may have from the exact one.
struct ProductBounds<'a> {
    rows: usize,
    cols: usize,
    x: &'a [f32],
    /// Elements that are multiplied in floats: all, or what is in outlier columns.
    wide: Vec<f32>,
    /// Of elements, beside that of sums of products.
    element_error: f64,
    int8: Option<(Int8Weight, Activations8)>,
}

impl<'a> ProductBounds<'a> {
    fn new(weight: &StoredWeight, x: &'a [f32], cols: usize) -> Self {
        let wide = widened(weight);
        let int8 = Int8Weight::of(weight).or_else(|| Int8Weight::of_per_use(weight));
        let quantized = |weight: Int8Weight| {
            let threshold = weight.format().threshold;
            (weight, Activations8::quantize(x, cols, threshold))
        };
        ProductBounds {
            rows: wide.len() / cols,
            cols,
            x,
            wide,
            // Scales may multiply values, as the reference has it, or sums of values with x.
            element_error: match weight.scheme {
                Scheme::FourBit(_) => 2.0 * EPS,
                Scheme::Dense(_)
                | Scheme::Int8(_)
                | Scheme::Int8PerUse(..)
                | Scheme::Ggml(_)
                | Scheme::Fp8(_)
                | Scheme::Grouped(_) => 0.0,
            },
            int8: int8.map(quantized),
        }
    }

    fn bound(&self, token: usize, row: usize) -> f64 {
        let x = &self.x[token * self.cols..][..self.cols];
        let weights = &self.wide[row * self.cols..][..self.cols];
        let product = |col: usize| f64::from(x[col] * weights[col]).abs();
        let Some((weight, activations)) = &self.int8 else {
            let relative = self.element_error + sum_error(self.cols);
            return relative * (0..self.cols).map(product).sum::<f64>();
        };
        let codes = &activations.codes[token * self.cols..][..self.cols];
        let sum: i64 = (0..self.cols)
            .map(|col| {
                i64::from(weight.codes()[row * self.cols + col] as i8) * i64::from(codes[col])
            })
            .sum();
        let scales = f64::from(activations.absmax[token]) * f64::from(weight.scale(row));
        // The sum is exact. It is rounded when it becomes a float, three products are, and what is added to them.
        let inliers = 4.0 * EPS * (sum as f64 * scales * f64::from(PRODUCT_SCALE)).abs();
        let outlier_cols = activations.outlier_cols.iter().copied();
        let outliers: f64 = outlier_cols.map(product).sum();
        inliers + sum_error(activations.outlier_cols.len()) * outliers
    }
}
