//! GGUF files, written by hand.

use std::path::{Path, PathBuf};

use llm_checkpoint::{Array, Checkpoint, Encoding, Value};
use llm_quant::GgmlType;
use llm_tensor::DType;

/// Form in which matrices are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Blocks.
    Blocks,
    /// The f32 that they stand for; the table of tokens in blocks.
    DecodedButTable,
}

/// A GGUF on its way to a file.
#[derive(Debug, Clone)]
pub(crate) struct Gguf {
    /// Entries as they are written.
    pub(crate) metadata: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Tensor>,
}

/// A tensor on its way to a file.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) type_code: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Gguf {
    /// Writes a file of version 3.
    ///
    /// # Panics
    /// When it cannot be written.
    pub(crate) fn write(&self, path: &Path) {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        file.extend(self.metadata.concat());
        let mut offset = 0;
        for tensor in &self.tensors {
            file.extend(string(&tensor.name));
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            for &extent in tensor.shape.iter().rev() {
                file.extend((extent as u64).to_le_bytes());
            }
            file.extend(tensor.type_code.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
            file.extend(&tensor.bytes);
        }
        std::fs::write(path, file).expect("a written file");
    }

    /// Writes three files, as `llama-gguf-split` cuts a model; the path of the first.
    pub(crate) fn write_split(&self, folder: &Path) -> PathBuf {
        const N: usize = 3;
        let path = |idx: usize| folder.join(format!("split-{:05}-of-{N:05}.gguf", idx + 1));
        let size = self.tensors.len().div_ceil(N);
        for (idx, tensors) in self.tensors.chunks(size).enumerate() {
            let short =
                |value: usize| [&2u32.to_le_bytes()[..], &(value as u16).to_le_bytes()].concat();
            let count = [
                5u32.to_le_bytes(),
                (self.tensors.len() as u32).to_le_bytes(),
            ]
            .concat();
            let mut metadata = match idx {
                0 => self.metadata.clone(),
                _ => Vec::new(),
            };
            metadata.extend([
                entry("split.no", &short(idx)),
                entry("split.count", &short(N)),
                entry("split.tensors.count", &count),
            ]);
            let part = Gguf {
                metadata,
                tensors: tensors.to_vec(),
            };
            part.write(&path(idx));
        }
        path(0)
    }
}

impl Written {
    /// Number of the type in which a matrix of `blocks` is written, and its bytes.
    pub(crate) fn tensor(self, name: &str, ty: GgmlType, blocks: Vec<u8>) -> (u32, Vec<u8>) {
        if self == Written::Blocks || name == TABLE {
            return (code(ty), blocks);
        }
        let mut values = vec![0.0; blocks.len() / ty.block_bytes() * ty.block_len()];
        ty.decode(&blocks, &mut values);
        (F32, le_bytes(&values))
    }
}

/// Writes a GGUF of dense matrices once more, those whose rows are whole blocks in Q8_0; how many.
///
/// # Panics
/// When it cannot be read or written.
pub fn in_q8_0(gguf: &Path, to: &Path, written: Written) -> usize {
    let checkpoint = Checkpoint::open(gguf).expect("a readable GGUF");
    let metadata = checkpoint.metadata().iter();
    let metadata = metadata.map(|(key, value)| entry(key, &value_bytes(value)));
    let mut n_packed = 0;
    // Numbers of xIELU lie in the metadata.
    let tensors = checkpoint.tensors();
    let tensors = tensors.filter(|tensor| !tensor.name.contains(".xielu."));
    let tensors = tensors.map(|tensor| {
        assert_eq!(
            tensor.encoding,
            Encoding::Plain(DType::F32),
            "{}",
            tensor.name
        );
        let values: Vec<f32> = crate::tensor(&checkpoint, &tensor.name, DType::F32);
        let shape: Vec<usize> = tensor.shape.iter().map(|&extent| extent as usize).collect();
        let (name, cols) = (tensor.name.clone(), shape.last().copied().unwrap_or(1));
        let len = GgmlType::Q8_0.block_len();
        // Biases stay as they are, those of experts in one matrix too, and so do gains by groups.
        let is_vector = name.ends_with(".bias") || name.ends_with("_norm.weight");
        if shape.len() < 2 || !cols.is_multiple_of(len) || is_vector {
            let (type_code, bytes) = (F32, le_bytes(&values));
            return Tensor {
                name,
                shape,
                type_code,
                bytes,
            };
        }
        n_packed += 1;
        let blocks: Vec<u8> = values.chunks_exact(len).flat_map(q8_0).collect();
        let (type_code, bytes) = written.tensor(&name, GgmlType::Q8_0, blocks);
        Tensor {
            name,
            shape,
            type_code,
            bytes,
        }
    });
    let gguf = Gguf {
        tensors: tensors.collect(),
        metadata: metadata.collect(),
    };
    gguf.write(to);
    n_packed
}

