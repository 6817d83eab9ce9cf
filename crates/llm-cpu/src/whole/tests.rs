//! Products that are whole numbers in every step, and hence equal to the scalar definition.

use llm_quant::{Activations, GgmlType, Parts, Scheme, StoredWeight};

use super::activations::Activations as Codes;
use super::scratch::Layout;
use crate::Isa;
use crate::digits::Digits;
use crate::matvec::GEMM_TOKENS;
use crate::tests::{cpu, product, rounding_cpu, written_at_end_of_file};

/// A type that activations are rounded for, with the places of the numbers that its scales are multiplied with.
struct Format {
    ty: GgmlType,
    f16: &'static [usize],
    exponent: Option<usize>,
}

const fn of_f16(ty: GgmlType, f16: &'static [usize]) -> Format {
    Format {
        ty,
        f16,
        exponent: None,
    }
}

const FORMATS: [Format; 13] = [
    of_f16(GgmlType::Q4_0, &[0]),
    of_f16(GgmlType::Q4_1, &[0, 2]),
    of_f16(GgmlType::Q5_0, &[0]),
    of_f16(GgmlType::Q5_1, &[0, 2]),
    of_f16(GgmlType::Q8_0, &[0]),
    of_f16(GgmlType::IQ4NL, &[0]),
    of_f16(GgmlType::IQ4XS, &[0]),
    of_f16(GgmlType::Q2K, &[80, 82]),
    of_f16(GgmlType::Q3K, &[108]),
    of_f16(GgmlType::Q4K, &[0, 2]),
    of_f16(GgmlType::Q5K, &[0, 2]),
    of_f16(GgmlType::Q6K, &[208]),
    Format {
        ty: GgmlType::MXFP4,
        f16: &[],
        exponent: Some(0),
    },
];

impl Format {
    /// A weight of blocks whose scale is one, all other bytes of which `byte` gives, and which ends with its file.
    fn weight(&self, rows: usize, cols: usize, mut byte: impl FnMut() -> u8) -> StoredWeight {
        let n_blocks = rows * cols / self.ty.block_len();
        let blocks = (0..n_blocks).flat_map(|_| {
            let mut block: Vec<u8> = (0..self.ty.block_bytes()).map(|_| byte()).collect();
            for &at in self.f16 {
                block[at..at + 2].copy_from_slice(&0x3c00_u16.to_le_bytes());
            }
            if let Some(at) = self.exponent {
                block[at] = 127;
            }
            block
        });
        StoredWeight {
            scheme: Scheme::Ggml(self.ty),
            rows,
            cols,
            parts: Parts::weight(written_at_end_of_file(&blocks.collect::<Vec<_>>())),
        }
    }
}

/// Bytes of any value, the same for a seed.
fn bytes(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }
}

/// Products as sums of whole numbers, which are the weight's elements times `x`, whose blocks have scales of one.
fn expected(weight: &StoredWeight, x: &[f32]) -> Vec<f32> {
    let values = weight.values().unwrap();
    let rows = x.chunks_exact(weight.cols).flat_map(|x| {
        let rows = values.chunks_exact(weight.cols);
        rows.map(move |row| {
            let products = row.iter().zip(x);
            let sum: f64 = products.map(|(w, x)| f64::from(w * x)).sum();
            assert!(sum.abs() < f64::from(1 << 24), "{sum} is rounded");
            sum as f32
        })
    });
    rows.collect()
}

fn check(format: &Format, weight: &StoredWeight, x: &[f32]) {
    let expected = expected(weight, x);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let cpu = rounding_cpu(isa, 1);
        let shape = (weight.rows, weight.cols);
        let found = product(&cpu, weight.clone(), shape, x);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                found == expected,
                "{:?}, {isa}: result {i} of {} tokens is {found}, not {expected}",
                format.ty,
                x.len() / weight.cols,
            );
        }
    }
}

