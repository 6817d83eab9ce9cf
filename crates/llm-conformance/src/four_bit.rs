//! Linear operations with weights in NF4 and FP4, alone and beside dense ones.

use std::sync::Arc;

use llm_backend::{Backend, Output};
use llm_quant::{
    Absmax, BlockSize, Code, DoubleAbsmax, Encoder, FourBit, NESTED_BLOCK, Scalar, StoredWeight,
    Weight4Bit, double, dynamic_map,
};
use llm_tensor::{DType, HostBytes};

use crate::case::{Case, EPS};
use crate::data::{Random, at_odd_address};
use crate::linear::Linear;

#[derive(Debug)]
pub(crate) struct FourBitCase {
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
    kind: Kind,
    bias: Option<DType>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Dense(DType),
    FourBit(FourBit),
}

/// Rows of whole blocks of one size or another, of pieces of blocks, of pieces of bytes.
const SHAPES: [(usize, usize); 17] = [
    (1, 1),
    (1, 2),
    (3, 7),
    (2, 31),
    (5, 32),
    (6, 33),
    (4, 64),
    (7, 96),
    (3, 100),
    (9, 128),
    (17, 192),
    (33, 256),
    (70, 576),
    (67, 301),
    (19, 1056),
    (2, 4096),
    (3, 8192),
];

const BLOCK_SIZES: [u64; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

const N_TOKENS: [usize; 9] = [1, 2, 3, 4, 7, 11, 12, 20, 33];

/// Scales may multiply values, as the reference has it, or sums of values with x.
const PRODUCT_ERROR: f64 = 2.0 * EPS;

pub(crate) fn cases() -> Vec<FourBitCase> {
    let mut cases = Vec::new();
    for (rows, cols) in SHAPES {
        for block_size in BLOCK_SIZES {
            for double_quant in [false, true] {
                let i = cases.len();
                let format = FourBit {
                    code: Code::ALL[i / 2 % 2],
                    block_size: block_size_of(block_size),
                    double_quant,
                };
                let part = Part {
                    rows,
                    kind: Kind::FourBit(format),
                    bias: (i % 3 == 0).then_some(DType::F32),
                };
                cases.push(FourBitCase {
                    parts: vec![part],
                    cols,
                    n_tokens: N_TOKENS[i % N_TOKENS.len()],
                    output: [Output::Write, Output::Add][i / 2 % 2],
                    magnitude: [1.0, 1e4][i / 4 % 2],
                    nan_at: (i % 16 == 5).then_some(cols / 2),
                    product_error: PRODUCT_ERROR,
                });
            }
        }
    }
    // Parts that read x in different orders, or in the same one.
    for n_tokens in N_TOKENS {
        for cols in [64, 160, 99] {
            let format = |code, block_size, double_quant| {
                Kind::FourBit(FourBit {
                    code,
                    block_size: block_size_of(block_size),
                    double_quant,
                })
            };
            let part = |rows, kind, bias| Part { rows, kind, bias };
            cases.push(FourBitCase {
                parts: vec![
                    part(33, format(Code::Nf4, 64, false), Some(DType::BF16)),
                    part(7, Kind::Dense(DType::BF16), None),
                    part(18, format(Code::Fp4, 32, true), None),
                    part(64, Kind::Dense(DType::F16), Some(DType::F32)),
                    part(5, format(Code::Nf4, 32, true), Some(DType::F16)),
                ],
                cols,
                n_tokens,
                output: Output::Add,
                magnitude: 1.0,
                nan_at: None,
                product_error: PRODUCT_ERROR,
            });
        }
    }
    cases
}

fn block_size_of(n: u64) -> BlockSize {
    BlockSize::new(n).expect("a power of two from 32 to 4096")
}

impl FourBitCase {
    fn linear(&self) -> Linear {
        let mut random = Random::new(16);
        let mut x = random.values(self.n_tokens * self.cols, self.magnitude);
        if let Some(at) = self.nan_at {
            x[at] = f32::NAN;
        }
        let width: usize = self.parts.iter().map(|part| part.rows).sum();
        let before = random.values(self.n_tokens * width, self.magnitude);
        let weights = self.parts.iter().map(|part| {
            let weight = match part.kind {
                Kind::Dense(dtype) => random.weight(dtype, part.rows, self.cols),
                Kind::FourBit(format) => encoded(&mut random, (part.rows, self.cols), format),
            };
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

impl Case for FourBitCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        self.linear().run(backend)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        self.linear().bounds(self.product_error)
    }
}

/// A weight of blocks of different magnitudes, some of them zero; its table is not the code's own. All parts start at
/// odd addresses and end with their allocations.
pub(crate) fn encoded(
    random: &mut Random,
    (rows, cols): (usize, usize),
    format: FourBit,
) -> StoredWeight {
    let mut values = random.values(rows * cols, 1.0);
    for (i, block) in values.chunks_mut(format.block_size.get()).enumerate() {
        let scale = [1.0, 0.01, 0.0, 3.0, 0.25][i % 5];
        block.iter_mut().for_each(|value| *value *= scale);
    }
    let elements = le_bytes(&values);
    let mut packed = vec![0; values.len().div_ceil(2)];
    let mut scales = vec![0.0; values.len().div_ceil(format.block_size.get())];
    Scalar.encode_4bit(
        format.code,
        format.block_size,
        DType::F32,
        &elements,
        &mut packed,
        &mut scales,
    );
    let absmax = if format.double_quant {
        let offset = double::offset(&scales);
        let mut codes = vec![0; scales.len()];
        let mut absmax = vec![0.0; scales.len().div_ceil(NESTED_BLOCK)];
        double::encode(&scales, offset, &mut codes, &mut absmax);
        let (codes, absmax) = (at_odd_address(&codes), at_odd_address(&le_bytes(&absmax)));
        let double = DoubleAbsmax::new(codes, absmax, Arc::new(*dynamic_map()), offset);
        Absmax::Double(double.expect("a scale for every group"))
    } else {
        Absmax::Plain(at_odd_address(&le_bytes(&scales)))
    };
    let table = format.code.table().map(|value| 0.75 * value + 0.001);
    let packed: HostBytes = at_odd_address(&packed);
    let weight = Weight4Bit::new((rows, cols), format, table, packed, absmax);
    weight
        .expect("as many codes and scales as the matrix needs")
        .into()
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