/// As GGML's reference encodes it, but for how halves are rounded.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0f32, |max, x| max.max(x.abs()));
    let mut scale = [0; 2];
    llm_tensor::f32_to_le_bytes(&[largest / 127.0], DType::F16, &mut scale).expect("f16 of f32");
    let mut rounded = [0.0];
    llm_tensor::le_bytes_to_f32(DType::F16, &scale, &mut rounded).expect("f32 of f16");
    let inverse = if rounded[0] == 0.0 {
        0.0
    } else {
        1.0 / rounded[0]
    };
    let codes = values.iter().map(|x| (x * inverse).round() as i8 as u8);
    scale.into_iter().chain(codes).collect()
}

/// Number of a type in GGUF.
fn code(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q5_0 => 6,
        GgmlType::Q5_1 => 7,
        GgmlType::Q8_0 => 8,
        GgmlType::Q2K => 10,
        GgmlType::Q3K => 11,
        GgmlType::Q4K => 12,
        GgmlType::Q5K => 13,
        GgmlType::Q6K => 14,
        GgmlType::IQ2XXS => 16,
        GgmlType::IQ2XS => 17,
        GgmlType::IQ3XXS => 18,
        GgmlType::IQ1S => 19,
        GgmlType::IQ4NL => 20,
        GgmlType::IQ3S => 21,
        GgmlType::IQ2S => 22,
        GgmlType::IQ4XS => 23,
        GgmlType::IQ1M => 29,
        GgmlType::TQ1_0 => 34,
        GgmlType::TQ2_0 => 35,
        GgmlType::MXFP4 => 39,
        GgmlType::NVFP4 => 40,
    }
}

/// An entry of the metadata: its key, and the value behind its type.
pub(crate) fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], value].concat()
}

fn value_bytes(value: &Value) -> Vec<u8> {
    let typed = |ty: u32, bytes: &[u8]| [&ty.to_le_bytes()[..], bytes].concat();
    match value {
        Value::U8(x) => typed(0, &x.to_le_bytes()),
        Value::I8(x) => typed(1, &x.to_le_bytes()),
        Value::U16(x) => typed(2, &x.to_le_bytes()),
        Value::I16(x) => typed(3, &x.to_le_bytes()),
        Value::U32(x) => typed(4, &x.to_le_bytes()),
        Value::I32(x) => typed(5, &x.to_le_bytes()),
        Value::F32(x) => typed(6, &x.to_le_bytes()),
        Value::Bool(x) => typed(7, &[u8::from(*x)]),
        Value::String(text) => typed(8, &string(text)),
        Value::U64(x) => typed(10, &x.to_le_bytes()),
        Value::I64(x) => typed(11, &x.to_le_bytes()),
        Value::F64(x) => typed(12, &x.to_le_bytes()),
        Value::Array(Array::I32(array)) => {
            let mut bytes = [9u32.to_le_bytes(), 5u32.to_le_bytes()].concat();
            bytes.extend((array.len() as u64).to_le_bytes());
            bytes.extend(array.iter().flat_map(|x| x.to_le_bytes()));
            bytes
        }
        Value::Array(Array::F32(array)) => {
            let mut bytes = [9u32.to_le_bytes(), 6u32.to_le_bytes()].concat();
            bytes.extend((array.len() as u64).to_le_bytes());
            bytes.extend(array.iter().flat_map(|x| x.to_le_bytes()));
            bytes
        }
        Value::Array(Array::Bool(array)) => {
            let mut bytes = [9u32.to_le_bytes(), 7u32.to_le_bytes()].concat();
            bytes.extend((array.len() as u64).to_le_bytes());
            bytes.extend(array.iter().map(|&x| u8::from(x)));
            bytes
        }
        Value::Array(other) => panic!("no model of the fixtures has {other:?}"),
    }
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Name of the table of tokens.
pub(crate) const TABLE: &str = "token_embd.weight";
/// Number of the type.
pub(crate) const F32: u32 = 0;
const ALIGNMENT: usize = 32;
