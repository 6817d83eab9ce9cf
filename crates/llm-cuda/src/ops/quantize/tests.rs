use std::sync::Arc;

use cuda_emulator::harness::Machine;
use llm_backend::Backend;
use llm_quant::{
    Absmax, BlockSize, Code, DoubleAbsmax, Encoder, FourBit, Int8, Int8Weight, NESTED_BLOCK,
    Scalar, Scheme, StoredWeight, Weight4Bit, double, dynamic_map,
};
use llm_tensor::{DType, HostBytes};

use crate::Cuda;

const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 31), (5, 300), (9, 1031)];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Elements of different magnitudes, some blocks of them zero.
fn elements(n: usize, dtype: DType) -> Vec<u8> {
    let value = |i: usize| {
        let noise = (i as u32).wrapping_mul(2_654_435_761) >> 8;
        let scale = [1.0, 0.01, 0.0, 3.0][i / 256 % 4];
        (noise as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    let values = (0..n).map(value);
    match dtype {
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F16 => values
            .flat_map(|x| half::f16::from_f32(x).to_le_bytes())
            .collect(),
        _ => values
            .flat_map(|x| half::bf16::from_f32(x).to_le_bytes())
            .collect(),
    }
}

/// What `llm-quant` writes.
fn expected(scheme: Scheme, (rows, cols): (usize, usize), dtype: DType) -> StoredWeight {
    let elements = elements(rows * cols, dtype);
    let bytes = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    match scheme {
        Scheme::FourBit(format) => {
            let n = rows * cols;
            let mut packed = vec![0; n.div_ceil(2)];
            let mut scales = vec![0.0; n.div_ceil(format.block_size.get())];
            let (code, size) = (format.code, format.block_size);
            Scalar.encode_4bit(code, size, dtype, &elements, &mut packed, &mut scales);
            let absmax = if format.double_quant {
                let offset = double::offset(&scales);
                let mut codes = vec![0; scales.len()];
                let mut absmax = vec![0.0; scales.len().div_ceil(NESTED_BLOCK)];
                double::encode(&scales, offset, &mut codes, &mut absmax);
                let (codes, absmax) = (HostBytes::new(codes), HostBytes::new(bytes(&absmax)));
                let map = Arc::new(*dynamic_map());
                Absmax::Double(DoubleAbsmax::new(codes, absmax, map, offset).unwrap())
            } else {
                Absmax::Plain(HostBytes::new(bytes(&scales)))
            };
            let table = *format.code.table();
            let packed = HostBytes::new(packed);
            let weight = Weight4Bit::new((rows, cols), format, table, packed, absmax);
            weight.unwrap().into()
        }
        Scheme::Int8(format) => {
            let mut codes = vec![0; rows * cols];
            let mut absmax = vec![0.0; rows];
            Scalar.encode_int8(dtype, &elements, cols, &mut codes, &mut absmax);
            let (codes, absmax) = (HostBytes::new(codes), HostBytes::new(bytes(&absmax)));
            let weight = Int8Weight::new((rows, cols), format, codes, absmax);
            weight.unwrap().into()
        }
        other => panic!("{other}"),
    }
}

fn schemes() -> Vec<Scheme> {
    let mut schemes = vec![Scheme::Int8(Int8 { threshold: 6.0 })];
    for code in Code::ALL {
        for (block_size, double_quant) in [(32, true), (64, false), (512, true), (4096, false)] {
            schemes.push(Scheme::FourBit(FourBit {
                code,
                block_size: BlockSize::new(block_size).unwrap(),
                double_quant,
            }));
        }
    }
    schemes
}

#[test]
fn bytes_and_elements_are_those_of_the_processor() {
    for target in [75, 80] {
        Machine::new().compute(target).inside(|| {
            let cuda = Arc::new(Cuda::new(0).unwrap());
            let mut queue = cuda.queue(None).unwrap();
            for scheme in schemes() {
                for (i, (rows, cols)) in SHAPES.into_iter().enumerate() {
                    let dtype = DTYPES[i % DTYPES.len()];
                    let bytes = HostBytes::new(elements(rows * cols, dtype));
                    let dense = StoredWeight::dense(dtype, (rows, cols), bytes);
                    let dense = cuda.load(dense).unwrap();
                    let encoded = queue.encode(&dense, scheme).unwrap();
                    let expected = expected(scheme, (rows, cols), dtype);
                    let found = encoded.fetch().unwrap();
                    for (part, bytes) in expected.parts.iter() {
                        assert_eq!(**found.part(part), **bytes, "{part:?}: {scheme} of {dtype}");
                    }

                    let decoded = queue.decode(&encoded, DType::F32).unwrap();
                    let (found, values) = (decoded.fetch().unwrap(), expected.values().unwrap());
                    assert_eq!(found.values().unwrap(), values, "{scheme} of {dtype}");
                }
            }
        });
    }
}
