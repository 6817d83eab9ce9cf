//! Linear operations with weights in the formats of published files, alone and beside others.

use std::sync::Arc;

use llm_backend::{Backend, Output};
use llm_quant::{GgmlType, Scheme, StoredWeight};
use llm_tensor::DType;

use crate::case::{Case, EPS};
use crate::data::{Random, at_odd_address};
use crate::linear::Linear;
use crate::schemes::{block_len, packed, weight_in};

#[derive(Debug)]
pub(crate) struct PackedCase {
    parts: Vec<Part>,
    cols: usize,
    n_tokens: usize,
    output: Output,
    /// An element of x that is not a number.
    nan_at: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    rows: usize,
    scheme: Scheme,
    bias: Option<DType>,
}

/// Rows, and blocks of a row.
const SHAPES: [(usize, usize); 6] = [(1, 1), (3, 2), (13, 1), (33, 3), (70, 1), (5, 9)];

const N_TOKENS: [usize; 9] = [1, 2, 3, 4, 7, 11, 12, 33, 65];

/// Scales may multiply values, as the reference has it, or sums of values with x.
const PRODUCT_ERROR: f64 = 2.0 * EPS;

pub(crate) fn cases() -> Vec<PackedCase> {
    let mut cases = Vec::new();
    for scheme in packed() {
        for (rows, n_blocks) in SHAPES {
            for turn in 0..2 {
                let i = cases.len();
                let part = Part {
                    rows,
                    scheme,
                    bias: (i % 3 == 0).then_some(DType::F32),
                };
                let cols = n_blocks * block_len(scheme);
                cases.push(PackedCase {
                    parts: vec![part],
                    cols,
                    n_tokens: N_TOKENS[(i / 2 + 4 * turn) % N_TOKENS.len()],
                    output: [Output::Write, Output::Add][i / 2 % 2],
                    nan_at: (i % 16 == 5).then_some(cols / 2),
                });
            }
        }
    }
    // Beside each other, and beside weights that are computed with otherwise.
    for n_tokens in N_TOKENS {
        let part = |rows, scheme, bias| Part { rows, scheme, bias };
        let mut parts = vec![part(7, Scheme::Dense(DType::BF16), None)];
        for (i, scheme) in packed().into_iter().enumerate() {
            parts.push(part(i + 1, scheme, (i % 4 == 1).then_some(DType::F16)));
        }
        cases.push(PackedCase {
            parts,
            cols: 512,
            n_tokens,
            output: Output::Add,
            nan_at: None,
        });
    }
    cases
}

impl PackedCase {
    fn linear(&self) -> Linear {
        let mut random = Random::new(26);
        let mut x = random.values(self.n_tokens * self.cols, 1.0);
        if let Some(at) = self.nan_at {
            x[at] = f32::NAN;
        }
        let width: usize = self.parts.iter().map(|part| part.rows).sum();
        let before = random.values(self.n_tokens * width, 1.0);
        let weights = self.parts.iter().map(|part| {
            let weight = weight_in(&mut random, part.scheme, (part.rows, self.cols));
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

impl Case for PackedCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        self.linear().run(backend)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        self.linear().bounds(PRODUCT_ERROR)
    }
}

/// A weight of random blocks, some of them zeros, at an odd address.
pub(crate) fn ggml(
    random: &mut Random,
    (rows, cols): (usize, usize),
    ty: GgmlType,
) -> StoredWeight {
    let kinds: Vec<_> = (0..N_KINDS).map(|_| block(random, ty)).collect();
    let zeros = vec![0; ty.block_bytes()];
    let n_blocks = rows * cols.div_ceil(ty.block_len());
    let blocks = (0..n_blocks).flat_map(|_| match random.below(N_KINDS + 1) {
        N_KINDS => &zeros,
        kind => &kinds[kind],
    });
    let blocks: Vec<u8> = blocks.copied().collect();
    let scheme = Scheme::Ggml(ty);
    StoredWeight {
        scheme,
        rows,
        cols,
        parts: llm_quant::Parts::weight(at_odd_address(&blocks)),
    }
}

/// A block of any bits, whose elements are of a size that shows among others'.
fn block(random: &mut Random, ty: GgmlType) -> Vec<u8> {
    let mut values = vec![0.0; ty.block_len()];
    loop {
        let block: Vec<u8> = (0..ty.block_bytes())
            .map(|_| random.below(256) as u8)
            .collect();
        ty.decode(&block, &mut values);
        let largest = values.iter().fold(0f32, |max, x| max.max(x.abs()));
        if values.iter().all(|x| x.is_finite()) && (0.02..50.0).contains(&largest) {
            return block;
        }
    }
}

/// Different blocks of a weight.
const N_KINDS: usize = 20;
