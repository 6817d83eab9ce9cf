//! Quantized tables of tokens and positions, whatever their placement.

use llm_backend::Reference;
use llm_quant::layout::{self, QuantState};
use llm_quant::{
    Absmax, BlockSize, Code, DoubleAbsmax, Encoder, FourBit, Int8, Int8Weight, NESTED_BLOCK, Part,
    Scheme, StoredWeight, Weight4Bit, double, dynamic_map,
};
use llm_tensor::HostBytes;
use llm_tests::{Variant, relative_error, session};

use super::*;

/// A model with quantized tables, and the same with the values of their codes.
struct Pair {
    quantized: tempfile::TempDir,
    dense: tempfile::TempDir,
}

impl Pair {
    fn new(name: &str, tables: &[&str], scheme: Scheme) -> Self {
        Self::of(Variant::of(&fixture("models").join(name)), tables, scheme)
    }

    fn of(mut variant: Variant, tables: &[&str], scheme: Scheme) -> Self {
        let mut tensors = Vec::new();
        for &table in tables {
            let (shape, elements) = variant.tensors.get_mut(table).unwrap();
            let weight = encoded(scheme, shape[0] as usize, shape[1] as usize, elements);
            *elements = weight.values().unwrap();
            tensors.extend(tensors_of(table, &weight));
        }
        let dense = variant.write();
        for (name, (shape, elements)) in &variant.tensors {
            if !tables.contains(&name.as_str()) {
                let bytes = bytemuck::cast_slice(elements).to_vec();
                tensors.push((new_tensor(name.clone(), DType::F32, shape), bytes));
            }
        }
        let quantized = tempfile::tempdir().unwrap();
        let config = serde_json::to_vec(&variant.config).unwrap();
        fs::write(quantized.path().join("config.json"), config).unwrap();
        let path = quantized.path().join("model.safetensors");
        let (new, bytes): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        let mut writer = SafetensorsWriter::create(&path, &new, &BTreeMap::new()).unwrap();
        bytes.iter().for_each(|bytes| writer.write(bytes).unwrap());
        writer.finish().unwrap();
        Pair { quantized, dense }
    }
}

fn new_tensor(name: String, dtype: DType, dims: &[u64]) -> NewTensor {
    let shape = Shape::new(dims).unwrap();
    NewTensor { name, dtype, shape }
}

fn le_bytes(values: &[f32]) -> HostBytes {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    HostBytes::new(bytes)
}

fn encoded(scheme: Scheme, rows: usize, cols: usize, elements: &[f32]) -> StoredWeight {
    let (n, bytes) = (elements.len(), le_bytes(elements));
    match scheme {
        Scheme::Int8(format) => {
            let (mut codes, mut absmax) = (vec![0; n], vec![0.0; rows]);
            Scalar.encode_int8(DType::F32, &bytes, cols, &mut codes, &mut absmax);
            let codes = HostBytes::new(codes);
            let weight = Int8Weight::new((rows, cols), format, codes, le_bytes(&absmax));
            weight.unwrap().into()
        }
        Scheme::FourBit(format) => {
            let (mut codes, n_blocks) = (vec![0; n.div_ceil(2)], n.div_ceil(64));
            let mut scales = vec![0.0; n_blocks];
            let (code, block_size) = (format.code, format.block_size);
            Scalar.encode_4bit(
                code,
                block_size,
                DType::F32,
                &bytes,
                &mut codes,
                &mut scales,
            );
            let absmax = match format.double_quant {
                false => Absmax::Plain(le_bytes(&scales)),
                true => {
                    let offset = double::offset(&scales);
                    let mut codes = vec![0; n_blocks];
                    let mut absmax = vec![0.0; n_blocks.div_ceil(NESTED_BLOCK)];
                    double::encode(&scales, offset, &mut codes, &mut absmax);
                    let (codes, absmax) = (HostBytes::new(codes), le_bytes(&absmax));
                    let map = Arc::new(*dynamic_map());
                    Absmax::Double(DoubleAbsmax::new(codes, absmax, map, offset).unwrap())
                }
            };
            let codes = HostBytes::new(codes);
            let weight = Weight4Bit::new((rows, cols), format, *code.table(), codes, absmax);
            weight.unwrap().into()
        }
        Scheme::Dense(_)
        | Scheme::Int8PerUse(..)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => {
            panic!("no table is quantized to {scheme}")
        }
    }
}

fn tensors_of(name: &str, weight: &StoredWeight) -> Vec<(NewTensor, Vec<u8>)> {
    let shape = [weight.rows as u64, weight.cols as u64];
    let tensors = layout::tensors(weight.scheme, shape[0], shape[1], DType::U8).unwrap();
    let tensors = tensors.into_iter().map(|tensor| {
        let bytes = match (tensor.part, weight.scheme) {
            (Part::WeightFormat, _) => vec![0],
            (Part::State(code), Scheme::FourBit(format)) => QuantState {
                code,
                block_size: format.block_size,
                dtype: DType::F32,
                shape,
                nested_offset: weight
                    .parts
                    .get(Part::NestedOffset)
                    .map(|bytes| bytemuck::pod_read_unaligned(bytes)),
            }
            .to_json_padded(),
            (part, _) => weight.part(part).to_vec(),
        };
        let new = new_tensor(tensor.part.name(name), tensor.dtype, &tensor.dims);
        (new, bytes)
    });
    tensors.collect()
}

