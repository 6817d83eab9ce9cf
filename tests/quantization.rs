//! Matrices are quantized as bitsandbytes quantizes them, bit for bit, and lie in checkpoints as it lays them there.
#![expect(clippy::unwrap_used, reason = "the helpers of tests, too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_checkpoint::{Checkpoint, Encoding};
use llm_quant::layout::{self, MAX_JSON, QuantState};
use llm_quant::{Absmax, Activations8, BlockSize, Code, DoubleAbsmax, Encoder, FourBit, Int8};
use llm_quant::{Int8Weight, NESTED_BLOCK, Part, QuantConfig, Scalar, Scheme, Weight4Bit};
use llm_quant::{double, dynamic_map};
use llm_tensor::{DType, HostBytes, f32_to_le_bytes};
use llm_tests::{fixture, tensor};

#[test]
fn four_bits_are_bit_for_bit_those_of_bitsandbytes() {
    let mut steps = Steps::default();
    let cases = entries("quantization/bnb4");
    assert_eq!(cases.len(), 12);
    for path in cases {
        let case = Checkpoint::open(&path).unwrap();
        let name = path.display();
        let meta = |key: &str| case.metadata()[key].as_str().unwrap();
        let format = FourBit {
            code: meta("quant_type").parse().unwrap(),
            block_size: BlockSize::new(meta("blocksize").parse().unwrap()).unwrap(),
            double_quant: meta("double_quant") == "true",
        };
        let dtype: DType = meta("dtype").parse().unwrap();
        let [rows, cols] = shape(&case, "input");

        let (packed, scales) = encode_4bit(format, dtype, &raw(&case, "input"));
        assert_same(&packed, &case, "packed");
        assert_same(&le_bytes(format.code.table()), &case, "quant_map");

        let absmax = HostBytes::new(raw(&case, "absmax"));
        let absmax = if format.double_quant {
            assert_same(&le_bytes(dynamic_map()), &case, "nested_quant_map");
            let [offset] = tensor(&case, "nested_offset", DType::F32)[..] else {
                panic!("{name}: one offset")
            };
            let nested = raw(&case, "nested_absmax");
            steps.check(&scales, &absmax, &nested, offset);
            let map = Arc::new(*dynamic_map());
            let double = DoubleAbsmax::new(absmax, HostBytes::new(nested), map, offset);
            Absmax::Double(double.unwrap())
        } else {
            assert_same(&le_bytes(&scales), &case, "absmax");
            Absmax::Plain(absmax)
        };

        let packed = HostBytes::new(packed);
        let table = *format.code.table();
        let weight = Weight4Bit::new((rows, cols), format, table, packed, absmax).unwrap();
        let decoded = decode_as_reference(&weight);
        let mut rounded = vec![0; rows * cols * dtype.size()];
        f32_to_le_bytes(&decoded, dtype, &mut rounded).unwrap();
        assert_same(&rounded, &case, "dequantized");
    }
    steps.finish();
}

/// The elements as bitsandbytes decodes them on a CPU. Its kernel there counts whole blocks a row, so that it takes other
/// scales than those that it encoded with where rows end inside a block; odd rows and large blocks take another way.
fn decode_as_reference(weight: &Weight4Bit) -> Vec<f32> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let block = weight.format().block_size.get();
    let mut decoded = vec![0.0; rows * cols];
    if cols.is_multiple_of(block) || !cols.is_multiple_of(2) || block >= 2048 {
        Scalar.decode_4bit(weight, 0, &mut decoded);
        return decoded;
    }
    for (i, x) in decoded.iter_mut().enumerate() {
        let code = weight.packed()[i / 2] >> (4 - i % 2 * 4) & 15;
        let scale = weight.scale(i / cols * (cols / block) + i % cols / block);
        *x = weight.table()[usize::from(code)] * scale;
    }
    decoded
}

/// Distance of scales' codes from those of bitsandbytes on a CPU, which finds them through a table of 65,536 bins.
#[derive(Default)]
struct Steps {
    n_scales: usize,
    n_other: usize,
}

