use std::sync::Arc;

use llm_backend::{Backend, LinearPart, Ops, Output};
use llm_quant::{
    Absmax, BlockSize, Code, DoubleAbsmax, Encoder, FourBit, NESTED_BLOCK, Weight4Bit, dynamic_map,
};
use llm_tensor::HostBytes;

use crate::matvec::{GEMM_TOKENS, GEMM_TOKENS_4BIT};
use crate::tests::{at_end_of_file, cpu, shape};
use crate::{Cpu, Isa, tests};

const BLOCK_SIZES: [u64; 3] = [32, 64, 256];
/// Whole and broken blocks, words and bytes.
const SHAPES: [(usize, usize); 11] = [
    (1, 1),
    (2, 15),
    (1, 32),
    (7, 64),
    (5, 96),
    (3, 192),
    (66, 100),
    (17, 320),
    (2, 544),
    (2, 1024),
    (29, 1344),
];

fn cpus() -> impl Iterator<Item = Arc<Cpu>> {
    let available = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    available.map(|isa| cpu(isa, 1))
}

/// Every shape in every format, of bytes that `bytes` makes.
fn weights(bytes: impl Fn(usize) -> HostBytes) -> Vec<Weight4Bit> {
    let mut weights = Vec::new();
    for shape in SHAPES {
        for block_size in BLOCK_SIZES {
            for double_quant in [false, true] {
                let format = FourBit {
                    code: Code::Nf4,
                    block_size: BlockSize::new(block_size).unwrap(),
                    double_quant,
                };
                let n = shape.0 * shape.1;
                let n_blocks = n.div_ceil(block_size as usize);
                let absmax = if double_quant {
                    let scales = bytes(n_blocks.div_ceil(NESTED_BLOCK) * 4);
                    let map = Arc::new(*dynamic_map());
                    let double = DoubleAbsmax::new(bytes(n_blocks), scales, map, 0.0);
                    Absmax::Double(double.unwrap())
                } else {
                    Absmax::Plain(bytes(n_blocks * 4))
                };
                let packed = bytes(n.div_ceil(2));
                let table = *Code::Nf4.table();
                weights.push(Weight4Bit::new(shape, format, table, packed, absmax).unwrap());
            }
        }
    }
    weights
}

/// Bytes whose f32 are small and not special.
fn pattern(n: usize) -> HostBytes {
    let bytes: Vec<u8> = (0..=n)
        .map(|i| {
            if i % 4 == 0 {
                0x3d
            } else {
                (i * 31 % 251) as u8
            }
        })
        .collect();
    HostBytes::new(bytes).slice(1..n + 1)
}

#[test]
fn nothing_beyond_a_weight_is_read() {
    let weights = weights(at_end_of_file);
    for cpu in cpus() {
        for weight in &weights {
            let (rows, cols) = (weight.rows(), weight.cols());
            let loaded = cpu.load(weight.clone().into()).unwrap();
            let part = LinearPart {
                weight: &loaded,
                bias: None,
            };
            let mut x = cpu.alloc(40 * cols).unwrap();
            x.as_mut_slice().fill(1.0);
            for n_tokens in [1, 3, 20, 40] {
                let mut queue = cpu.queue(Some(&shape(n_tokens, cols, rows))).unwrap();
                let mut out = cpu.alloc(n_tokens * rows).unwrap();
                out.as_mut_slice().fill(f32::NAN);
                queue
                    .linear(&[part], &x, Output::Write, &mut out, n_tokens)
                    .unwrap();
                // The file holds zeros only, and so do the scales.
                assert!(out.as_slice().iter().all(|&y| y == 0.0), "{weight:?}");
            }
            let mut decoded = vec![f32::NAN; rows * cols];
            cpu.decode_4bit(weight, 0, &mut decoded);
            assert!(decoded.iter().all(|&value| value == 0.0), "{weight:?}");
        }
    }
}