#[test]
fn all_types_are_here() {
    for ty in GgmlType::ALL {
        let is_here = FORMATS.iter().any(|format| format.ty == ty);
        let is_rounded = Activations::Q8.are_rounded_for(Scheme::Ggml(ty));
        assert_eq!(is_here, is_rounded, "{ty:?}");
        assert!(!Activations::F32.are_rounded_for(Scheme::Ggml(ty)));
        let digits = Digits::of(Activations::F32, ty);
        assert!(digits.is_none_or(|digits| is_here && digits == Digits::Three));
    }
}

/// Types whose products take three digits.
fn formats_of_three() -> impl Iterator<Item = &'static Format> {
    FORMATS
        .iter()
        .filter(|format| Digits::of(Activations::F32, format.ty).is_some())
}

/// Codes of blocks of every magnitude, of numbers at the edges between digits, and of the largest.
#[test]
fn three_digits_are_within_half_a_step() {
    let cols = 96;
    let at_edges = [
        8_323_072.0,
        8_323_071.5,
        32_896.5,
        32_895.0,
        128.0,
        127.5,
        0.5,
        1.5,
    ];
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for magnitude in [1e-29f32, 1e-3, 1.0, 65504.0, 3.4e38] {
            let x: Vec<f32> = (0..2 * cols)
                .map(|i| match i / 32 {
                    1 => at_edges[i % 8] / 8_323_072.0 * magnitude * [1.0, -1.0][i / 8 % 2],
                    // As the largest of all has it.
                    2 if i % 32 == 7 => -magnitude,
                    _ => magnitude * (i as f32 * 0.7).sin(),
                })
                .collect();
            let cpu = cpu(isa, 1);
            let layout = Layout::new(Digits::Three, 2, cols, 1);
            let mut memory = vec![0.0; layout.len()];
            let codes = Codes::round(&cpu, &x, cols, 0, layout.split(&mut memory).rounded);
            let width = codes.width();
            let largest = |token: usize, column: usize| {
                let block = &x[token * cols + column / 32 * 32..][..32];
                block.iter().fold(0f32, |max, x| max.max(x.abs()))
            };
            for (i, &x) in x.iter().enumerate() {
                let (token, column) = (i / cols, i % cols);
                let block = token * codes.n_blocks + column / 32;
                let digit =
                    |rank: usize| i64::from(codes.codes[(3 * token + rank) * width + column]);
                let code = (digit(0) * 256 + digit(1)) * 256 + digit(2);
                let scale = f64::from(codes.scales[block]);
                let off = (code as f64 * scale - f64::from(x)).abs();
                assert!(off <= scale / 2.0, "{isa}: {x:e} by {off:e} of {scale:e}");
                // The largest code is a bit less than 2²³.
                assert!(scale <= 1.01 * f64::from(largest(token, column)) / f64::from(1 << 22));
            }
        }
    }
}

/// Few rows and many, in rows of whole pieces and of a few groups more.
#[test]
fn random_codes_are_multiplied_exactly() {
    for format in &FORMATS {
        for (seed, (rows, cols, n_tokens)) in (1..).zip([
            (1, 256, 1),
            (5, 512, 3),
            (9, 288, 2),
            (3, 32, 1),
            (7, 1024, 5),
            (17, 1024, 12),
            (35, 800, 21),
        ]) {
            if !usize::is_multiple_of(cols, format.ty.block_len()) {
                continue;
            }
            let weight = format.weight(rows, cols, bytes(seed));
            let mut byte = bytes(100 + seed);
            let x: Vec<f32> = (0..n_tokens * cols)
                .map(|i| match i % 32 {
                    // The scale of each block is one.
                    3 => 127.0,
                    _ => f32::from(byte() % 3) - 1.0,
                })
                .collect();
            check(format, &weight, &x);
        }
    }
}

