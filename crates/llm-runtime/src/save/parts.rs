//! A quantized matrix as tensors of a file, as bitsandbytes lays it out.

use llm_arch::Slot;
use llm_checkpoint::NewTensor;
use llm_quant::layout::{self, QuantState};
use llm_quant::{Part, Scheme, StoredWeight};
use llm_tensor::{DType, Shape};

use crate::{BoundModel, Result, RuntimeError};

/// The tensors to write of the matrix of `slot` in `scheme`. Its elements were of `dtype` before; packed 4-bit codes are
/// declared to be of `storage`.
///
/// # Errors
/// [`RuntimeError::Quantized`] when codes cannot be declared so.
pub(crate) fn tensors(
    model: &BoundModel,
    slot: &Slot,
    scheme: Scheme,
    dtype: DType,
    storage: DType,
) -> Result<Vec<NewTensor>> {
    let (rows, cols) = slot.matrix();
    let tensors = layout::tensors(scheme, rows as u64, cols as u64, storage);
    let tensors = tensors.map_err(|flaw| RuntimeError::Quantized {
        path: model.checkpoint().path().to_owned(),
        tensor: slot.name.clone(),
        flaw: Box::new(flaw),
    })?;
    let new = tensors.into_iter().map(|tensor| {
        let dims = match (tensor.part, scheme) {
            // Without an offset, which is known only in the end, its length is known beforehand.
            (Part::State(_), Scheme::FourBit(format)) if !format.double_quant => {
                let state = QuantState {
                    code: format.code,
                    block_size: format.block_size,
                    dtype,
                    shape: [rows as u64, cols as u64],
                    nested_offset: None,
                };
                vec![state.to_json().len() as u64]
            }
            _ => tensor.dims,
        };
        new_tensor(tensor.part.name(&slot.name), tensor.dtype, &dims)
    });
    Ok(new.collect())
}

/// Hands over the bytes of each of [`tensors`], by name and in their order.
///
/// # Errors
/// What `put` answers.
pub(crate) fn each<E>(
    name: &str,
    weight: &StoredWeight,
    dtype: DType,
    mut put: impl FnMut(&str, &[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    for (part, bytes) in weight.parts.iter().filter(|(part, _)| part.is_in_files()) {
        put(&part.name(name), bytes)?;
    }
    match weight.scheme {
        Scheme::Dense(_)
        | Scheme::Int8PerUse(..)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => Ok(()),
        // Row by row.
        Scheme::Int8(_) => put(&Part::WeightFormat.name(name), &[0]),
        Scheme::FourBit(format) => {
            let offset = weight.parts.get(Part::NestedOffset);
            let offset = offset.map(|bytes| bytemuck::pod_read_unaligned(bytes));
            let state = QuantState {
                code: format.code,
                block_size: format.block_size,
                dtype,
                shape: [weight.rows as u64, weight.cols as u64],
                nested_offset: offset,
            };
            let json = match offset {
                None => state.to_json(),
                Some(_) => state.to_json_padded(),
            };
            put(&Part::State(format.code).name(name), &json)
        }
    }
}

/// # Panics
/// When the elements cannot be counted, as those of a model's tensor can.
pub(crate) fn new_tensor(name: String, dtype: DType, dims: &[u64]) -> NewTensor {
    NewTensor {
        name,
        dtype,
        shape: Shape::new(dims).expect("a tensor that can be counted"),
    }
}