#[test]
fn any_elements_are_decoded_to_the_exact_values() {
    for weight in weights(pattern) {
        let n = weight.rows() * weight.cols();
        let expected: Vec<u32> = (0..n).map(|i| weight.element(i).to_bits()).collect();
        for cpu in cpus() {
            for first in [0, 1, 2, 31, 33, 100] {
                for len in [0, 1, 2, 15, 17, 64, 67, 300, n] {
                    if first + len > n {
                        continue;
                    }
                    let mut decoded = vec![f32::NAN; len];
                    cpu.decode_4bit(&weight, first, &mut decoded);
                    let found: Vec<u32> = decoded.iter().map(|value| value.to_bits()).collect();
                    assert!(
                        found == expected[first..first + len],
                        "{first} {len} {weight:?}"
                    );
                }
            }
        }
    }
}

fn product(cpu: &Arc<Cpu>, weight: &Weight4Bit, x: &[f32]) -> Vec<f32> {
    let shape = (weight.rows(), weight.cols());
    tests::product(cpu, weight.clone().into(), shape, x)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn tokens(n: usize, cols: usize) -> Vec<f32> {
    let value = |i: usize| (i * 37 % 101) as f32 / 31.0 - 1.7;
    (0..n * cols).map(value).collect()
}

/// Promise that sequences which decode together rely on.
#[test]
fn a_token_has_the_same_bits_among_others() {
    for weight in weights(pattern) {
        let (rows, cols) = (weight.rows(), weight.cols());
        // From there on panels are multiplied, in another order.
        let most = if cols % weight.format().block_size.get() == 0 {
            GEMM_TOKENS_4BIT - 1
        } else {
            GEMM_TOKENS - 1
        };
        let x = tokens(most, cols);
        for cpu in cpus() {
            let alone: Vec<f32> = x
                .chunks_exact(cols)
                .flat_map(|x| product(&cpu, &weight, x))
                .collect();
            for (token, found) in alone.chunks_exact(rows).enumerate() {
                for (row, &found) in found.iter().enumerate() {
                    let terms = (0..cols).map(|col| {
                        let element = weight.element(row * cols + col);
                        f64::from(element) * f64::from(x[token * cols + col])
                    });
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| {
                        (sum + term, size + f64::abs(term))
                    });
                    // Each of a few hundred roundings in turn is of a part of the sum of magnitudes.
                    let error = (f64::from(found) - sum).abs();
                    assert!(
                        error <= 200.0 * f64::from(f32::EPSILON) * size,
                        "{weight:?}"
                    );
                }
            }
            for n_tokens in (1..=17).chain([most]).filter(|&n| n <= most) {
                let found = product(&cpu, &weight, &x[..n_tokens * cols]);
                assert!(
                    bits(&found) == bits(&alone[..n_tokens * rows]),
                    "{n_tokens} tokens on {}: {weight:?}",
                    cpu.info().name
                );
            }
        }
    }
}

/// Wherever in a tile, or beside all of them, a row falls.
#[test]
fn a_row_has_the_same_bits_among_others() {
    for whole in weights(pattern) {
        let (rows, cols) = (whole.rows(), whole.cols());
        let block_size = whole.format().block_size.get();
        let Absmax::Plain(absmax) = whole.absmax() else {
            continue;
        };
        if cols % block_size != 0 {
            continue;
        }
        for cpu in cpus() {
            for n_tokens in [1, 2, 4, 8] {
                let x = tokens(n_tokens, cols);
                let expected = product(&cpu, &whole, &x);
                for first in (1..rows).take(12) {
                    let n = (rows - first) * cols;
                    let element = first * cols;
                    let packed = whole.packed().slice(element / 2..(element + n) / 2);
                    let block = element / block_size;
                    let absmax = absmax.slice(4 * block..4 * (block + n / block_size));
                    let part = Weight4Bit::new(
                        (rows - first, cols),
                        whole.format(),
                        *whole.table(),
                        packed,
                        Absmax::Plain(absmax),
                    );
                    let found = product(&cpu, &part.unwrap(), &x);
                    let of_tokens = found.chunks_exact(rows - first);
                    for (found, expected) in of_tokens.zip(expected.chunks_exact(rows)) {
                        assert!(
                            bits(found) == bits(&expected[first..]),
                            "{n_tokens} tokens, rows from {first} on: {whole:?}"
                        );
                    }
                }
            }
        }
    }
}
