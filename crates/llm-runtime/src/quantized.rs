//! Matrices that a checkpoint holds quantized, as bitsandbytes lays them out.

use std::sync::Arc;

use llm_arch::{Role, Slot};
use llm_backend::HostWeight;
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_plan::{StoredAs, becomes_table};
use llm_quant::layout::{self, Part, QuantState};
use llm_quant::{Absmax, Code, DoubleAbsmax, Int8, Int8Weight, QuantError, Scheme, Weight4Bit};
use llm_tensor::{AlignedBuf, DType, HostBytes};

use crate::scaled::Scaled;
use crate::{Result, RuntimeError};

/// How a checkpoint holds what a slot needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Held {
    /// Not quantized, or in GGUF's blocks.
    Dense(Encoding),
    /// In NF4 or FP4.
    FourBit(QuantState),
    /// In LLM.int8().
    Int8(Int8),
    /// In 8-bit floating-point numbers with scales.
    Scaled(Scaled),
}

impl Held {
    pub(crate) fn stored_as(self) -> StoredAs {
        match self {
            Held::Dense(Encoding::Plain(dtype)) => StoredAs::Plain(dtype),
            Held::Dense(Encoding::Block(_)) | Held::Scaled(_) => StoredAs::Blocks,
            // No model is bound to such tensors.
            Held::Dense(Encoding::Opaque(_)) => StoredAs::Blocks,
            Held::FourBit(state) => StoredAs::Quantized(Scheme::FourBit(state.format())),
            Held::Int8(format) => StoredAs::Quantized(Scheme::Int8(format)),
        }
    }
}

/// How `tensor` is held, which is for `slot`; 8-bit matrices are to be multiplied as `int8` says, and scales of 8-bit
/// floating-point numbers are for blocks of `block_size`. Reads what describes a
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
) -> Result<Held> {
    if let Some(scaled) = Scaled::of(checkpoint, tensor, slot, block_size)? {
        return Ok(Held::Scaled(scaled));
    }
    let dense = Held::Dense(tensor.encoding);
    let (Encoding::Plain(dtype), &[rows, cols]) = (tensor.encoding, slot.shape.as_slice()) else {
        return Ok(dense);
    };
    let Some((weight, Part::Weight)) = Part::of_name(&tensor.name) else {
        return Ok(dense);
    };
    let has = |part: Part| checkpoint.get(&part.name(&weight)).is_some();
    let state = Code::ALL.into_iter().find(|&code| has(Part::State(code)));
    let held = match state {
        Some(code) => Held::FourBit(state_of(checkpoint, &weight, code, [rows, cols])?),
        None if dtype == DType::I8 || has(Part::Scb) => Held::Int8(int8),
        None => return Ok(dense),
    };
    let StoredAs::Quantized(scheme) = held.stored_as() else {
        unreachable!("a quantized matrix")
    };
    // Rows of these are looked up, or values are made of them: nothing does that with codes.
    if matches!(slot.role, Role::TokenTable | Role::PositionTable) || becomes_table(slot.role) {
        let expected = "floating-point numbers, as in all tables".to_owned();
        let found = scheme.to_string();
        return Err(misfit(
            checkpoint,
            &tensor.name,
            "elements that are",
            expected,
            found,
        ));
    }
    check_parts(checkpoint, &weight, scheme, [rows, cols], dtype)?;
    Ok(held)
}

/// The names of the tensors beside `weight` that hold its statistics.
pub(crate) fn companions(held: Held, weight: &str) -> Vec<String> {
    let parts: &[Part] = match held {
        Held::Dense(_) => &[],
        Held::Scaled(scaled) => return scaled.companions(weight),
        Held::FourBit(state) => &[
            Part::Absmax,
            Part::QuantMap,
            Part::NestedAbsmax,
            Part::NestedQuantMap,
            Part::State(state.code),
        ],
        Held::Int8(_) => &[Part::Scb, Part::WeightFormat],
    };
    parts.iter().map(|part| part.name(weight)).collect()
}

pub(crate) fn state_of(
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
        let (expected, found) = (format!("{expected:?}"), format!("{:?}", state.shape));
        return Err(misfit(
            checkpoint,
            &name,
            "a matrix of shape",
            expected,
            found,
        ));
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
    let parts = layout::parts(scheme, rows as u64, cols as u64, storage)
        .map_err(|flaw| flawed(checkpoint, weight, flaw))?;
    for info in parts {
        let name = info.part.name(weight);
        if info.part == Part::WeightFormat {
            let Some(tensor) = checkpoint.get(&name) else {
                continue;
            };
            check_dtype(checkpoint, tensor, info.dtype)?;
            if tensor.shape.n_elements() != 1 {
                let found = tensor.shape.to_string();
                return Err(misfit(
                    checkpoint,
                    &name,
                    "one number",
                    String::new(),
                    found,
                ));
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
            let (expected, found) = (format!("{:?}", info.dims), tensor.shape.to_string());
            return Err(misfit(checkpoint, &name, "shape", expected, found));
        }
    }
    Ok(())
}

fn part<'c>(checkpoint: &'c Checkpoint, name: &str) -> Result<&'c TensorInfo> {
    checkpoint.get(name).ok_or_else(|| {
        misfit(
            checkpoint,
            name,
            "a tensor of that name",
            String::new(),
            "none".to_owned(),
        )
    })
}

