//! Writes a model quantized, in the layout of bitsandbytes.

pub(crate) mod parts;

use std::borrow::Cow;
use std::collections::HashMap;

use llm_arch::{HubForm, Module, Role, Slot, Stored, Unit};
use llm_checkpoint::{NewTensor, ShardWriter};
use llm_plan::{Encodings, RunOn};
use llm_quant::{Encoder, Scheme};
use llm_tensor::{Bytes, DType};

use self::parts::new_tensor;
use crate::encode::weight;
use crate::quantized::read_elements;
use crate::rows::Rows;
use crate::{BoundModel, BoundTensor, Result, RuntimeError};

/// A model that is to be written, with every weight as an encoding has it.
///
/// Matrices that are quantized lie `[out, in]`, everything else as the checkpoint has it, as the reference libraries
/// write it; names are those of the whole model.
pub struct Save<'a> {
    model: &'a BoundModel,
    encodings: Encodings<'a>,
    encoder: &'a dyn Encoder,
    linears: Linears,
    /// Form that is written in the model's stead.
    form: Option<&'a HubForm>,
    /// The element type that packed 4-bit codes are declared to be of.
    storage: DType,
}

/// Projections that are written quantized, of those that a quantization asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linears {
    /// Those that transformers reads so: what is written loads there.
    Peers,
    /// All, for readers as this one.
    All,
}

/// Projections that a quantization asks for and transformers would not read quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeyondPeers {
    /// Module in which transformers has them.
    pub module: Module,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Of how many projections that a quantization asks for.
    pub of: usize,
}

impl<'a> Save<'a> {
    /// `encodings` are the model's own ([`BoundModel::encodings`]).
    pub fn new(
        model: &'a BoundModel,
        encodings: Encodings<'a>,
        encoder: &'a dyn Encoder,
        linears: Linears,
    ) -> Self {
        let quant = encodings.quant;
        Save {
            model,
            encodings,
            encoder,
            linears,
            form: None,
            storage: quant.map_or(DType::U8, |quant| quant.bnb_4bit_quant_storage),
        }
    }

    /// The same in the form of a checkpoint with a `config.json` of its own, for a model whose form that is.
    pub fn in_hub_form(self, form: &'a HubForm) -> Self {
        Save {
            form: Some(form),
            ..self
        }
    }

    /// The tensors to write.
    ///
    /// # Errors
    /// [`RuntimeError::Quantized`] when codes cannot be declared as of the type that is asked for.
    ///
    /// # Panics
    /// When the form is not the model's.
    pub fn tensors(&self) -> Result<Vec<NewTensor>> {
        let mut tensors = Vec::new();
        for (slot, bound) in self.slots() {
            let scheme = self.kept(&bound);
            match scheme.elements() {
                Some(dtype) => {
                    let dims = slot.stored_shape();
                    let dims: Vec<u64> = dims.into_iter().map(|dim| dim as u64).collect();
                    tensors.push(new_tensor(slot.name.clone(), dtype, &dims));
                }
                None => {
                    let (dtype, storage) =
                        (self.encodings.dense_dtype(bound.stored()), self.storage);
                    let parts = parts::tensors(self.model, bound.slot, scheme, dtype, storage)?;
                    tensors.extend(parts);
                }
            }
        }
        Ok(tensors)
    }

