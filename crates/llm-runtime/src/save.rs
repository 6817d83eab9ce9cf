//! Writes a model quantized, in the layout of bitsandbytes.

use llm_backend::HostWeight;
use llm_checkpoint::{NewTensor, ShardWriter};
use llm_plan::{Encodings, RunOn};
use llm_quant::layout::{self, Part, QuantState};
use llm_quant::{Absmax, Encoder, FourBit, Scheme, Weight4Bit};
use llm_tensor::{Bytes, DType, Shape};

use crate::load::weight;
use crate::{BoundModel, BoundTensor, Result, RuntimeError};

/// A model that is to be written, with every weight as an encoding has it.
///
/// Matrices that are quantized lie `[out, in]`, everything else as the checkpoint has it, as the reference libraries
/// write it; names are those of the whole model.
pub struct Save<'a> {
    model: &'a BoundModel,
    encodings: Encodings<'a>,
    encoder: &'a dyn Encoder,
    /// The element type that packed 4-bit codes are declared to be of.
    storage: DType,
}

impl<'a> Save<'a> {
    /// `encodings` are the model's own ([`BoundModel::encodings`]).
    pub fn new(model: &'a BoundModel, encodings: Encodings<'a>, encoder: &'a dyn Encoder) -> Self {
        let quant = encodings.quant;
        Save {
            model,
            encodings,
            encoder,
            storage: quant.map_or(DType::U8, |quant| quant.bnb_4bit_quant_storage),
        }
    }

    /// The tensors to write.
    ///
    /// # Errors
    /// [`RuntimeError::Quantized`] when codes cannot be declared as of the type that is asked for.
    pub fn tensors(&self) -> Result<Vec<NewTensor>> {
        let mut tensors = Vec::new();
        for bound in self.model.tensors() {
            let new = |name: String, dtype, dims: &[u64]| NewTensor {
                name,
                dtype,
                shape: Shape::new(dims).expect("parts of a tensor that can be counted"),
            };
            let scheme = self.scheme(&bound);
            let name = &bound.slot.name;
            let (Scheme::Int8(_) | Scheme::FourBit(_), &[rows, cols]) =
                (scheme, bound.slot.shape.as_slice())
            else {
                let dtype = match scheme {
                    Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => dtype,
                    Scheme::Int8(_) | Scheme::FourBit(_) => unreachable!("vectors are dense"),
                };
                tensors.push(new(name.clone(), dtype, &bound.tensor.shape));
                continue;
            };
            let parts = layout::parts(scheme, rows as u64, cols as u64, self.storage);
            let parts = parts.map_err(|flaw| RuntimeError::Quantized {
                path: self.model.checkpoint().path().to_owned(),
                tensor: name.clone(),
                flaw: Box::new(flaw),
            })?;
            for part in parts {
                let dims = match (part.part, scheme) {
                    // Without an offset, which is known only in the end, its length is known beforehand.
                    (Part::State(_), Scheme::FourBit(format)) if !format.double_quant => {
                        vec![self.state(&bound, format, None).to_json().len() as u64]
                    }
                    _ => part.dims,
                };
                tensors.push(new(part.part.name(name), part.dtype, &dims));
            }
        }
        Ok(tensors)
    }

    /// Quantizes and writes one tensor after the other; `progress` is told the bytes written so far, and its error ends
    /// it.
    ///
    /// # Errors
    /// When a tensor cannot be read, quantized or written, and what `progress` answers.
    ///
    /// # Panics
    /// When the writer's plan is not of [`Save::tensors`].
    pub fn write<E: From<RuntimeError>>(
        &self,
        writer: &mut ShardWriter<'_>,
        mut progress: impl FnMut(Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut written = Bytes::ZERO;
        let mut put = |name: &str, start: u64, bytes: &[u8]| {
            writer
                .write_tensor(name, start, bytes)
                .map_err(RuntimeError::from)?;
            written += Bytes::new(bytes.len() as u64);
            progress(written)
        };
        for bound in self.model.tensors() {
            match self.scheme(&bound) {
                Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => {
                    self.dense(&bound, dtype, &mut put)?;
                }
                Scheme::Int8(_) | Scheme::FourBit(_) => self.quantized(&bound, &mut put)?,
            }
        }
        Ok(())
    }

    /// A file has no device, so that nothing stays in f32 for the processor's sake.
    fn scheme(&self, bound: &BoundTensor<'_>) -> Scheme {
        self.encodings
            .scheme(bound.slot, bound.stored_as(), RunOn::Gpu(0))
    }

    fn state(&self, bound: &BoundTensor<'_>, format: FourBit, offset: Option<f32>) -> QuantState {
        QuantState {
            code: format.code,
            block_size: format.block_size,
            dtype: self.encodings.dense_dtype(bound.stored_as()),
            shape: [0, 1].map(|i| bound.slot.shape[i] as u64),
            nested_offset: offset,
        }
    }

    fn dense<E: From<RuntimeError>>(
        &self,
        bound: &BoundTensor<'_>,
        dtype: DType,
        put: &mut impl FnMut(&str, u64, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let n_elements = bound.tensor.shape.n_elements();
        let mut piece = vec![0; PIECE_ELEMENTS.min(n_elements) as usize * dtype.size()];
        let mut start = 0;
        while start < n_elements {
            let end = n_elements.min(start + PIECE_ELEMENTS);
            let piece = &mut piece[..(end - start) as usize * dtype.size()];
            let checkpoint = self.model.checkpoint();
            checkpoint
                .read_into(&bound.tensor.name, start..end, dtype, piece)
                .map_err(RuntimeError::from)?;
            put(&bound.slot.name, start * dtype.size() as u64, piece)?;
            start = end;
        }
        Ok(())
    }

    fn quantized<E: From<RuntimeError>>(
        &self,
        bound: &BoundTensor<'_>,
        put: &mut impl FnMut(&str, u64, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let name = &bound.slot.name;
        let mut part = |part: Part, bytes: &[u8]| put(&part.name(name), 0, bytes);
        let run_on = RunOn::Gpu(0);
        match weight(self.model, bound, &self.encodings, run_on, self.encoder)? {
            HostWeight::Int8(weight) => {
                part(Part::Weight, weight.codes())?;
                part(Part::Scb, weight.absmax())?;
                // Row by row.
                part(Part::WeightFormat, &[0])
            }
            HostWeight::FourBit(weight) => {
                part(Part::Weight, weight.packed())?;
                part(Part::QuantMap, bytemuck::cast_slice(weight.table()))?;
                self.scales(bound, &weight, &mut part)
            }
            HostWeight::Dense(_) | HostWeight::Int8PerUse(..) => {
                unreachable!("a scheme of codes")
            }
        }
    }

    fn scales<E: From<RuntimeError>>(
        &self,
        bound: &BoundTensor<'_>,
        weight: &Weight4Bit,
        part: &mut impl FnMut(Part, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let format = weight.format();
        match weight.absmax() {
            Absmax::Plain(absmax) => {
                part(Part::Absmax, absmax)?;
                let state = self.state(bound, format, None);
                part(Part::State(format.code), &state.to_json())
            }
            Absmax::Double(double) => {
                part(Part::Absmax, double.codes())?;
                part(Part::NestedAbsmax, double.absmax())?;
                part(Part::NestedQuantMap, bytemuck::cast_slice(double.map()))?;
                let state = self.state(bound, format, Some(double.offset()));
                part(Part::State(format.code), &state.to_json_padded())
            }
        }
    }
}

/// Elements of a dense tensor that are read and written at a time.
const PIECE_ELEMENTS: u64 = 1 << 20;