fn schemes() -> [Scheme; 4] {
    let four_bit = |code, double_quant| {
        Scheme::FourBit(FourBit {
            code,
            block_size: BlockSize::DEFAULT,
            double_quant,
        })
    };
    [
        four_bit(Code::Nf4, false),
        four_bit(Code::Fp4, false),
        four_bit(Code::Nf4, true),
        Scheme::Int8(Int8 { threshold: 6.0 }),
    ]
}

const MODELS: [(&str, &[&str]); 4] = [
    ("llama", &["model.embed_tokens.weight"]),
    // The head is the table.
    ("llama3-rope-tied", &["model.embed_tokens.weight"]),
    ("gemma", &["model.embed_tokens.weight"]),
    (
        "gpt2",
        &["transformer.wte.weight", "transformer.wpe.weight"],
    ),
];

#[test]
fn quantized_tables_compute_as_the_values_of_their_codes() {
    for (name, tables) in MODELS {
        let prompt = &golden(name).1.input_ids;
        for scheme in schemes() {
            let pair = Pair::new(name, tables, scheme);
            let quantized = BoundModel::open(pair.quantized.path()).unwrap();
            let dense = BoundModel::open(pair.dense.path()).unwrap();
            let logits = |model: &BoundModel| {
                let mut session = session(Reference::new(), model, DType::F32, 1, prompt.len());
                session.prefill(0, prompt).unwrap().to_vec()
            };
            let (found, expected) = (logits(&quantized), logits(&dense));
            let head_is_int8 = match (quantized.spec().head.matrix, scheme) {
                (HeadMatrix::Tied, Scheme::Int8(_)) => true,
                (HeadMatrix::Tied | HeadMatrix::Separate, _) => false,
            };
            if head_is_int8 {
                // Each activation is off by half a step of 127 of the largest among them at most.
                let bound = (quantized.spec().hidden as f64).sqrt() / 254.0;
                let error = relative_error(&found, &expected);
                assert!(error < bound, "{name} in {scheme}: {error}");
            } else {
                assert!(found == expected, "{name} in {scheme}");
            }
        }
    }
}

#[test]
fn quantized_tables_compute_the_same_wherever_they_rest() {
    for (name, tables) in MODELS {
        let prompt = &golden(name).1.input_ids;
        for scheme in schemes() {
            let pair = Pair::new(name, tables, scheme);
            let model = BoundModel::open(pair.quantized.path()).unwrap();
            let mut reference = session(Reference::new(), &model, DType::F32, 1, prompt.len());
            let reference = reference.prefill(0, prompt).unwrap().to_vec();
            for dtype in [DType::F32, DType::BF16] {
                let folder = tempfile::tempdir().unwrap();
                let case = Case {
                    model: &model,
                    kept: (WeightDType::As(dtype), None),
                    limits: limits(&model, 5),
                    folder: folder.path(),
                };
                let mut found = Vec::new();
                for rest in RESTS {
                    let (mut session, plan) = case.load(rest).unwrap();
                    held_as_planned(&session, &plan, &format!("{name} in {scheme}, {rest:?}"));
                    found.push(run(&mut session, prompt).unwrap());
                }
                for (rest, other) in RESTS.iter().zip(&found) {
                    assert!(other == &found[0], "{name} in {scheme}, {rest:?}");
                }
                if dtype == DType::F32 {
                    let first = found[0].1[..reference.len()].iter();
                    let first: Vec<f32> = first.map(|&bits| f32::from_bits(bits)).collect();
                    // Rounding may take an activation to the next code of 8 bits.
                    let error = relative_error(&first, &reference);
                    assert!(error < 1e-3, "{name} in {scheme}: {error}");
                }
            }
        }
    }
}

/// A head whose codes are the table's is its own where its scales are others.
#[test]
fn a_head_of_equal_codes_and_other_scales_is_no_copy_of_the_table() {
    let scheme = schemes()[0];
    let mut variant = Variant::of(&fixture("models/llama"));
    variant.set("tie_word_embeddings", true);
    let table = variant.tensors["model.embed_tokens.weight"].clone();
    let doubled = table.1.iter().map(|x| 2.0 * x).collect();
    for (head, matrix) in [
        (table.1.clone(), HeadMatrix::Tied),
        (doubled, HeadMatrix::Separate),
    ] {
        let head = (table.0.clone(), head);
        variant.tensors.insert("lm_head.weight".to_owned(), head);
        let tables = ["model.embed_tokens.weight", "lm_head.weight"];
        let pair = Pair::of(variant.clone(), &tables, scheme);
        let model = BoundModel::open(pair.quantized.path()).unwrap();
        assert_eq!(model.spec().head.matrix, matrix);
    }
}
