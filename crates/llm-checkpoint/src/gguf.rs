//! The GGUF format, versions 2 and 3: metadata, tensor infos, then the tensor data, each tensor aligned.

use std::ops::Range;

use llm_quant::GgmlType;
use llm_tensor::{DType, Shape};

use crate::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw, TensorFlaw};
use crate::metadata::{Metadata, Value};
use crate::source::SourceFile;
use crate::tensor::{Contents, Encoding, Layout, TensorInfo, in_file_order, sort_by_name};

#[cfg(test)]
mod block_tests;
mod by_layer;
pub(crate) mod parts;
mod values;

/// True if `file` begins as GGUF does.
pub(crate) fn is_gguf(file: &SourceFile) -> Result<bool, CheckpointError> {
    let mut front = [0; MAGIC.len()];
    if file.len() < front.len() as u64 {
        return Ok(false);
    }
    file.read_at(0, &mut front)?;
    Ok(front == *MAGIC)
}

/// Reads and validates the header of `file`, which becomes number `file_idx` of the checkpoint.
pub(crate) fn read_header(file: &SourceFile, file_idx: usize) -> Result<Contents, CheckpointError> {
    let mut cursor = Cursor::new(file);
    check_version(&mut cursor)?;
    let n_tensors = cursor.u64()?;
    let n_entries = cursor.u64()?;
    let (metadata, numbers) = read_metadata(&mut cursor, n_entries, file_idx)?;
    let alignment = alignment(&metadata).map_err(|flaw| file.header_error(flaw))?;

    cursor.expect_records(n_tensors, TensorRecord::MIN_BYTES)?;
    let mut raw = Vec::new();
    for _ in 0..n_tensors {
        raw.push(TensorRecord::read(&mut cursor)?);
    }
    // Without tensors the file may end before the data begins.
    let data = cursor.position().next_multiple_of(alignment)..file.len();

    let mut tensors = Vec::with_capacity(raw.len());
    for raw in raw {
        match raw.place(alignment, &data) {
            Ok((shape, encoding, bytes)) => tensors.push(TensorInfo {
                name: raw.name,
                shape,
                encoding,
                layout: Layout::RowMajor,
                file_idx,
                bytes,
            }),
            Err(flaw) => return Err(file.tensor_error(&raw.name, flaw)),
        }
    }
    by_layer::add(numbers, &mut tensors);
    sort_by_name(file, &mut tensors)?;
    in_file_order(file, &tensors)?;
    Ok(Contents { tensors, metadata })
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(), CheckpointError> {
    if cursor.array()? != *MAGIC {
        return Err(cursor.error(HeaderFlaw::NotGguf));
    }
    match cursor.u32()? {
        2 | 3 => Ok(()),
        other if matches!(other.swap_bytes(), 1..=3) => Err(cursor.error(HeaderFlaw::BigEndian)),
        found => Err(cursor.error(HeaderFlaw::Version { found })),
    }
}

/// The metadata, and the numbers of layers in it.
fn read_metadata(
    cursor: &mut Cursor<'_>,
    n_entries: u64,
    file_idx: usize,
) -> Result<(Metadata, Vec<TensorInfo>), CheckpointError> {
    /// The length of the key, the type of the value, one byte of value.
    const MIN_ENTRY: u64 = 8 + 4 + 1;
    cursor.expect_records(n_entries, MIN_ENTRY)?;
    let (mut metadata, mut numbers) = (Metadata::new(), Vec::new());
    for _ in 0..n_entries {
        let key = text(cursor)?;
        let value = values::read(cursor, &key)?;
        if metadata.contains_key(&key) {
            return Err(cursor.error(HeaderFlaw::DuplicateKey { key }));
        }
        numbers.extend(by_layer::tensors(&key, &value, cursor.position(), file_idx));
        metadata.insert(key, value);
    }
    Ok((metadata, numbers))
}

/// A string: its length, then its bytes.
fn text(cursor: &mut Cursor<'_>) -> Result<String, CheckpointError> {
    let len = cursor.u64()?;
    cursor.text(len)
}

fn alignment(metadata: &Metadata) -> Result<u64, HeaderFlaw> {
    const KEY: &str = "general.alignment";
    const DEFAULT: u64 = 32;
    match metadata.get(KEY) {
        None => Ok(DEFAULT),
        Some(&Value::U32(n)) if n.is_power_of_two() => Ok(n.into()),
        Some(&Value::U32(found)) => Err(HeaderFlaw::Alignment { found }),
        Some(_) => Err(HeaderFlaw::WrongType {
            key: KEY,
            expected: "32-bit unsigned integer",
        }),
    }
}

/// First bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";

/// A tensor info as written.
struct TensorRecord {
    name: String,
    /// Outermost first: turned around.
    dims: Vec<u64>,
    type_code: u32,
    /// Counted from the begin of the tensor data.
    offset: u64,
}

impl TensorRecord {
    /// The length of an empty name, the number of dimensions, the type, the offset.
    const MIN_BYTES: u64 = 8 + 4 + 4 + 8;

    /// Dimensions that GGML knows.
    const MAX_RANK: u32 = 4;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, CheckpointError> {
        let name = text(cursor)?;
        let rank = cursor.u32()?;
        if rank > Self::MAX_RANK {
            return Err(cursor.file().tensor_error(
                &name,
                TensorFlaw::Rank {
                    found: rank,
                    limit: Self::MAX_RANK,
                },
            ));
        }
        let mut dims = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            dims.push(cursor.u64()?);
        }
        dims.reverse();
        Ok(TensorRecord {
            name,
            dims,
            type_code: cursor.u32()?,
            offset: cursor.u64()?,
        })
    }

    /// The shape, the encoding and the place in the file. `data` is where the tensor data lies.
    fn place(
        &self,
        alignment: u64,
        data: &Range<u64>,
    ) -> Result<(Shape, Encoding, Range<u64>), TensorFlaw> {
        let encoding = encoding(self.type_code)?;
        let shape = Shape::new(&self.dims)?;
        let n_bytes = encoding.stored_bytes(&shape)?;
        let n_bytes = n_bytes.expect("GGUF's types have known widths").get();
        if !self.offset.is_multiple_of(alignment) {
            return Err(TensorFlaw::Misaligned {
                offset: self.offset,
                alignment,
            });
        }
        let end = self.offset.saturating_add(n_bytes);
        if data.start.saturating_add(end) > data.end {
            let len = data.end.saturating_sub(data.start);
            return Err(TensorFlaw::PastEnd { end, len });
        }
        Ok((shape, encoding, data.start + self.offset..data.start + end))
    }
}