    /// Matrices that transformers would not read quantized, be they written so or not.
    ///
    /// # Panics
    /// When the form is not the model's.
    pub fn beyond_peers(&self) -> Option<BeyondPeers> {
        let asked = |bound: &BoundTensor<'_>| {
            self.scheme(bound).elements().is_none() && bound.stored().quantized().is_none()
        };
        let asked: Vec<_> = self.slots().map(|(_, bound)| bound).filter(asked).collect();
        let left = asked.iter().filter(|bound| is_beyond_peers(bound));
        left.clone().next().map(|bound| BeyondPeers {
            module: bound.slot.module,
            n_tensors: left.count(),
            of: asked.len(),
        })
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
        for (slot, bound) in self.slots() {
            match self.kept(&bound).elements() {
                Some(dtype) if slot.stored == bound.slot.stored => {
                    self.dense(&slot, &bound, dtype, &mut put)?;
                }
                Some(dtype) => self.reordered(&slot, &bound, dtype, &mut put)?,
                None => {
                    let (encodings, encoder) = (&self.encodings, self.encoder);
                    let weight = weight(self.model, &bound, encodings, RUN_ON, encoder)?;
                    let dtype = encodings.dense_dtype(bound.stored());
                    let name = &bound.slot.name;
                    parts::each(name, &weight, dtype, |name, bytes| put(name, 0, bytes))?;
                }
            }
        }
        Ok(())
    }

    /// Slots that are to be written, each with the tensor that it is made of; the slot of that says how it is stored.
    fn slots(&self) -> impl Iterator<Item = (Cow<'_, Slot>, BoundTensor<'_>)> {
        let Some(form) = self.form else {
            let own = self.model.tensors();
            let own = own.map(|bound| (as_written(bound.slot), bound));
            return own.collect::<Vec<_>>().into_iter();
        };
        let bound = self.model.tensors();
        let bound: HashMap<_, _> = bound.map(|b| ((b.slot.unit, b.slot.role), b)).collect();
        let slots = form.skeleton.slots.iter().zip(&form.as_found);
        let slots = slots.map(|(slot, source)| {
            let found = bound.get(&(slot.unit, slot.role));
            let found = *found.expect("a form has the parts of the model that it is made of");
            let bound = BoundTensor {
                slot: source,
                ..found
            };
            (Cow::Borrowed(slot), bound)
        });
        slots.collect::<Vec<_>>().into_iter()
    }

    fn scheme(&self, bound: &BoundTensor<'_>) -> Scheme {
        self.encodings.scheme(bound.slot, bound.stored(), RUN_ON)
    }

    /// The scheme in which a tensor is written.
    fn kept(&self, bound: &BoundTensor<'_>) -> Scheme {
        if bound.slot.role == Role::RouterTokens {
            return bound.scheme;
        }
        let dense = Encodings {
            quant: None,
            ..self.encodings
        };
        let encodings = match self.linears {
            Linears::Peers if is_beyond_peers(bound) => &dense,
            Linears::Peers | Linears::All => &self.encodings,
        };
        encodings.scheme(bound.slot, bound.stored(), RUN_ON)
    }

    fn dense<E: From<RuntimeError>>(
        &self,
        slot: &Slot,
        bound: &BoundTensor<'_>,
        dtype: DType,
        put: &mut impl FnMut(&str, u64, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        // Codes are fewer, or lie otherwise.
        let n_elements = bound.slot.n_elements();
        let mut piece = vec![0; PIECE_ELEMENTS.min(n_elements) as usize * dtype.size()];
        let mut start = 0;
        while start < n_elements {
            let end = n_elements.min(start + PIECE_ELEMENTS);
            let piece = &mut piece[..(end - start) as usize * dtype.size()];
            let checkpoint = self.model.checkpoint();
            read_elements(checkpoint, bound, start..end, dtype, piece)?;
            put(&slot.name, start * dtype.size() as u64, piece)?;
            start = end;
        }
        Ok(())
    }

    /// Writes what is stored in another order than it is to be written in.
    fn reordered<E: From<RuntimeError>>(
        &self,
        slot: &Slot,
        bound: &BoundTensor<'_>,
        dtype: DType,
        put: &mut impl FnMut(&str, u64, &[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let rows = Rows::new(self.model.checkpoint(), bound);
        let row_bytes = rows.cols * dtype.size();
        let n = match slot.stored {
            Stored::Transposed => {
                let transposed = rows.transposed(dtype)?;
                return put(&slot.name, 0, &transposed);
            }
            Stored::AsIs
            | Stored::Heads { .. }
            | Stored::Depthwise
            | Stored::Row
            | Stored::Scalar
            | Stored::Channel
            | Stored::Pairs { .. }
            | Stored::Stacked { .. }
            | Stored::OneMore
            | Stored::NegatedExp
            | Stored::NegatedExpColumn
            | Stored::Column
            | Stored::Groups { .. } => {
                (PIECE_ELEMENTS as usize / rows.cols.max(1)).clamp(1, rows.rows)
            }
        };
        let mut piece = vec![0; n * row_bytes];
        for start in (0..rows.rows).step_by(n) {
            let end = rows.rows.min(start + n);
            let piece = &mut piece[..(end - start) * row_bytes];
            rows.read(start..end, dtype, piece)?;
            put(&slot.name, (start * row_bytes) as u64, piece)?;
        }
        Ok(())
    }
}

/// A slot as it is written: an expert's matrix that lies transposed in a stack gets a tensor of its own, whose rows are in order.
fn as_written(slot: &Slot) -> Cow<'_, Slot> {
    let is_of_expert = matches!(slot.unit, Unit::Expert { .. });
    match is_of_expert && slot.stored == Stored::Transposed {
        true => Cow::Owned(Slot {
            stored: Stored::AsIs,
            ..slot.clone()
        }),
        false => Cow::Borrowed(slot),
    }
}

/// True if transformers does not quantize the module of the matrix.
fn is_beyond_peers(bound: &BoundTensor<'_>) -> bool {
    match bound.slot.module {
        Module::Linear => false,
        Module::Custom(_) | Module::Experts => bound.stored().quantized().is_none(),
    }
}

/// A file has no device, so that nothing stays in f32 for the processor's sake.
const RUN_ON: RunOn = RunOn::Gpu(0);

/// Elements of a dense tensor that are read and written at a time.
const PIECE_ELEMENTS: u64 = 1 << 20;
