//! Matrices that a checkpoint holds quantized: what they are, and where their parts lie.

use std::ops::Range;

use llm_arch::Slot;
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_plan::becomes_table;
use llm_quant::layout::{self, QuantState};
use llm_quant::{Code, Int8, Part, QuantError, Scheme, StoredWeight};
use llm_tensor::{AlignedBuf, DType, HostBytes, f32_to_le_bytes};
use rayon::prelude::*;

use crate::packed::Matrix;
use crate::{BoundTensor, Result, RuntimeError, scaled};

/// Scheme of `tensor`, which is for `slot`; `None` where it is not understood. 8-bit matrices are to be multiplied as
/// `int8` says, and scales of 8-bit floating-point numbers are for blocks of `block_size`. Reads what describes a
/// quantized matrix, some hundred bytes, and checks that all of its parts are there.
///
/// # Errors
/// [`RuntimeError::Quantized`] and [`RuntimeError::QuantizedPart`], which name the tensor.
pub(crate) fn recognise(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    slot: &Slot,
    int8: Int8,
    block_size: Option<[u64; 2]>,
) -> Result<Option<Scheme>> {
    if let Some(format) = scaled::recognise(checkpoint, tensor, slot, block_size)? {
        return Ok(Some(Scheme::Fp8(format)));
    }
    let alone = tensor.encoding.scheme();
    let (Some(Scheme::Dense(dtype)), &[rows, cols]) = (alone, slot.shape.as_slice()) else {
        return Ok(alone);
    };
    let Some((weight, Part::Weight)) = Part::of_name(&tensor.name) else {
        return Ok(alone);
    };
    let has = |part: Part| checkpoint.get(&part.name(&weight)).is_some();
    let state = Code::ALL.into_iter().find(|&code| has(Part::State(code)));
    let scheme = match state {
        Some(code) => {
            let state = state_of(checkpoint, &weight, code, [rows, cols])?;
            Scheme::FourBit(state.format())
        }
        None if dtype == DType::I8 || has(Part::Scb) => Scheme::Int8(int8),
        None => return Ok(alone),
    };
    // Values are made of these: nothing does that with codes.
    if becomes_table(slot.role) {
        let expected = "elements that are floating-point numbers, as in all such tables";
        return Err(misfit(checkpoint, &tensor.name, expected, scheme));
    }
    check_parts(checkpoint, &weight, scheme, [rows, cols], dtype)?;
    Ok(Some(scheme))
}

/// The names of the tensors beside `weight` that belong to it.
pub(crate) fn companions(checkpoint: &Checkpoint, scheme: Scheme, weight: &str) -> Vec<String> {
    match scheme {
        Scheme::Dense(_) | Scheme::Int8PerUse(..) | Scheme::Ggml(_) | Scheme::Grouped(_) => {
            Vec::new()
        }
        Scheme::Fp8(_) => scaled::companions(checkpoint, weight),
        Scheme::Int8(_) => [Part::Scb, Part::WeightFormat]
            .map(|part| part.name(weight))
            .into(),
        Scheme::FourBit(format) => [
            Part::Absmax,
            Part::QuantMap,
            Part::NestedAbsmax,
            Part::NestedQuantMap,
            Part::State(format.code),
        ]
        .map(|part| part.name(weight))
        .into(),
    }
}

/// Location of a part of a matrix.
pub(crate) enum PartPlace {
    /// The tensor of this name.
    Tensor(String),
    /// These are its bytes: what describes the matrix says them.
    Known([u8; 4]),
}

/// Location of `part` of the matrix `weight`, `[rows, cols]`.
///
/// # Errors
/// When what describes the matrix cannot be read.
pub(crate) fn place_of(
    checkpoint: &Checkpoint,
    weight: &str,
    shape: (usize, usize),
    scheme: Scheme,
    part: Part,
) -> Result<PartPlace> {
    match (part, scheme) {
        (Part::Weight, _) => Ok(PartPlace::Tensor(weight.to_owned())),
        (Part::Scales, _) => {
            let name = scaled::scales_name(checkpoint, weight);
            let name = name.expect("scales were there when the model was bound");
            Ok(PartPlace::Tensor(name))
        }
        (Part::NestedOffset, Scheme::FourBit(format)) => {
            let state = state_of(checkpoint, weight, format.code, shape.into())?;
            let offset = state.nested_offset.unwrap_or_default();
            Ok(PartPlace::Known(offset.to_le_bytes()))
        }
        (part, _) => Ok(PartPlace::Tensor(part.name(weight))),
    }
}

