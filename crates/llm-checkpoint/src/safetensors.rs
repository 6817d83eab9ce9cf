//! The safetensors format: an 8-byte length, a JSON header of that length, the tensor data without gaps.

use std::ops::Range;

use llm_tensor::{Bytes, DType, Shape};

use self::header::HeaderEntry;
use crate::error::{CheckpointError, HeaderFlaw, TensorFlaw};
use crate::metadata::{Metadata, Value};
use crate::opaque::Opaque;
use crate::source::SourceFile;
use crate::tensor::{Contents, Encoding, Layout, TensorInfo, in_file_order, sort_by_name};

mod header;

/// Bytes that a header may have; the reference implementation has the same limit.
pub(crate) const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length.
const PREFIX: u64 = 8;

/// True if `file` begins as safetensors do: with the length of a header that is an object.
pub(crate) fn is_safetensors(file: &SourceFile) -> Result<bool, CheckpointError> {
    let mut front = [0; PREFIX as usize + 1];
    if file.len() < front.len() as u64 {
        return Ok(false);
    }
    file.read_at(0, &mut front)?;
    let [len @ .., brace] = front;
    Ok(u64::from_le_bytes(len) < file.len() && brace == b'{')
}

/// Reads and validates the header of `file`, which becomes number `file_idx` of the checkpoint.
pub(crate) fn read_header(file: &SourceFile, file_idx: usize) -> Result<Contents, CheckpointError> {
    let json = read_json(file)?;
    let data = PREFIX + json.len() as u64..file.len();
    let raw = header::parse(&json).map_err(|(tensor, error)| {
        let reason = error.to_string();
        match tensor {
            Some(tensor) => file.tensor_error(&tensor, TensorFlaw::Json { reason }),
            None => file.header_error(HeaderFlaw::Json { reason }),
        }
    })?;

    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        match place(raw, &data) {
            Ok((shape, encoding, bytes)) => tensors.push(TensorInfo {
                name,
                shape,
                encoding,
                layout: Layout::RowMajor,
                file_idx,
                bytes,
            }),
            Err(flaw) => return Err(file.tensor_error(&name, flaw)),
        }
    }
    sort_by_name(file, &mut tensors)?;
    check_coverage(file, &tensors, &data)?;

    let mut metadata = Metadata::new();
    for (key, text) in raw.metadata {
        if metadata.contains_key(&key) {
            return Err(file.header_error(HeaderFlaw::DuplicateKey { key }));
        }
        metadata.insert(key, Value::String(text));
    }
    Ok(Contents { tensors, metadata })
}

fn read_json(file: &SourceFile) -> Result<Vec<u8>, CheckpointError> {
    if file.len() < PREFIX {
        return Err(file.header_error(HeaderFlaw::NoLength { len: file.len() }));
    }
    let mut prefix = [0; PREFIX as usize];
    file.read_at(0, &mut prefix)?;
    let needed = u64::from_le_bytes(prefix);
    let left = file.len() - PREFIX;
    if needed > left {
        return Err(file.header_error(HeaderFlaw::CutOff {
            at: PREFIX,
            needed,
            left,
        }));
    }
    if needed > MAX_HEADER {
        return Err(file.header_error(HeaderFlaw::TooLong { limit: MAX_HEADER }));
    }
    let mut json = vec![0; needed as usize];
    file.read_at(PREFIX, &mut json)?;
    Ok(json)
}

/// The shape, the encoding and the place in the file of a header's entry. `data` is where the tensor data lies.
fn place(
    raw: HeaderEntry<'_>,
    data: &Range<u64>,
) -> Result<(Shape, Encoding, Range<u64>), TensorFlaw> {
    let encoding = encoding(&raw.dtype)?;
    let shape = Shape::new(&raw.shape)?;
    let (start, end) = raw.data_offsets;
    if start > end {
        return Err(TensorFlaw::Backwards { start, end });
    }
    let expected = encoding.stored_bytes(&shape)?.map(Bytes::get);
    if let Some(expected) = expected
        && end - start != expected
    {
        return Err(TensorFlaw::Length {
            shape,
            encoding: encoding.to_string().into(),
            expected,
            found: end - start,
        });
    }
    let len = data.end - data.start;
    if end > len {
        return Err(TensorFlaw::PastEnd { end, len });
    }
    Ok((shape, encoding, data.start + start..data.start + end))
}

fn encoding(name: &str) -> Result<Encoding, TensorFlaw> {
    if let Some((_, dtype)) = DTYPES.iter().find(|(known, _)| *known == name) {
        return Ok(Encoding::Plain(*dtype));
    }
    let narrow = NARROW.iter().find(|(known, _)| *known == name);
    let opaque = Opaque::new(name, narrow.map(|(_, bits)| *bits));
    opaque
        .map(Encoding::Opaque)
        .ok_or_else(|| TensorFlaw::UnknownDType {
            found: name.to_owned(),
            known: DTYPES.map(|(name, _)| name).join(", "),
        })
}

/// Name of `dtype` in the format.
pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    let known = DTYPES.iter().find(|(_, known)| *known == dtype);
    known.expect("DTYPES has every type").0
}

/// Names of the format's element types.
const DTYPES: [(&str, DType); 19] = [
    ("F64", DType::F64),
    ("F32", DType::F32),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("F8_E4M3", DType::F8E4M3),
    ("F8_E5M2", DType::F8E5M2),
    ("F8_E4M3FNUZ", DType::F8E4M3FNUZ),
    ("F8_E5M2FNUZ", DType::F8E5M2FNUZ),
    ("F8_E8M0", DType::F8E8M0),
    ("C64", DType::C64),
    ("I64", DType::I64),
    ("I32", DType::I32),
    ("I16", DType::I16),
    ("I8", DType::I8),
    ("U64", DType::U64),
    ("U32", DType::U32),
    ("U16", DType::U16),
    ("U8", DType::U8),
    ("BOOL", DType::Bool),
];

/// Names of those of less than a byte, with their bits.
const NARROW: [(&str, u8); 3] = [("F4", 4), ("F6_E2M3", 6), ("F6_E3M2", 6)];

/// Every byte of the data must belong to exactly one tensor: the format's rule, so that nothing can hide in a file.
fn check_coverage(
    file: &SourceFile,
    tensors: &[TensorInfo],
    data: &Range<u64>,
) -> Result<(), CheckpointError> {
    let mut covered = data.start;
    let places = in_file_order(file, tensors)?.into_iter().map(|t| &t.bytes);
    for next in places.chain([&(data.end..data.end)]) {
        if next.start > covered {
            return Err(file.header_error(HeaderFlaw::Gap {
                start: covered - data.start,
                end: next.start - data.start,
            }));
        }
        covered = next.end;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