/// *Source*: the numbers of `enum ggml_type`.
fn encoding(type_code: u32) -> Result<Encoding, TensorFlaw> {
    use Encoding::{Block, Plain};
    Ok(match type_code {
        0 => Plain(DType::F32),
        1 => Plain(DType::F16),
        2 => Block(GgmlType::Q4_0),
        3 => Block(GgmlType::Q4_1),
        6 => Block(GgmlType::Q5_0),
        7 => Block(GgmlType::Q5_1),
        8 => Block(GgmlType::Q8_0),
        10 => Block(GgmlType::Q2K),
        11 => Block(GgmlType::Q3K),
        12 => Block(GgmlType::Q4K),
        13 => Block(GgmlType::Q5K),
        14 => Block(GgmlType::Q6K),
        16 => Block(GgmlType::IQ2XXS),
        17 => Block(GgmlType::IQ2XS),
        18 => Block(GgmlType::IQ3XXS),
        19 => Block(GgmlType::IQ1S),
        20 => Block(GgmlType::IQ4NL),
        21 => Block(GgmlType::IQ3S),
        22 => Block(GgmlType::IQ2S),
        23 => Block(GgmlType::IQ4XS),
        24 => Plain(DType::I8),
        25 => Plain(DType::I16),
        26 => Plain(DType::I32),
        27 => Plain(DType::I64),
        28 => Plain(DType::F64),
        29 => Block(GgmlType::IQ1M),
        30 => Plain(DType::BF16),
        34 => Block(GgmlType::TQ1_0),
        35 => Block(GgmlType::TQ2_0),
        39 => Block(GgmlType::MXFP4),
        40 => Block(GgmlType::NVFP4),
        code => {
            let name = unsupported_name(code);
            let known = GgmlType::known();
            return Err(TensorFlaw::UnsupportedType { code, name, known });
        }
    })
}

fn unsupported_name(type_code: u32) -> &'static str {
    let mut known = REFUSED_TYPES.into_iter();
    let known = known.find(|(code, _)| *code == type_code);
    known.map_or("unknown", |(_, name)| name)
}

/// Numbers and names of GGML's types that are known and not decoded. To Q8_1 and Q8_K it quantizes activations; no file
/// has weights in them, and its Python reference decodes none of the three.
pub const REFUSED_TYPES: [(u32, &str); 3] = [(9, "Q8_1"), (15, "Q8_K"), (41, "Q1_0")];

#[cfg(test)]
mod tests;