/// The matrix of a bound tensor as it is stored, its bytes where they lie in the file.
///
/// # Errors
/// When a part cannot be read, [`RuntimeError::Quantized`].
pub(crate) fn stored(checkpoint: &Checkpoint, bound: &BoundTensor<'_>) -> Result<StoredWeight> {
    if let Some(matrix) = Matrix::of(checkpoint, bound) {
        return matrix.stored();
    }
    let (scheme, name) = (bound.scheme, &bound.tensor.name);
    let (rows, cols) = bound.slot.matrix();
    let parts = scheme.parts(rows as u64, cols as u64);
    let parts =
        parts.try_map(
            |part, _| match place_of(checkpoint, name, (rows, cols), scheme, part)? {
                PartPlace::Tensor(name) => {
                    bytes_of(checkpoint, tensor_of(checkpoint, bound, part, &name)?)
                }
                PartPlace::Known(bytes) => Ok(HostBytes::new(bytes)),
            },
        )?;
    let weight = StoredWeight {
        scheme,
        rows,
        cols,
        parts,
    };
    weight
        .checked()
        .map_err(|flaw| flawed(checkpoint, name, flaw))
}

/// The same, its parts written to ranges of `out`.
///
/// # Errors
/// As [`stored`].
///
/// # Panics
/// When `to` is no place for it.
pub(crate) fn read(
    checkpoint: &Checkpoint,
    bound: &BoundTensor<'_>,
    to: &StoredWeight<Range<usize>>,
    out: &mut [u8],
) -> Result<()> {
    let (scheme, name) = (bound.scheme, &bound.tensor.name);
    let shape = bound.slot.matrix();
    for (part, range) in to.parts.iter() {
        let out = &mut out[range.clone()];
        if let Some(matrix) = Matrix::of(checkpoint, bound) {
            matrix.read(part, 0..out.len() as u64, out)?;
            continue;
        }
        match place_of(checkpoint, name, shape, scheme, part)? {
            PartPlace::Tensor(name) => {
                let tensor = tensor_of(checkpoint, bound, part, &name)?;
                let there = tensor.contiguous_bytes();
                if there != out.len() as u64 {
                    let expected = format!("{} bytes", out.len());
                    return Err(misfit(checkpoint, &name, expected, there));
                }
                checkpoint.read_stored_tensor(tensor, 0..there, out)?;
            }
            PartPlace::Known(bytes) => out.copy_from_slice(&bytes),
        }
    }
    Ok(())
}

/// The tensor `name` that a part of a bound tensor is.
fn tensor_of<'a>(
    checkpoint: &'a Checkpoint,
    bound: &BoundTensor<'a>,
    part_of: Part,
    name: &str,
) -> Result<&'a TensorInfo> {
    match bound.part_of_stack(part_of) {
        Some(tensor) => Ok(tensor),
        None => part(checkpoint, name),
    }
}

