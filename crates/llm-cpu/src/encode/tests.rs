use half::{bf16, f16};
use llm_quant::{BlockSize, Code, Encoder, Scalar};
use llm_tensor::{DType, f32_to_le_bytes};

use crate::Isa;
use crate::tests::cpu;

const BLOCK_SIZES: [u64; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Holds every instruction set against the plain meaning, from an aligned and from an odd address.
fn check(code: Code, block_size: u64, dtype: DType, values: &[f32]) {
    let block_size = BlockSize::new(block_size).unwrap();
    let mut elements = vec![0; 1 + values.len() * dtype.size()];
    f32_to_le_bytes(values, dtype, &mut elements[1..]).unwrap();
    let aligned = elements[1..].to_vec();
    let encoded = |encoder: &dyn Encoder, elements: &[u8]| {
        let mut packed = vec![0xee; values.len().div_ceil(2)];
        let mut absmax = vec![f32::NAN; values.len().div_ceil(block_size.get())];
        encoder.encode_4bit(code, block_size, dtype, elements, &mut packed, &mut absmax);
        (packed, absmax)
    };
    let (codes, scales) = encoded(&Scalar, &aligned);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let cpu = cpu(isa, 1);
        for elements in [&aligned, &elements[1..]] {
            let (found_codes, found_scales) = encoded(&*cpu, elements);
            let case = format!("{isa} {code} {block_size} {dtype} of {}", values.len());
            for (block, (found, expected)) in found_scales.iter().zip(&scales).enumerate() {
                assert_eq!(found.to_bits(), expected.to_bits(), "{case}: scale {block}");
            }
            for (i, (found, expected)) in found_codes.iter().zip(&codes).enumerate() {
                let block = 2 * i / block_size.get();
                // The codes of a block whose scale is not finite mean nothing.
                let agree = found == expected || !scales[block].is_finite();
                assert!(agree, "{case}: byte {i} is {found:02x}, not {expected:02x}");
            }
        }
    }
}

/// Deterministic, evenly within ±1 (xorshift, Marsaglia 2003).
fn random(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn blocks_of_every_size_and_short_ones() {
    for code in Code::ALL {
        for block_size in BLOCK_SIZES {
            for dtype in DTYPES {
                for n in [0, 1, 2, 31, 32, 33, 63, 4096, 8192 + 77] {
                    check(code, block_size, dtype, &random(n));
                }
            }
        }
    }
}

#[test]
fn ties_at_thresholds_and_their_neighbours() {
    for code in Code::ALL {
        let (thresholds, _) = code.thresholds();
        let near = |x: f32| [x.next_down().next_down(), x.next_down(), x, x.next_up()];
        // Blocks whose largest magnitude is a power of two, which scales exactly.
        for scale in [1.0, 0.25, 1024.0, 2f32.powi(-100)] {
            let mut values = Vec::new();
            for threshold in thresholds.iter().chain(code.table()) {
                values.extend(near(*threshold).map(|x| x.clamp(-1.0, 1.0) * scale));
                values.extend(near(-*threshold).map(|x| x.clamp(-1.0, 1.0) * scale));
                values.extend([scale, -scale, 0.0, -0.0]);
            }
            for dtype in DTYPES {
                check(code, 32, dtype, &values);
                check(code, 128, dtype, &values);
            }
        }
    }
}

#[test]
fn zeros_subnormals_and_the_largest() {
    let extremes = [
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(1),
        f32::MIN_POSITIVE,
        f32::MIN_POSITIVE / 4.0,
        -f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        1e-30,
        f32::from(f16::MAX),
        f32::from(f16::MIN_POSITIVE_SUBNORMAL),
        -f32::from(bf16::MAX),
        f32::from(bf16::MIN_POSITIVE_SUBNORMAL),
    ];
    for code in Code::ALL {
        for dtype in DTYPES {
            check(code, 64, dtype, &[0.0; 200]);
            check(code, 64, dtype, &[-0.0; 67]);
            for &extreme in &extremes {
                // Alone among zeros, among its like, among ordinary numbers.
                let mut values = vec![0.0; 64];
                values[17] = extreme;
                values.extend([extreme; 40]);
                values.extend([extreme * 0.5; 25]);
                values.extend(random(100));
                values[140] = extreme;
                check(code, 64, dtype, &values);
                check(code, 32, dtype, &values);
            }
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_the_scale() {
    for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for dtype in DTYPES {
            for at in [0, 31, 95, 96, 130] {
                let mut values = random(131);
                values[at] = value;
                for code in Code::ALL {
                    check(code, 32, dtype, &values);
                    check(code, 128, dtype, &values);
                }
            }
        }
    }
}
