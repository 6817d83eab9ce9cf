//! Linear operations with weights in the formats of published files, alone and beside others.

use std::sync::Arc;

use llm_backend::{Backend, Output};
use llm_quant::{
    ACTIVATION_BLOCK, Activations, Fp8, GgmlType, GroupCode, Grouped, Part as StoredPart, PartInfo,
    Parts, Scheme, StoredWeight,
};
use llm_tensor::{DType, f32_to_le_bytes};

use crate::case::{Case, EPS};
use crate::data::{Random, at_odd_address};
use crate::linear::Linear;
use crate::schemes::{block_len, weight_in};

#[derive(Debug)]
pub(crate) struct PackedCase {
    parts: Vec<Part>,
    cols: usize,
    n_tokens: usize,
    output: Output,
    /// An element of x that is not a number.
    nan_at: Option<usize>,
    /// Relative error of a product.
    pub(crate) product_error: f64,
    activations: Activations,
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

pub(crate) fn cases(schemes: &[Scheme]) -> Vec<PackedCase> {
    let mut cases = Vec::new();
    for &scheme in schemes {
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
                    product_error: PRODUCT_ERROR,
                    activations: Activations::F32,
                });
            }
        }
    }
    // Beside each other, and beside weights that are computed with otherwise.
    for n_tokens in N_TOKENS {
        let part = |rows, scheme, bias| Part { rows, scheme, bias };
        let mut parts = vec![part(7, Scheme::Dense(DType::BF16), None)];
        for (i, &scheme) in schemes.iter().enumerate() {
            parts.push(part(i + 1, scheme, (i % 4 == 1).then_some(DType::F16)));
        }
        cases.push(PackedCase {
            parts,
            cols: 512,
            n_tokens,
            output: Output::Add,
            nan_at: None,
            product_error: PRODUCT_ERROR,
            activations: Activations::F32,
        });
    }
    cases
}

/// The same where activations are rounded for those that can be multiplied so.
pub(crate) fn rounded_cases(schemes: &[Scheme]) -> Vec<PackedCase> {
    let rounded = |case| PackedCase {
        activations: Activations::Q8,
        ..case
    };
    cases(schemes).into_iter().map(rounded).collect()
}

impl PackedCase {
    fn linear(&self) -> Linear {
        let mut random = Random::new(26);
        let mut x = random.values(self.n_tokens * self.cols, 1.0);
        if self.activations == Activations::Q8 {
            // Blocks of zeros, of magnitudes that are zeros, and of one that hides all others.
            for (i, x) in x.chunks_mut(ACTIVATION_BLOCK).enumerate() {
                match i % 5 {
                    1 => x.fill(0.0),
                    2 => x.iter_mut().for_each(|x| *x *= 1e-31),
                    3 => x[i % x.len()] = 1e3,
                    _ => {}
                }
            }
        }
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
        let error = self.product_error;
        self.linear().bounds_with(self.activations, error)
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
        parts: Parts::weight(at_odd_address(&blocks)),
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

/// A weight of random numbers, none of which is NaN or infinite, with scales from 1/8 to 1.
pub(crate) fn fp8(random: &mut Random, (rows, cols): (usize, usize), format: Fp8) -> StoredWeight {
    let scheme = Scheme::Fp8(format);
    parts_of(
        random,
        scheme,
        (rows, cols),
        |random, part, info| match part {
            // Without the exponents' highest bit.
            StoredPart::Weight => (0..info.bytes)
                .map(|_| random.below(256) as u8 & 0xbf)
                .collect(),
            _ => scales(random, info),
        },
    )
}

/// A weight of random codes, zeros and order, with scales from 1/8 to 1.
pub(crate) fn grouped(
    random: &mut Random,
    (rows, cols): (usize, usize),
    format: Grouped,
) -> StoredWeight {
    let scheme = Scheme::Grouped(format);
    parts_of(
        random,
        scheme,
        (rows, cols),
        |random, part, info| match part {
            StoredPart::Scales | StoredPart::GlobalScale => scales(random, info),
            StoredPart::Order => {
                let mut order: Vec<u32> = (0..cols as u32).collect();
                random.shuffle(&mut order);
                order.into_iter().flat_map(u32::to_le_bytes).collect()
            }
            StoredPart::Zeros if format.code == GroupCode::Int4 => {
                (0..info.bytes).map(|_| random.below(16) as u8).collect()
            }
            _ => (0..info.bytes).map(|_| random.below(256) as u8).collect(),
        },
    )
}

/// A weight whose parts are at odd addresses.
fn parts_of(
    random: &mut Random,
    scheme: Scheme,
    (rows, cols): (usize, usize),
    mut bytes: impl FnMut(&mut Random, StoredPart, PartInfo) -> Vec<u8>,
) -> StoredWeight {
    StoredWeight {
        scheme,
        rows,
        cols,
        parts: scheme
            .parts(rows as u64, cols as u64)
            .map(|part, info| at_odd_address(&bytes(random, part, info))),
    }
}

/// Numbers from 1/8 to 1.
fn scales(random: &mut Random, info: PartInfo) -> Vec<u8> {
    let n = info.bytes as usize / info.dtype.size();
    let values = random
        .values(n, 1.0)
        .into_iter()
        .map(|x| x.abs().max(0.125));
    let bytes = values.flat_map(|x| match info.dtype {
        DType::F32 => x.to_le_bytes().to_vec(),
        DType::BF16 => x.to_le_bytes()[2..].to_vec(),
        DType::F16 => {
            let mut bytes = vec![0; 2];
            f32_to_le_bytes(&[x], DType::F16, &mut bytes).expect("f16 has numbers");
            bytes
        }
        DType::F8E8M0 => vec![(x.to_bits() >> 23) as u8],
        // Exponents from -3 on, and three bits behind them.
        DType::F8E4M3 => vec![((x.to_bits() >> 20) - (120 << 3)) as u8],
        other => panic!("no case has scales in {other}"),
    });
    bytes.collect()
}

/// Different blocks of a weight.
const N_KINDS: usize = 20;
