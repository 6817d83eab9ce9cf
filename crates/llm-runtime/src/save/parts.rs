//! A quantized matrix as tensors of a file.

use llm_backend::HostWeight;
use llm_checkpoint::NewTensor;
use llm_plan::Encodings;
use llm_quant::layout::{self, Part, QuantState};
use llm_quant::{Absmax, FourBit, Scheme, Weight4Bit};
use llm_tensor::{DType, Shape};

use crate::{BoundModel, BoundTensor, Result, RuntimeError};

/// A matrix in 8 or 4 bits, as bitsandbytes lays it out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuantizedParts<'a> {
    bound: BoundTensor<'a>,
    scheme: Scheme,
    /// What the elements were before.
    dtype: DType,
    storage: DType,
}

impl<'a> QuantizedParts<'a> {
    /// `scheme` is one of codes, and packed 4-bit codes are declared to be of `storage`.
    pub(crate) fn new(
        bound: BoundTensor<'a>,
        scheme: Scheme,
        encodings: &Encodings<'_>,
        storage: DType,
    ) -> Self {
        QuantizedParts {
            bound,
            scheme,
            dtype: encodings.dense_dtype(bound.stored_as()),
            storage,
        }
    }

    /// The tensors to write.
    ///
    /// # Errors
    /// [`RuntimeError::Quantized`] when codes cannot be declared as of the type that is asked for.
    pub(crate) fn tensors(&self, model: &BoundModel) -> Result<Vec<NewTensor>> {
        let name = &self.bound.slot.name;
        let [rows, cols] = self.shape();
        let parts = layout::parts(self.scheme, rows, cols, self.storage).map_err(|flaw| {
            RuntimeError::Quantized {
                path: model.checkpoint().path().to_owned(),
                tensor: name.clone(),
                flaw: Box::new(flaw),
            }
        })?;
        let new = parts.into_iter().map(|part| {
            let dims = match (part.part, self.scheme) {
                // Without an offset, which is known only in the end, its length is known beforehand.
                (Part::State(_), Scheme::FourBit(format)) if !format.double_quant => {
                    vec![self.state(format, None).to_json().len() as u64]
                }
                _ => part.dims,
            };
            new_tensor(part.part.name(name), part.dtype, &dims)
        });
        Ok(new.collect())
    }

    /// Hands over the bytes of each, by name, in an order of [`layout::parts`] for elements of the same size.
    ///
    /// # Errors
    /// What `put` answers.
    pub(crate) fn each<E>(
        &self,
        weight: &HostWeight,
        mut put: impl FnMut(&str, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let name = &self.bound.slot.name;
        let mut part = |part: Part, bytes: &[u8]| put(&part.name(name), bytes);
        match weight {
            HostWeight::Int8(weight) => {
                part(Part::Weight, weight.codes())?;
                part(Part::Scb, weight.absmax())?;
                // Row by row.
                part(Part::WeightFormat, &[0])
            }
            HostWeight::FourBit(weight) => {
                part(Part::Weight, weight.packed())?;
                part(Part::QuantMap, bytemuck::cast_slice(weight.table()))?;
                self.scales(weight, &mut part)
            }
            HostWeight::Dense(_) | HostWeight::Int8PerUse(..) => {
                unreachable!("a scheme of codes")
            }
        }
    }

    fn scales<E>(
        &self,
        weight: &Weight4Bit,
        part: &mut impl FnMut(Part, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let format = weight.format();
        match weight.absmax() {
            Absmax::Plain(absmax) => {
                part(Part::Absmax, absmax)?;
                let state = self.state(format, None);
                part(Part::State(format.code), &state.to_json())
            }
            Absmax::Double(double) => {
                part(Part::Absmax, double.codes())?;
                part(Part::NestedAbsmax, double.absmax())?;
                part(Part::NestedQuantMap, bytemuck::cast_slice(double.map()))?;
                let state = self.state(format, Some(double.offset()));
                part(Part::State(format.code), &state.to_json_padded())
            }
        }
    }

    fn state(&self, format: FourBit, offset: Option<f32>) -> QuantState {
        QuantState {
            code: format.code,
            block_size: format.block_size,
            dtype: self.dtype,
            shape: self.shape(),
            nested_offset: offset,
        }
    }

    /// Output and input features.
    fn shape(&self) -> [u64; 2] {
        let &[rows, cols] = self.bound.slot.shape.as_slice() else {
            unreachable!("vectors are dense")
        };
        [rows as u64, cols as u64]
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
