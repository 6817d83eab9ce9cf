//! From a pickle's values to tensors with a place in the file.

use std::collections::HashSet;
use std::ops::Range;

use llm_tensor::Shape;

use super::globals::UNTYPED_NAME;
use super::pickle::{Id, Pickle, RawTensor, Value};
use crate::error::{CheckpointError, HeaderFlaw, TensorFlaw};
use crate::opaque::Opaque;
use crate::source::SourceFile;
use crate::tensor::{Encoding, Layout, TensorInfo, sort_by_name};

/// Range in the file of each of [`Pickle::storages`], if it is there.
pub(super) type Storages = Vec<Option<Range<u64>>>;

/// The tensors of the state dict. Whatever else a training checkpoint holds is passed over.
pub(super) fn tensors(
    file: &SourceFile,
    file_idx: usize,
    pickle: &Pickle,
    storages: &Storages,
) -> Result<Vec<TensorInfo>, CheckpointError> {
    let state_dict = find(pickle).map_err(|flaw| file.header_error(flaw))?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for (key, value) in state_dict {
        let Value::Text(name) = pickle.value(*key) else {
            continue;
        };
        let placed = match pickle.value(*value) {
            Value::Tensor(raw) => place(pickle, storages, raw),
            &Value::UnreadableTensor(kind) => Err(TensorFlaw::UnsupportedKind { kind }),
            _ => continue,
        };
        // Seen before it is copied: one long name may be repeated without end.
        let placed = match names.insert(&**name) {
            true => placed,
            false => Err(TensorFlaw::Duplicate),
        };
        let (shape, encoding, layout, bytes) =
            placed.map_err(|flaw| file.tensor_error(name, flaw))?;
        tensors.push(TensorInfo {
            name: name.to_string(),
            shape,
            encoding,
            layout,
            file_idx,
            bytes,
        });
    }
    sort_by_name(file, &mut tensors)?;
    Ok(tensors)
}

/// Under what key a training checkpoint keeps the state dict, perhaps one in the other.
const NESTING: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// Levels at which a state dict is looked for.
const MAX_DEPTH: usize = 4;

/// The entries of the innermost dictionary that holds tensors.
fn find(pickle: &Pickle) -> Result<&[(Id, Id)], HeaderFlaw> {
    let mut dict = pickle.root;
    let mut found = None;
    for _ in 0..MAX_DEPTH {
        let entries = match pickle.value(dict) {
            Value::Dict(entries) => entries,
            other if found.is_none() && dict == pickle.root => {
                return Err(HeaderFlaw::NotAStateDict { found: kind(other) });
            }
            _ => break,
        };
        if entries.iter().any(|(_, value)| is_tensor(pickle, *value)) {
            found = Some(entries);
        }
        match NESTING.iter().find_map(|key| pickle.entry(dict, key)) {
            Some(inner) => dict = inner,
            None => break,
        }
    }
    let keys = || NESTING.map(|key| format!("`{key}`")).join(", ");
    found
        .map(Vec::as_slice)
        .ok_or_else(|| HeaderFlaw::NoTensors { keys: keys() })
}

fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    matches!(
        pickle.value(id),
        Value::Tensor(_) | Value::UnreadableTensor(_)
    )
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::None => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Int(_) => "a number",
        Value::Text(_) => "a text",
        Value::List(_) => "a list",
        Value::Tuple(_) => "a tuple",
        Value::Dict(_) => "a dictionary",
        Value::Global(_) => "a Python name",
        Value::Storage(_) => "a storage without a shape",
        Value::Tensor(_) | Value::UnreadableTensor(_) => "a single tensor without a name",
        Value::Other => "a Python object",
    }
}

/// Dimensions that PyTorch allows.
const MAX_RANK: usize = 64;

type Place = (Shape, Encoding, Layout, Range<u64>);

fn place(pickle: &Pickle, storages: &Storages, raw: &RawTensor) -> Result<Place, TensorFlaw> {
    let storage = &pickle.storages[raw.storage as usize];
    let elements = raw.elements.unwrap_or(storage.elements);
    let unsupported = TensorFlaw::UnsupportedElements {
        found: elements.name,
    };
    let encoding = match elements.dtype {
        Some(dtype) => Encoding::Plain(dtype),
        // Bytes without a type are no elements.
        None if elements.name == UNTYPED_NAME => return Err(unsupported),
        None => {
            let bits = u8::try_from(elements.n_bytes * 8).ok();
            let opaque = Opaque::new(elements.name, bits).ok_or(unsupported.clone())?;
            Encoding::Opaque(opaque)
        }
    };
    let Some(stored) = &storages[raw.storage as usize] else {
        return Err(TensorFlaw::NoStorage {
            key: storage.key.to_string(),
        });
    };
    let size = elements.n_bytes;
    let len = (stored.end - stored.start) / size;
    let offset = (pickle.int(raw.offset))
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(TensorFlaw::Description { what: "offset" })?;
    let dims = numbers(pickle, raw.size, "shape")?;
    let strides = numbers(pickle, raw.strides, "list of strides")?;
    if strides.len() != dims.len() {
        return Err(TensorFlaw::Description {
            what: "number of strides",
        });
    }
    let shape = Shape::new(&dims)?;
    if shape.n_elements() == 0 {
        let nowhere = stored.start..stored.start;
        return Ok((shape, encoding, Layout::RowMajor, nowhere));
    }
    if shape.n_elements() > len {
        // Before anyone takes memory for them.
        return Err(TensorFlaw::Repeated {
            n_elements: shape.n_elements(),
            len,
        });
    }
    let last = dims.iter().zip(&strides).try_fold(offset, |at, (d, s)| {
        at.checked_add((d - 1).checked_mul(*s)?)
    });
    let Some(last) = last.filter(|last| *last < len) else {
        return Err(TensorFlaw::PastStorage { len });
    };
    let bytes = stored.start + offset * size..stored.start + (last + 1) * size;
    let layout = if is_row_major(&dims, &strides) {
        Layout::RowMajor
    } else if elements.dtype.is_none() {
        // Only elements that are known are gathered.
        return Err(unsupported);
    } else {
        Layout::Strided(strides.into())
    };
    Ok((shape, encoding, layout, bytes))
}

/// The numbers of a tuple that describes each dimension.
fn numbers(pickle: &Pickle, tuple: Id, what: &'static str) -> Result<Vec<u64>, TensorFlaw> {
    let items = match pickle.value(tuple) {
        Value::Tuple(items) if items.len() <= MAX_RANK => items,
        Value::Tuple(items) => {
            return Err(TensorFlaw::Rank {
                found: items.len() as u32,
                limit: MAX_RANK as u32,
            });
        }
        _ => return Err(TensorFlaw::Description { what }),
    };
    let number = |id: &Id| pickle.int(*id).and_then(|n| u64::try_from(n).ok());
    let numbers: Option<Vec<u64>> = items.iter().map(number).collect();
    numbers.ok_or(TensorFlaw::Description { what })
}

/// True if the elements lie one after the other. The stride of a dimension with one element is never taken.
fn is_row_major(dims: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1;
    dims.iter().zip(strides).rev().all(|(&extent, &stride)| {
        let fits = extent == 1 || stride == expected;
        expected *= extent;
        fits
    })
}
