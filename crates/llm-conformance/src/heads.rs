//! Products of heads with rows of a matrix that are their own.

use std::sync::Arc;

use llm_backend::{Backend, HeadProducts, MatrixSide, Ops};
use llm_quant::StoredWeight;
use llm_tensor::DType;

use crate::case::{Case, sum_error};
use crate::data::{DTYPES, Device, Random, WORKS, widened};

/// Heads of rows, times the rows or the columns of theirs.
#[derive(Debug)]
pub(crate) struct HeadCase {
    n_heads: usize,
    /// Rows of the matrix from one head to the next, the first of a head's and how many.
    rows: [usize; 3],
    cols: usize,
    dtype: DType,
    side: MatrixSide,
    carried: usize,
    n_tokens: usize,
}

pub(crate) fn cases() -> Vec<HeadCase> {
    let mut cases = Vec::new();
    for (n_heads, rows, cols) in [
        (1, [1, 0, 1], 1),
        (3, [22, 0, 12], 20),
        (3, [22, 12, 10], 20),
        (2, [96, 0, 64], 128),
        (5, [70, 3, 67], 33),
        (2, [256, 128, 128], 512),
        (2, [448, 0, 192], 512),
        (40, [9, 2, 6], 70),
    ] {
        for side in [MatrixSide::Rows, MatrixSide::Columns] {
            for n_tokens in [1, 2, 3, 11, 12, 16, 17, 40] {
                let n = cases.len();
                cases.push(HeadCase {
                    n_heads,
                    rows,
                    cols,
                    dtype: DTYPES[n % 3],
                    side,
                    carried: [0, 8, 3][n / 3 % 3],
                    n_tokens,
                });
            }
        }
    }
    cases
}

impl HeadCase {
    fn from(&self) -> usize {
        match self.side {
            MatrixSide::Rows => self.cols,
            MatrixSide::Columns => self.rows[2],
        }
    }

    fn to(&self) -> usize {
        match self.side {
            MatrixSide::Rows => self.rows[2],
            MatrixSide::Columns => self.cols,
        }
    }

    /// The matrix, which may have rows of nobody, and rows of heads.
    fn inputs(&self) -> (StoredWeight, Vec<f32>) {
        let mut random = Random::new(31);
        let n_rows = self.n_heads * self.rows[0];
        let weight = random.weight(self.dtype, n_rows + self.n_tokens % 2, self.cols);
        let width = self.n_heads * (self.from() + self.carried);
        (weight, random.values(self.n_tokens * width, 2.0))
    }
}

impl Case for HeadCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let (weight, x) = self.inputs();
        let weight = device.load(weight);
        let [stride, first, n_rows] = self.rows;
        let op = HeadProducts {
            weight: &weight,
            n_heads: self.n_heads,
            stride,
            first,
            n_rows,
            cols: self.cols,
            side: self.side,
            carried: self.carried,
        };
        let n = self.n_tokens * op.widths().1;
        let x = device.buffer(&x);
        // What is replaced counts for nothing.
        let mut out = device.buffer(&vec![f32::NAN; n]);
        let multiplied = device.queue.head_products(&op, &x, &mut out, self.n_tokens);
        multiplied.expect(WORKS);
        device.read(&out, n)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        let (weight, x) = self.inputs();
        let (weight, [stride, first, _]) = (widened(&weight), self.rows);
        let mut bounds = Vec::new();
        for (i, x) in x.chunks_exact(self.from() + self.carried).enumerate() {
            let row = i % self.n_heads * stride + first;
            for j in 0..self.to() {
                let element = |k: usize| match self.side {
                    MatrixSide::Rows => (row + j) * self.cols + k,
                    MatrixSide::Columns => (row + k) * self.cols + j,
                };
                let products = x[..self.from()].iter().enumerate();
                let magnitude: f64 = products
                    .map(|(k, &x)| f64::from(x * weight[element(k)]).abs())
                    .sum();
                bounds.push(sum_error(self.from()) * magnitude);
            }
            bounds.extend(vec![0.0; self.carried]);
        }
        bounds
    }
}
