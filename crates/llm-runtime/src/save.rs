//! Writes a model quantized, in the layout of bitsandbytes.

pub(crate) mod parts;

use llm_checkpoint::{NewTensor, ShardWriter};
use llm_plan::{Encodings, RunOn};
use llm_quant::{Encoder, Scheme};
use llm_tensor::{Bytes, DType};

use self::parts::{QuantizedParts, new_tensor};
use crate::load::weight;
use crate::rows::read_elements;
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
            match self.kept(bound) {
                Kept::Dense(dtype) => {
                    let name = bound.slot.name.clone();
                    tensors.push(new_tensor(name, dtype, &bound.tensor.shape));
                }
                Kept::Quantized(parts) => tensors.extend(parts.tensors(self.model)?),
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
            match self.kept(bound) {
                Kept::Dense(dtype) => self.dense(&bound, dtype, &mut put)?,
                Kept::Quantized(parts) => {
                    let (encodings, encoder) = (&self.encodings, self.encoder);
                    let weight = weight(self.model, &bound, encodings, RUN_ON, encoder)?;
                    parts.each(&weight, |name, bytes| put(name, 0, bytes))?;
                }
            }
        }
        Ok(())
    }

    fn kept<'b>(&self, bound: BoundTensor<'b>) -> Kept<'b> {
        let scheme = self.encodings.scheme(bound.slot, bound.stored_as(), RUN_ON);
        match scheme {
            Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => Kept::Dense(dtype),
            Scheme::Int8(_) | Scheme::FourBit(_) => {
                let parts = QuantizedParts::new(bound, scheme, &self.encodings, self.storage);
                Kept::Quantized(parts)
            }
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
            let scaled = bound.scaled();
            read_elements(checkpoint, bound.tensor, scaled, start..end, dtype, piece)?;
            put(&bound.slot.name, start * dtype.size() as u64, piece)?;
            start = end;
        }
        Ok(())
    }
}

/// How a tensor is written.
enum Kept<'a> {
    Dense(DType),
    Quantized(QuantizedParts<'a>),
}

/// A file has no device, so that nothing stays in f32 for the processor's sake.
const RUN_ON: RunOn = RunOn::Gpu(0);

/// Elements of a dense tensor that are read and written at a time.
const PIECE_ELEMENTS: u64 = 1 << 20;