/// Products of the largest codes of either sign, which instructions may saturate.
#[test]
fn the_largest_codes_are_multiplied_exactly() {
    for format in &FORMATS {
        let cols = 256;
        for all in [0x00, 0x7f, 0x80, 0x88, 0xf0, 0xff] {
            let weight = format.weight(5, cols, || all);
            for n_tokens in [1, 2, 12] {
                for sign in [1.0, -1.0] {
                    let x: Vec<f32> = (0..n_tokens * cols)
                        .map(|i| match (i / 32 % 8, i % 2) {
                            (1, _) => 127.0 * sign,
                            (6, 0) => 127.0 * sign,
                            (6, _) => -127.0 * sign,
                            _ => 0.0,
                        })
                        .collect();
                    check(format, &weight, &x);
                }
            }
        }
    }
}

/// One sequence's NaN is not another's, and not lost either.
#[test]
fn what_is_not_finite_is_seen() {
    for format in &FORMATS {
        let (rows, cols) = (5, 256);
        // Zeros as well: what is not finite times them is not finite.
        for weight in [
            format.weight(rows, cols, || 0),
            format.weight(rows, cols, bytes(3)),
        ] {
            for n_tokens in [2, 5, 13] {
                for not_finite in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x = vec![1.0; n_tokens * cols];
                    x[cols + 200] = not_finite;
                    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                        let cpu = rounding_cpu(isa, 1);
                        let found = product(&cpu, weight.clone(), (rows, cols), &x);
                        for (token, found) in found.chunks_exact(rows).enumerate() {
                            let is_seen = found.iter().all(|y| y.is_nan() == (token == 1));
                            assert!(is_seen, "{:?}, {isa}: token {token}: {found:?}", format.ty);
                        }
                    }
                }
            }
        }
    }
}

/// Sums of products of three digits, of random codes and of the largest ones, are off by what activations are rounded by and sums in
/// f32 are, on every instruction set and for any number of tokens.
#[test]
fn three_digits_are_multiplied_as_f32_would_be() {
    for format in formats_of_three() {
        let (rows, cols) = (9, 768);
        let mut byte = bytes(5);
        let random: Vec<f32> = (0..(GEMM_TOKENS - 1) * cols)
            .map(|_| (f32::from(byte()) - 127.5) * (1.0 + f32::from(byte()) * 1e-4))
            .collect();
        let largest: Vec<f32> = (0..(GEMM_TOKENS - 1) * cols)
            .map(|i| match i / 32 % 3 {
                0 => 255.99,
                1 => -255.99,
                _ => [255.99, -255.99, 1e-4][i % 3],
            })
            .collect();
        for all in [None, Some(0x00), Some(0x7f), Some(0x88), Some(0xff)] {
            let mut byte = bytes(9);
            let weight = format.weight(rows, cols, || all.unwrap_or_else(&mut byte));
            let values = weight.values().unwrap();
            for (x, n_tokens) in [(&random, 1), (&random, 2), (&random, 11), (&largest, 5)] {
                let x = &x[..n_tokens * cols];
                for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                    let found = product(&cpu(isa, 1), weight.clone(), (rows, cols), x);
                    for (i, &found) in found.iter().enumerate() {
                        let x = &x[i / rows * cols..][..cols];
                        let row = &values[i % rows * cols..][..cols];
                        let products = row.iter().zip(x);
                        let products = products.map(|(w, x)| f64::from(*w) * f64::from(*x));
                        let (sum, size) = products.fold((0.0, 0.0), |(sum, size), product| {
                            (sum + product, size + product.abs())
                        });
                        // Minimums count twice: sums with and without them are larger than what is left.
                        let steps: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
                        let bound = 2f64.powi(-22) * (4.0 * size + 256.0 * steps);
                        let off = (f64::from(found) - sum).abs();
                        assert!(
                            off <= bound,
                            "{:?}, {isa}: result {i} of {n_tokens} tokens is {found}, not {sum}, off by {off:e} of {bound:e}",
                            format.ty,
                        );
                    }
                }
            }
        }
    }
}