/// Elements `range` of a bound tensor, in the order in which they are stored, as `dtype` into `out`: decoded in f32 where
/// they are codes, and rounded once.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn read_elements(
    checkpoint: &Checkpoint,
    bound: &BoundTensor<'_>,
    range: Range<u64>,
    dtype: DType,
    out: &mut [u8],
) -> Result<()> {
    match bound.scheme {
        Scheme::Dense(_) | Scheme::Int8PerUse(..) | Scheme::Ggml(_) => {
            return Ok(checkpoint.read_tensor(bound.tensor, range, dtype, out)?);
        }
        Scheme::Int8(_) | Scheme::FourBit(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => {}
    }
    let piece_len = match bound.packing {
        // Rows that share words are unpacked together.
        Some(_) => PIECE.max(64 * bound.slot.matrix().1),
        None => PIECE,
    };
    let pieces = out.par_chunks_mut(piece_len * dtype.size()).enumerate();
    pieces.try_for_each(|(idx, out)| {
        let mut wide = vec![0f32; out.len() / dtype.size()];
        let start = range.start + (idx * piece_len) as u64;
        let piece = start..start + wide.len() as u64;
        decode(checkpoint, bound, &piece, &mut wide)?;
        f32_to_le_bytes(&wide, dtype, out).expect("weights are kept in floating point");
        Ok(())
    })
}

/// Elements `range`, of no more parts of the matrix than they are decoded from.
fn decode(
    checkpoint: &Checkpoint,
    bound: &BoundTensor<'_>,
    range: &Range<u64>,
    out: &mut [f32],
) -> Result<()> {
    let (scheme, name) = (bound.scheme, &bound.tensor.name);
    let (rows, cols) = bound.slot.matrix();
    let windows = scheme.window(rows as u64, cols as u64, range);
    let parts = windows.try_map(|part, window| -> Result<_> {
        if let Some(matrix) = Matrix::of(checkpoint, bound) {
            let mut bytes = vec![0; (window.end - window.start) as usize];
            matrix.read(part, window, &mut bytes)?;
            return Ok(bytes);
        }
        match place_of(checkpoint, name, (rows, cols), scheme, part)? {
            PartPlace::Tensor(name) => {
                let tensor = tensor_of(checkpoint, bound, part, &name)?;
                let mut bytes = vec![0; (window.end - window.start) as usize];
                checkpoint.read_stored_tensor(tensor, window, &mut bytes)?;
                Ok(bytes)
            }
            PartPlace::Known(bytes) => Ok(bytes.to_vec()),
        }
    })?;
    scheme
        .decode(cols as u64, range, &parts, out)
        .map_err(|flaw| flawed(checkpoint, name, flaw))
}

fn state_of(
    checkpoint: &Checkpoint,
    weight: &str,
    code: Code,
    shape: [usize; 2],
) -> Result<QuantState> {
    let name = Part::State(code).name(weight);
    let tensor = part(checkpoint, &name)?;
    // More is no state, and what is read is refused.
    let n = tensor.shape.n_elements().min(MAX_STATE);
    let mut json = vec![0; n as usize];
    check_dtype(checkpoint, tensor, DType::U8)?;
    checkpoint.read_into(&name, 0..n, DType::U8, &mut json)?;
    let state = QuantState::parse(&json).map_err(|flaw| flawed(checkpoint, &name, flaw))?;
    let expected = shape.map(|extent| extent as u64);
    if state.shape != expected {
        let expected = format!("a matrix of shape {expected:?}");
        let found = format!("{:?}", state.shape);
        return Err(misfit(checkpoint, &name, expected, found));
    }
    Ok(state)
}

fn check_parts(
    checkpoint: &Checkpoint,
    weight: &str,
    scheme: Scheme,
    [rows, cols]: [usize; 2],
    storage: DType,
) -> Result<()> {
    // 4-bit codes may be declared as of any type; all others have theirs.
    let parts = layout::tensors(scheme, rows as u64, cols as u64, storage)
        .map_err(|flaw| flawed(checkpoint, weight, flaw))?;
    for info in parts {
        let name = info.part.name(weight);
        if info.part == Part::WeightFormat {
            let Some(tensor) = checkpoint.get(&name) else {
                continue;
            };
            check_dtype(checkpoint, tensor, info.dtype)?;
            if tensor.shape.n_elements() != 1 {
                return Err(misfit(checkpoint, &name, "one number", &tensor.shape));
            }
            let mut format = [0];
            checkpoint.read_into(&name, 0..1, DType::U8, &mut format)?;
            layout::check_weight_format(format[0])
                .map_err(|flaw| flawed(checkpoint, &name, flaw))?;
            continue;
        }
        let tensor = part(checkpoint, &name)?;
        check_dtype(checkpoint, tensor, info.dtype)?;
        let is_state = matches!(info.part, Part::State(_));
        if !is_state && *tensor.shape != *info.dims {
            let expected = format!("shape {:?}", info.dims);
            return Err(misfit(checkpoint, &name, expected, &tensor.shape));
        }
    }
    Ok(())
}

fn part<'c>(checkpoint: &'c Checkpoint, name: &str) -> Result<&'c TensorInfo> {
    let missing = || misfit(checkpoint, name, "a tensor of that name", "none");
    checkpoint.get(name).ok_or_else(missing)
}

fn check_dtype(checkpoint: &Checkpoint, tensor: &TensorInfo, expected: DType) -> Result<()> {
    if tensor.encoding == Encoding::Plain(expected) {
        return Ok(());
    }
    let expected = format!("elements of {expected}");
    Err(misfit(checkpoint, &tensor.name, expected, tensor.encoding))
}

fn misfit(
    checkpoint: &Checkpoint,
    tensor: &str,
    expected: impl Into<String>,
    found: impl ToString,
) -> RuntimeError {
    RuntimeError::QuantizedPart {
        path: checkpoint.path().to_owned(),
        tensor: tensor.to_owned(),
        expected: expected.into(),
        found: found.to_string(),
    }
}

fn flawed(checkpoint: &Checkpoint, tensor: &str, flaw: QuantError) -> RuntimeError {
    RuntimeError::Quantized {
        path: checkpoint.path().to_owned(),
        tensor: tensor.to_owned(),
        flaw: Box::new(flaw),
    }
}

/// A tensor's bytes as they are stored.
fn bytes_of(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<HostBytes> {
    if let Some(view) = checkpoint.view_stored(tensor)? {
        return Ok(view);
    }
    let n_bytes = tensor.contiguous_bytes();
    let mut bytes = AlignedBuf::zeroed(n_bytes as usize);
    checkpoint.read_stored_tensor(tensor, 0..n_bytes, &mut bytes)?;
    Ok(HostBytes::new(bytes))
}

/// Bytes of a state that are looked at.
const MAX_STATE: u64 = 1 << 16;

/// Elements that a thread decodes at a time.
const PIECE: usize = 1 << 15;
