use std::sync::Arc;

use llm_tensor::HostBytes;
use proptest::prelude::*;

use super::*;
use crate::{
    Absmax, DoubleAbsmax, Encoder, Int8Weight, NESTED_BLOCK, Scalar, StoredWeight, Weight4Bit,
    double, dynamic_map,
};

fn bytes_of(values: &[f32]) -> HostBytes {
    HostBytes::new(
        values
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

fn encoded_4bit(format: FourBit, rows: usize, cols: usize, elements: &[f32]) -> Weight4Bit {
    let n = elements.len();
    let mut packed = vec![0; n.div_ceil(2)];
    let mut scales = vec![0.0; n.div_ceil(format.block_size.get())];
    let (code, block_size) = (format.code, format.block_size);
    Scalar.encode_4bit(
        code,
        block_size,
        DType::F32,
        &bytes_of(elements),
        &mut packed,
        &mut scales,
    );
    let absmax = if format.double_quant {
        let offset = double::offset(&scales);
        let mut codes = vec![0; scales.len()];
        let mut nested = vec![0.0; scales.len().div_ceil(NESTED_BLOCK)];
        double::encode(&scales, offset, &mut codes, &mut nested);
        let map = Arc::new(*dynamic_map());
        let codes = HostBytes::new(codes);
        Absmax::Double(DoubleAbsmax::new(codes, bytes_of(&nested), map, offset).unwrap())
    } else {
        Absmax::Plain(bytes_of(&scales))
    };
    let packed = HostBytes::new(packed);
    Weight4Bit::new((rows, cols), format, *code.table(), packed, absmax).unwrap()
}

/// Wherever elements begin, they are those of the whole matrix.
fn is_decoded_in_parts(stored: &StoredWeight, element: impl Fn(usize) -> f32) {
    let n = stored.rows * stored.cols;
    for (first, len) in [(0, n), (n - 1, 1), (n / 3, n / 2), (n / 2, 0), (n / 7, 1)] {
        let mut found = vec![0.0; len];
        stored.decode(first, &mut found).unwrap();
        for (i, found) in found.into_iter().enumerate() {
            assert_eq!(found.to_bits(), element(first + i).to_bits());
        }
    }
}

fn formats() -> impl Strategy<Value = FourBit> {
    (
        prop::sample::select(&Code::ALL[..]),
        prop::sample::select(vec![32, 64, 128, 256, 512, 1024, 2048, 4096]),
        any::<bool>(),
    )
        .prop_map(|(code, block_size, double_quant)| FourBit {
            code,
            block_size: BlockSize::new(block_size).unwrap(),
            double_quant,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sizes_of_4_bits_are_what_encoding_takes(format in formats(), rows in 1usize..40, cols in 1usize..500) {
        let elements: Vec<f32> = (0..rows * cols).map(|i| (i as f32).sin()).collect();
        let weight = encoded_4bit(format, rows, cols, &elements);
        let expected = Scheme::FourBit(format).stored_bytes(rows as u64, cols as u64);
        let stored = StoredWeight::from(weight.clone());
        prop_assert_eq!(stored.stored_bytes(), expected);
        prop_assert_eq!(stored.scheme, Scheme::FourBit(format));
        // The widest gap between neighbouring values is a third of the scale, and a scale's own error a hundredth.
        let stored = stored.checked().unwrap();
        let weight = Weight4Bit::of(&stored).unwrap();
        is_decoded_in_parts(&stored, |i| weight.element(i));
        for (i, &x) in elements.iter().enumerate() {
            prop_assert!((weight.element(i) - x).abs() <= 0.18, "{} at {}", weight.element(i), i);
        }
    }

    #[test]
    fn sizes_of_8_bits_are_what_encoding_takes(rows in 1usize..40, cols in 1usize..200) {
        let elements: Vec<f32> = (0..rows * cols).map(|i| (i as f32).sin()).collect();
        let (mut codes, mut scales) = (vec![0; elements.len()], vec![0.0; rows]);
        Scalar.encode_int8(DType::F32, &bytes_of(&elements), cols, &mut codes, &mut scales);
        let format = Int8 { threshold: 6.0 };
        let weight = Int8Weight::new((rows, cols), format, HostBytes::new(codes), bytes_of(&scales)).unwrap();
        let stored = StoredWeight::from(weight.clone());
        prop_assert_eq!(stored.stored_bytes(), Scheme::Int8(format).stored_bytes(rows as u64, cols as u64));
        let stored = stored.checked().unwrap();
        let weight = Int8Weight::of(&stored).unwrap();
        is_decoded_in_parts(&stored, |i| weight.element(i));
        for (i, &x) in elements.iter().enumerate() {
            // Half a step of 1/127, and the rounding to f16.
            prop_assert!((weight.element(i) - x).abs() <= 0.5 / 127.0 + 1.0 / 2048.0);
        }
    }
}

#[test]
fn parameters_take_what_the_papers_say() {
    let format = FourBit {
        code: Code::Nf4,
        block_size: BlockSize::DEFAULT,
        double_quant: false,
    };
    let bits = |scheme: Scheme| {
        scheme.stored_bytes(4096, 4096).total().get() as f64 * 8.0 / (4096.0 * 4096.0)
    };
    assert!((bits(Scheme::FourBit(format)) - 4.5).abs() < 1e-4);
    let double = FourBit {
        double_quant: true,
        ..format
    };
    // QLoRA, section 3: 0.127 bits a parameter for the scales.
    assert!((bits(Scheme::FourBit(double)) - 4.127).abs() < 1e-3);
}