fn check_dtype(checkpoint: &Checkpoint, tensor: &TensorInfo, expected: DType) -> Result<()> {
    if tensor.encoding == Encoding::Plain(expected) {
        return Ok(());
    }
    let found = tensor.encoding.to_string();
    Err(misfit(
        checkpoint,
        &tensor.name,
        "elements of",
        expected.to_string(),
        found,
    ))
}

fn misfit(
    checkpoint: &Checkpoint,
    tensor: &str,
    what: &'static str,
    expected: String,
    found: String,
) -> RuntimeError {
    RuntimeError::QuantizedPart {
        path: checkpoint.path().to_owned(),
        tensor: tensor.to_owned(),
        expected: format!("{what} {expected}").trim_end().to_owned(),
        found,
    }
}

fn flawed(checkpoint: &Checkpoint, tensor: &str, flaw: QuantError) -> RuntimeError {
    RuntimeError::Quantized {
        path: checkpoint.path().to_owned(),
        tensor: tensor.to_owned(),
        flaw: Box::new(flaw),
    }
}

/// The matrix `weight` of 4-bit codes, its bytes where they lie in the file.
pub(crate) fn four_bit(
    checkpoint: &Checkpoint,
    weight: &str,
    state: &QuantState,
) -> Result<HostWeight> {
    four_bit_of(state, |part| bytes_of(checkpoint, &part.name(weight)))?
        .map(HostWeight::FourBit)
        .map_err(|flaw| flawed(checkpoint, weight, flaw))
}

/// A matrix of 4-bit codes out of its parts, wherever these come from.
pub(crate) fn four_bit_of<E>(
    state: &QuantState,
    part: impl Fn(Part) -> std::result::Result<HostBytes, E>,
) -> std::result::Result<std::result::Result<Weight4Bit, QuantError>, E> {
    let absmax = match state.nested_offset {
        None => Ok(Absmax::Plain(part(Part::Absmax)?)),
        Some(offset) => {
            let map = Arc::new(f32s(&part(Part::NestedQuantMap)?));
            let (codes, scales) = (part(Part::Absmax)?, part(Part::NestedAbsmax)?);
            DoubleAbsmax::new(codes, scales, map, offset).map(Absmax::Double)
        }
    };
    let shape = state.shape.map(|extent| extent as usize).into();
    let (table, packed) = (f32s(&part(Part::QuantMap)?), part(Part::Weight)?);
    Ok(absmax.and_then(|absmax| Weight4Bit::new(shape, state.format(), table, packed, absmax)))
}

/// The matrix `weight` of 8-bit codes, its bytes where they lie in the file.
pub(crate) fn int8(
    checkpoint: &Checkpoint,
    weight: &str,
    shape: (usize, usize),
    format: Int8,
) -> Result<HostWeight> {
    let codes = bytes_of(checkpoint, weight)?;
    let absmax = bytes_of(checkpoint, &Part::Scb.name(weight))?;
    Int8Weight::new(shape, format, codes, absmax)
        .map(HostWeight::Int8)
        .map_err(|flaw| flawed(checkpoint, weight, flaw))
}

/// A tensor's bytes as they are stored.
fn bytes_of(checkpoint: &Checkpoint, name: &str) -> Result<HostBytes> {
    if let Some(view) = checkpoint.view(name)? {
        return Ok(view);
    }
    let tensor = part(checkpoint, name)?;
    let Encoding::Plain(dtype) = tensor.encoding else {
        unreachable!("a part of a quantized matrix has plain elements")
    };
    let n_elements = tensor.shape.n_elements();
    let mut bytes = AlignedBuf::zeroed(n_elements as usize * dtype.size());
    checkpoint.read_into(name, 0..n_elements, dtype, &mut bytes)?;
    Ok(HostBytes::new(bytes))
}

/// Bytes of a state that are looked at.
const MAX_STATE: u64 = 1 << 16;

/// `N` little-endian f32, as many as were checked to be there.
fn f32s<const N: usize>(bytes: &[u8]) -> [f32; N] {
    let words = bytes.as_chunks::<4>().0;
    std::array::from_fn(|i| f32::from_le_bytes(words[i]))
}