impl Steps {
    /// Holds our double quantization of `scales` against the codes, the groups' scales and the offset of bitsandbytes.
    fn check(&mut self, scales: &[f32], codes: &[u8], nested: &[u8], offset: f32) {
        let encode = |offset| {
            let mut codes = vec![0; scales.len()];
            let mut nested = vec![0.0; scales.len().div_ceil(NESTED_BLOCK)];
            double::encode(scales, offset, &mut codes, &mut nested);
            (codes, nested)
        };
        let (ours, nested_ours) = encode(offset);
        assert!(le_bytes(&nested_ours) == nested, "the scales of groups");
        for (&ours, &theirs) in ours.iter().zip(codes) {
            assert!(ours.abs_diff(theirs) <= 2, "{ours} for {theirs}");
            self.n_other += usize::from(ours != theirs);
        }
        self.n_scales += scales.len();

        // A sum in f32 may be off by one rounding for each doubling of its length.
        let tolerance = ulp(offset) * (scales.len() as f32).log2().ceil();
        let own_offset = double::offset(scales);
        assert!(
            (own_offset - offset).abs() <= tolerance,
            "{own_offset} for {offset}"
        );
        let (own, nested_own) = encode(own_offset);
        for (&own, &theirs) in nested_own.iter().zip(&nested_ours) {
            assert!(
                (own - theirs).abs() <= tolerance + ulp(theirs),
                "{own} for {theirs}"
            );
        }
        for (&own, &theirs) in own.iter().zip(codes) {
            assert!(own.abs_diff(theirs) <= 2, "{own} for {theirs}");
        }
    }

    fn finish(self) {
        let Steps { n_scales, n_other } = self;
        assert!(
            n_other * 200 < n_scales,
            "{n_other} of {n_scales} codes differ"
        );
    }
}

#[test]
fn eight_bits_are_bit_for_bit_those_of_bitsandbytes() {
    let cases = entries("quantization/int8");
    assert_eq!(cases.len(), 6);
    for path in cases {
        let case = Checkpoint::open(&path).unwrap();
        let name = path.display();
        let meta = |key: &str| case.metadata()[key].as_str().unwrap();
        let dtype: DType = meta("dtype").parse().unwrap();
        let threshold = meta("threshold").parse().unwrap();
        let [rows, cols] = shape(&case, "weight");

        let (codes, scales) = encode_int8(dtype, cols, &raw(&case, "weight"));
        assert_same(&codes, &case, "weight_int8");
        assert_same(&le_bytes(&scales), &case, "weight_scb");

        let x: Vec<f32> = tensor(&case, "input", DType::F32);
        let activations = Activations8::quantize(&x, cols, threshold);
        let input_codes: &[u8] = bytemuck::cast_slice(&activations.codes);
        assert_same(input_codes, &case, "input_int8");
        assert_same(&le_bytes(&activations.absmax), &case, "input_sca");
        let outlier_cols = match case.get("outlier_columns") {
            Some(info) => tensor::<i64>(&case, &info.name, DType::I64),
            None => Vec::new(),
        };
        assert!(
            activations
                .outlier_cols
                .iter()
                .map(|&col| col as i64)
                .eq(outlier_cols),
            "{name}"
        );

        let scales = HostBytes::new(le_bytes(&scales));
        let format = Int8 { threshold };
        let weight = Int8Weight::new((rows, cols), format, HostBytes::new(codes), scales).unwrap();
        check_outputs(&case, &weight, dtype, &x, &activations);
    }
}

/// Holds products against the layer's outputs, each within what the reference's own roundings may have moved it.
fn check_outputs(
    case: &Checkpoint,
    weight: &Int8Weight,
    dtype: DType,
    x: &[f32],
    activations: &Activations8,
) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let expected: Vec<f32> = tensor(case, "output", DType::F32);
    let bias: Option<Vec<f32>> = case
        .get("bias")
        .map(|info| tensor(case, &info.name, DType::F32));
    let (mut error, mut size) = (0f64, 0f64);
    for (token, (expected, absmax)) in expected.chunks(rows).zip(&activations.absmax).enumerate() {
        let x = &x[token * cols..][..cols];
        let codes = &activations.codes[token * cols..][..cols];
        for (row, &expected) in expected.iter().enumerate() {
            let bias = bias.as_ref().map_or(0.0, |bias| bias[row]);
            let inliers = weight.dot(row, codes, *absmax, x, &[]);
            let found = weight.dot(row, codes, *absmax, x, &activations.outlier_cols) + bias;
            let outliers: f32 = activations
                .outlier_cols
                .iter()
                .map(|&col| (x[col] * weight.element(row * cols + col)).abs())
                .sum();
            // Rounded are the product with its bias, the weights of outlier columns, and the sum.
            let rounded = (inliers + bias).abs() + outliers + expected.abs();
            let tolerance = unit_roundoff(dtype) * rounded;
            let difference = (found - expected).abs();
            assert!(
                difference <= tolerance,
                "{found} for {expected}, within {tolerance}"
            );
            error += f64::from(difference).powi(2);
            size += f64::from(expected).powi(2);
        }
    }
    let relative = (error / size).sqrt();
    let tolerance = 2.0 * f64::from(unit_roundoff(dtype));
    assert!(relative <= tolerance, "{relative:e}");
}

