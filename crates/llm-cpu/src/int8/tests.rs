use std::num::NonZeroUsize;
use std::sync::Arc;

use llm_backend::Backend;
use llm_quant::{Activations8, Encoder, Int8, Int8Weight, PRODUCT_SCALE, Scalar};
use llm_tensor::{DType, HostBytes, f32_to_le_bytes};

use super::activations::Activations;
use super::encode_int8;
use super::scratch::Layout;
use crate::isa::Level;
use crate::simd::int::int_levels;
use crate::tests::at_end_of_file;
use crate::{Cpu, CpuOptions, Isa, tests};

/// Numbers that are nothing special, within ±1.
fn values(n: usize) -> Vec<f32> {
    let mut state = 9u32;
    let next = |_| {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

fn levels() -> impl Iterator<Item = Level> {
    Isa::ALL.into_iter().filter_map(Level::new)
}

/// A processor for each set of integer instructions, the plainest first.
fn cpus(n_threads: usize) -> Vec<Arc<Cpu>> {
    let isas = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let cpus = isas.flat_map(|isa| {
        let cpu = |int_level| {
            let mut cpu = Cpu::new(CpuOptions {
                threads: NonZeroUsize::new(n_threads),
                isa: Some(isa),
                ..CpuOptions::default()
            })
            .unwrap();
            cpu.int_level = int_level;
            Arc::new(cpu)
        };
        int_levels(isa).into_iter().map(cpu).collect::<Vec<_>>()
    });
    cpus.collect()
}

/// The same bits, but for those of NaN.
fn same_scale(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Widths of one, of a register and of several, less or more by one.
const COLS: [usize; 12] = [1, 7, 8, 15, 16, 17, 63, 64, 65, 576, 1031, 2500];

#[test]
fn weights_are_encoded_as_the_scalar_encoder_does() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for cols in COLS {
            let mut x = values(12 * cols);
            for (i, row) in x.chunks_exact_mut(cols).enumerate() {
                match i {
                    0 => row.fill(0.0),
                    1 => row.fill(-0.0),
                    // Subnormal in f16, and below.
                    2 => row.iter_mut().for_each(|x| *x *= 6e-8),
                    3 => row.iter_mut().for_each(|x| *x *= 60000.0),
                    4 => row[cols / 2] = f32::NAN,
                    5 => row[cols - 1] = f32::NEG_INFINITY,
                    6 => row[0] = 70000.0,
                    7 => row.iter_mut().for_each(|x| *x = x.round()),
                    _ => {}
                }
            }
            for offset in [0, 1] {
                let mut bytes = vec![0; offset + x.len() * dtype.size()];
                let elements = &mut bytes[offset..];
                f32_to_le_bytes(&x, dtype, elements).unwrap();
                let (mut codes, mut absmax) = (vec![1; x.len()], vec![1.0; 12]);
                Scalar.encode_int8(dtype, elements, cols, &mut codes, &mut absmax);
                assert_eq!(absmax.iter().filter(|x| x.is_finite()).count(), 9);
                for level in levels() {
                    let (mut found, mut scales) = (vec![2; x.len()], vec![2.0; 12]);
                    encode_int8(level, dtype, elements, cols, &mut found, &mut scales);
                    assert_eq!(found, codes, "{level:?}, {dtype}, {cols} columns");
                    for (&found, &expected) in scales.iter().zip(&absmax) {
                        assert!(
                            same_scale(found, expected),
                            "{level:?}, {dtype}: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn activations_are_quantized_as_the_scalar_ones_are() {
    for n_threads in [1, 3] {
        for cpu in cpus(n_threads) {
            for cols in COLS {
                for n_tokens in [1, 2, 20] {
                    let mut x = values(n_tokens * cols);
                    x.iter_mut().step_by(97).for_each(|x| *x *= 20.0);
                    let n = x.len();
                    // Exactly the threshold in f16, and just below.
                    x[n / 2] = 5.999;
                    x[n / 3] = 5.99;
                    let mut extreme = x.clone();
                    extreme[n - 1] = f32::INFINITY;
                    extreme[n / 2] = f32::NAN;
                    extreme[n / 4] = -1e30;
                    for x in [x, extreme, vec![0.0; n]] {
                        for threshold in [0.0, -1.0, 1e-9, 0.9, 6.0, 65504.0, 1e9] {
                            check_activations(&cpu, &x, cols, n_tokens, threshold);
                        }
                    }
                }
            }
        }
    }
}

fn check_activations(cpu: &Cpu, x: &[f32], cols: usize, n_tokens: usize, threshold: f32) {
    let expected = Activations8::quantize(x, cols, threshold);
    let layout = Layout::new(n_tokens, cols, cpu.level.geometry(), cpu.n_threads());
    // What was there before must not matter.
    let mut memory = vec![f32::from_bits(0x5555_5555); layout.len()];
    let into = layout.split(&mut memory).quantized;
    let found = Activations::quantize(cpu, x, cols, threshold, into);
    let what = format!("{}, [{n_tokens}, {cols}], {threshold}", cpu.info().name);
    for (token, codes) in found.codes.chunks_exact(found.padded_cols).enumerate() {
        let expected = &expected.codes[token * cols..][..cols];
        assert_eq!(&codes[..cols], expected, "{what}");
        assert!(codes[cols..].iter().all(|&code| code == 0), "{what}");
        let sum: i32 = expected.iter().map(|&code| i32::from(code)).sum();
        assert_eq!(found.code_sums[token], sum, "{what}");
    }
    for (&found, &expected) in found.absmax.iter().zip(&expected.absmax) {
        assert!(
            same_scale(found, expected),
            "{what}: {found}, expected {expected}"
        );
    }
    let outlier_cols: Vec<_> = found.outlier_cols.iter().map(|&col| col as usize).collect();
    assert_eq!(outlier_cols, expected.outlier_cols, "{what}");
}

/// Codes of all 256 values, the last at the end of an allocation.
fn int8_weight(rows: usize, cols: usize, threshold: f32) -> Int8Weight {
    let codes: Vec<u8> = (0..1 + rows * cols)
        .map(|i| (i * 89 + i / 256) as u8)
        .collect();
    let scales = (0..rows).flat_map(|row| (1.0 + row as f32 / 7.0).to_le_bytes());
    Int8Weight::new(
        (rows, cols),
        Int8 { threshold },
        HostBytes::new(codes).slice(1..1 + rows * cols),
        HostBytes::new(scales.collect::<Vec<_>>()),
    )
    .unwrap()
}

fn product(cpu: &Arc<Cpu>, weight: &Int8Weight, x: &[f32]) -> Vec<f32> {
    let shape = (weight.rows(), weight.cols());
    tests::product(cpu, weight.clone().into(), shape, x)
}

/// Integer sums are exact and scaled alike, and few outliers are summed in order: nothing differs by a bit.
#[test]
fn products_are_those_of_the_scalar_weight() {
    for cpu in cpus(2) {
        for rows in [1, 3, 4, 8, 13, 40] {
            for cols in COLS {
                for (n_tokens, threshold) in [
                    (1, 0.0),
                    (1, 0.9),
                    (2, 0.9),
                    (7, 0.99),
                    (20, 0.0),
                    (300, 0.0),
                ] {
                    let weight = int8_weight(rows, cols, threshold);
                    let x = values(n_tokens * cols);
                    let found = product(&cpu, &weight, &x);
                    let quantized = Activations8::quantize(&x, cols, threshold);
                    for (i, &found) in found.iter().enumerate() {
                        let (token, row) = (i / rows, i % rows);
                        let expected = weight.dot(
                            row,
                            &quantized.codes[token * cols..][..cols],
                            quantized.absmax[token],
                            &x[token * cols..][..cols],
                            &quantized.outlier_cols,
                        );
                        assert_eq!(
                            found, expected,
                            "{:?}: [{rows}, {cols}], {n_tokens} tokens, {threshold}, result {i}",
                            cpu.int_level
                        );
                    }
                }
            }
        }
    }
}

/// All codes at their largest: sums that are too large for 32 bits.
#[test]
fn no_sum_overflows() {
    for cols in [65535, 65600, 140_000, 270_000] {
        for code in [127i8, -128] {
            let weight = Int8Weight::new(
                (5, cols),
                Int8 { threshold: 0.0 },
                HostBytes::new(vec![code as u8; 5 * cols]),
                HostBytes::new(1f32.to_le_bytes().repeat(5)),
            )
            .unwrap();
            let sum = i64::from(code) * 127 * cols as i64;
            for (n_tokens, sign) in [(1, 1.0), (2, -1.0), (13, 1.0)] {
                let x = vec![sign; n_tokens * cols];
                let expected = (sum as f32 * sign) * PRODUCT_SCALE;
                for cpu in cpus(1) {
                    let found = product(&cpu, &weight, &x);
                    let what = (cpu.int_level, cols, code, n_tokens);
                    assert_eq!(found, vec![expected; 5 * n_tokens], "{what:?}");
                }
            }
        }
    }
}

#[test]
fn nothing_is_read_beyond_codes_and_scales() {
    for cpu in cpus(1) {
        for (rows, cols) in [(1, 1), (3, 15), (4, 63), (5, 65), (9, 64), (17, 200)] {
            let weight = Int8Weight::new(
                (rows, cols),
                Int8 { threshold: 0.5 },
                at_end_of_file(rows * cols),
                at_end_of_file(rows * 4),
            )
            .unwrap();
            for n_tokens in [1, 3, 20] {
                let found = product(&cpu, &weight, &values(n_tokens * cols));
                // The file holds zeros only.
                assert!(found.iter().all(|&y| y == 0.0));
            }
        }
    }
}
