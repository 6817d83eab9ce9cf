//! Products that are whole numbers in every step, and hence equal to the scalar definition.

use llm_quant::{Activations, GgmlType, Parts, Scheme, StoredWeight};

use crate::Isa;
use crate::tests::{product, rounding_cpu, written_at_end_of_file};

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