#[test]
fn checkpoints_are_those_that_transformers_saves() {
    let folders = entries("quantized");
    assert_eq!(folders.len(), 7);
    for folder in folders {
        let config = fs::read_to_string(folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let json = &config["quantization_config"];
        let config = QuantConfig::from_json(json.as_object().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(config.to_json().to_string(), json.to_string());

        let saved = Checkpoint::open(&folder.join("model.safetensors")).unwrap();
        let dense = Checkpoint::open(&folder.join("dense/model.safetensors")).unwrap();
        let mut seen = BTreeSet::new();
        let is_quantized = |weight: &str| {
            let parts = [Part::Scb, Part::State(Code::Nf4), Part::State(Code::Fp4)];
            parts
                .iter()
                .any(|part| saved.get(&part.name(weight)).is_some())
        };
        for info in saved.tensors() {
            match Part::of_name(&info.name) {
                Some((weight, part)) if is_quantized(&weight) => {
                    if part == Part::Weight {
                        seen.extend(check_matrix(&folder, &config, &saved, &dense, &weight));
                    }
                }
                _ => {
                    let Encoding::Plain(dtype) = info.encoding else {
                        panic!("plain tensors")
                    };
                    let expected: Vec<u8> = read_as(&dense, &info.name, dtype);
                    assert_same(&expected, &saved, &info.name);
                    seen.insert(info.name.clone());
                }
            }
        }
        let all: BTreeSet<_> = saved.tensors().map(|info| info.name.clone()).collect();
        assert_eq!(seen, all, "{}", folder.display());
    }
}

/// Quantizes a matrix of `dense` and holds every part of it against `saved`; the names of the parts.
fn check_matrix(
    folder: &Path,
    config: &QuantConfig,
    saved: &Checkpoint,
    dense: &Checkpoint,
    weight: &str,
) -> Vec<String> {
    let Encoding::Plain(dtype) = dense.get(weight).unwrap().encoding else {
        panic!("plain tensors")
    };
    let (mut elements, [mut rows, mut cols]) = (raw(dense, weight), shape(dense, weight));
    if folder.ends_with("gpt2-int8") {
        // GPT-2 keeps `[in, out]`, and is turned around before it is quantized.
        elements = transposed(&elements, rows, cols, dtype.size());
        (rows, cols) = (cols, rows);
    }
    let scheme = config.scheme();
    let parts = layout::tensors(
        scheme,
        rows as u64,
        cols as u64,
        config.bnb_4bit_quant_storage,
    );
    let parts = parts.unwrap();
    for part in &parts {
        let info = saved.get(&part.part.name(weight)).unwrap();
        assert_eq!(info.encoding, Encoding::Plain(part.dtype), "{}", info.name);
        match part.part {
            Part::State(_) => assert!(info.shape[0] <= MAX_JSON as u64),
            _ => assert_eq!(*info.shape, part.dims, "{}", info.name),
        }
    }
    let found = |part: Part| raw(saved, &part.name(weight));
    let same = |part: Part, bytes: &[u8]| assert_same(bytes, saved, &part.name(weight));
    match scheme {
        Scheme::FourBit(format) => {
            let (packed, scales) = encode_4bit(format, dtype, &elements);
            same(Part::Weight, &packed);
            same(Part::QuantMap, &le_bytes(format.code.table()));
            let json = found(Part::State(format.code));
            let state = QuantState::parse(&json).unwrap();
            assert_eq!(state.format(), format);
            let expected = QuantState {
                code: format.code,
                block_size: format.block_size,
                dtype,
                shape: [rows as u64, cols as u64],
                nested_offset: state.nested_offset,
            };
            same(Part::State(format.code), &expected.to_json());
            if let Some(offset) = state.nested_offset {
                same(Part::NestedQuantMap, &le_bytes(dynamic_map()));
                let (codes, nested) = (found(Part::Absmax), found(Part::NestedAbsmax));
                Steps::default().check(&scales, &codes, &nested, offset);
            } else {
                same(Part::Absmax, &le_bytes(&scales));
            }
        }
        Scheme::Int8(_) => {
            let (codes, scales) = encode_int8(dtype, cols, &elements);
            same(Part::Weight, &codes);
            same(Part::Scb, &le_bytes(&scales));
            assert_eq!(
                layout::check_weight_format(found(Part::WeightFormat)[0]),
                Ok(())
            );
        }
        Scheme::Dense(_)
        | Scheme::Int8PerUse(..)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => {
            panic!("nothing is saved in {scheme}")
        }
    }
    parts.iter().map(|part| part.part.name(weight)).collect()
}

fn encode_4bit(format: FourBit, dtype: DType, elements: &[u8]) -> (Vec<u8>, Vec<f32>) {
    let n = elements.len() / dtype.size();
    let mut packed = vec![0; n.div_ceil(2)];
    let mut scales = vec![0.0; n.div_ceil(format.block_size.get())];
    let FourBit {
        code, block_size, ..
    } = format;
    Scalar.encode_4bit(code, block_size, dtype, elements, &mut packed, &mut scales);
    (packed, scales)
}

fn encode_int8(dtype: DType, cols: usize, elements: &[u8]) -> (Vec<u8>, Vec<f32>) {
    let n = elements.len() / dtype.size();
    let (mut codes, mut scales) = (vec![0; n], vec![0.0; n / cols]);
    Scalar.encode_int8(dtype, elements, cols, &mut codes, &mut scales);
    (codes, scales)
}

/// Entries of a folder of fixtures, by name.
fn entries(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture(folder)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn shape(checkpoint: &Checkpoint, name: &str) -> [usize; 2] {
    let info = checkpoint.get(name).unwrap();
    let dims: Vec<_> = info.shape.iter().map(|&extent| extent as usize).collect();
    dims.try_into().unwrap()
}

/// The bytes of a tensor as they are stored.
fn raw(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let Encoding::Plain(dtype) = checkpoint.get(name).unwrap().encoding else {
        panic!("plain tensors")
    };
    read_as(checkpoint, name, dtype)
}

fn read_as(checkpoint: &Checkpoint, name: &str, dtype: DType) -> Vec<u8> {
    let n_elements = checkpoint.get(name).unwrap().shape.n_elements();
    let mut bytes = vec![0; n_elements as usize * dtype.size()];
    checkpoint
        .read_into(name, 0..n_elements, dtype, &mut bytes)
        .unwrap();
    bytes
}

/// Holds bytes against those of a tensor, without showing all of them.
fn assert_same(found: &[u8], checkpoint: &Checkpoint, name: &str) {
    let expected = raw(checkpoint, name);
    let what = format!("`{name}` of {}", checkpoint.path().display());
    assert_eq!(found.len(), expected.len(), "bytes of {what}");
    let mut differing = (0..found.len()).filter(|&i| found[i] != expected[i]);
    if let Some(i) = differing.next() {
        let (n, found, expected) = (1 + differing.count(), found[i], expected[i]);
        panic!("{what}: {n} bytes differ; byte {i} is {found:#04x}, expected {expected:#04x}");
    }
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn transposed(elements: &[u8], rows: usize, cols: usize, size: usize) -> Vec<u8> {
    let at = |row: usize, col: usize| &elements[(row * cols + col) * size..][..size];
    (0..cols)
        .flat_map(|col| (0..rows).map(move |row| (row, col)))
        .flat_map(|(row, col)| at(row, col).iter().copied())
        .collect()
}

/// The step from a number to the next larger one in magnitude.
fn ulp(x: f32) -> f32 {
    x.abs().next_up() - x.abs()
}

/// The largest relative error of a rounding.
fn unit_roundoff(dtype: DType) -> f32 {
    match dtype {
        DType::F32 => 2f32.powi(-24),
        DType::F16 => 2f32.powi(-11),
        DType::BF16 => 2f32.powi(-8),
        _ => panic!("{dtype} outputs"),
    }
}
