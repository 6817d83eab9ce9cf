//! The tensors of a unit that are written anew.

use std::collections::{BTreeMap, HashMap};

use llm_arch::{Role, Unit};
use llm_checkpoint::{Checkpoint, Encoding, NewTensor};
use llm_plan::{Encodings, RunOn, becomes_table};
use llm_quant::{Encoder, Int8, Part, Scheme};
use llm_tensor::{Bytes, DType};
use rayon::prelude::*;

use crate::encode::weight;
use crate::quantized::recognise;
use crate::rows::Rows;
use crate::save::parts::{self, new_tensor};
use crate::{BoundModel, BoundTensor, Result};

/// Model that weights are read from, and their encodings.
#[derive(Clone, Copy)]
pub(super) struct Encode<'a> {
    pub(super) model: &'a BoundModel,
    pub(super) encodings: &'a Encodings<'a>,
    pub(super) encoder: &'a dyn Encoder,
    pub(super) run_on: RunOn,
}

/// The tensors of a unit that the checkpoint does not hold as they are computed with.
pub(super) struct UnitTensors<'a> {
    pub(super) unit: Unit,
    unfinished: Vec<Unfinished<'a>>,
    /// As they lie in the file.
    tensors: Vec<NewTensor>,
}

/// A tensor and how it is to be kept.
#[derive(Clone, Copy)]
struct Unfinished<'a> {
    bound: BoundTensor<'a>,
    scheme: Scheme,
}

impl<'a> Encode<'a> {
    /// Every unit that has such tensors.
    ///
    /// # Errors
    /// When a tensor cannot be written as it would be kept.
    pub(super) fn units(&self) -> Result<BTreeMap<Unit, UnitTensors<'a>>> {
        let mut units = BTreeMap::<Unit, Vec<Unfinished<'a>>>::new();
        for bound in self.model.tensors() {
            if let Some(unfinished) = self.unfinished(bound) {
                units.entry(bound.slot.unit).or_default().push(unfinished);
            }
        }
        let units = units.into_iter().map(|(unit, unfinished)| {
            let tensors = self.in_file_order(&unfinished)?;
            let unit_tensors = UnitTensors {
                unit,
                unfinished,
                tensors,
            };
            Ok((unit, unit_tensors))
        });
        units.collect()
    }

    fn unfinished(&self, bound: BoundTensor<'a>) -> Option<Unfinished<'a>> {
        let scheme = self
            .encodings
            .scheme(bound.slot, bound.stored(), self.run_on);
        let is_finished = becomes_table(bound.slot.role) || bound.is_final(scheme);
        (!is_finished).then_some(Unfinished { bound, scheme })
    }

    /// Single bytes come first, the widest elements last: codes can then be written as soon as they are made, and only
    /// their scales wait. A header that makes the file end at a multiple of the widest element aligns all.
    fn in_file_order(&self, unfinished: &[Unfinished<'_>]) -> Result<Vec<NewTensor>> {
        let mut tensors = Vec::new();
        for Unfinished { bound, scheme } in unfinished {
            let slot = bound.slot;
            match scheme.elements() {
                Some(dtype) => {
                    let dims: Vec<u64> = slot.shape.iter().map(|&d| d as u64).collect();
                    tensors.push(new_tensor(slot.name.clone(), dtype, &dims));
                }
                None => {
                    let dtype = self.encodings.dense_dtype(bound.stored());
                    let parts = parts::tensors(self.model, slot, *scheme, dtype, DType::U8)?;
                    tensors.extend(parts);
                }
            }
        }
        tensors.sort_by_key(|tensor| tensor.dtype.size());
        Ok(tensors)
    }

    /// Hands over the bytes of all tensors of `unit`, in order.
    ///
    /// # Errors
    /// When a tensor cannot be read or quantized, and what `put` answers.
    pub(super) fn each_piece(
        &self,
        unit: &UnitTensors<'_>,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut waiting = HashMap::<String, Vec<u8>>::new();
        let mut next = unit.tensors.iter();
        for Unfinished { bound, scheme } in &unit.unfinished {
            if scheme.elements().is_some() {
                continue;
            }
            let weight = weight(self.model, bound, self.encodings, self.run_on, self.encoder)?;
            let dtype = self.encodings.dense_dtype(bound.stored());
            parts::each(&bound.slot.name, &weight, dtype, |name, bytes| {
                if unit.element_size(name) > 1 {
                    waiting.insert(name.to_owned(), bytes.to_vec());
                    return Ok(());
                }
                let is_next = next.next().is_some_and(|tensor| tensor.name == name);
                assert!(is_next, "`{name}` comes out of order");
                put(bytes)
            })?;
        }
        for tensor in next {
            match waiting.remove(&tensor.name) {
                Some(bytes) => put(&bytes)?,
                None => self.dense(unit.bound(&tensor.name), tensor.dtype, put)?,
            }
        }
        Ok(())
    }

    /// The rows of a tensor, some at a time.
    fn dense(
        &self,
        bound: &BoundTensor<'_>,
        dtype: DType,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if bound.slot.role == Role::RouterTokens {
            let weight = weight(self.model, bound, self.encodings, self.run_on, self.encoder)?;
            return put(weight.part(Part::Weight));
        }
        let rows = Rows::new(self.model.checkpoint(), bound);
        let row_bytes = rows.cols * dtype.size();
        let rows_of_a_piece = (PIECE / row_bytes.max(1)).clamp(1, rows.rows.max(1));
        let mut piece = vec![0; rows_of_a_piece * row_bytes];
        for first in (0..rows.rows).step_by(rows_of_a_piece) {
            let n_rows = rows_of_a_piece.min(rows.rows - first);
            let piece = &mut piece[..n_rows * row_bytes];
            let bands = piece.par_chunks_mut((BAND * row_bytes).max(1)).enumerate();
            bands.try_for_each(|(i, out)| {
                let first = first + i * BAND;
                rows.read(first..first + out.len() / row_bytes, dtype, out)
            })?;
            put(piece)?;
        }
        Ok(())
    }
}

impl UnitTensors<'_> {
    /// As they lie in the file.
    pub(super) fn tensors(&self) -> &[NewTensor] {
        &self.tensors
    }

    /// Size of the tensors.
    pub(super) fn bytes(&self) -> Bytes {
        self.tensors.iter().map(NewTensor::bytes).sum()
    }

    /// Schemes in which they are kept.
    pub(super) fn schemes(&self) -> impl Iterator<Item = Scheme> {
        self.unfinished.iter().map(|unfinished| unfinished.scheme)
    }

    /// True if `checkpoint` has these tensors and no others, and is told to be quantized as they are.
    pub(super) fn are_in(&self, checkpoint: &Checkpoint) -> bool {
        let is_there = |new: &NewTensor| {
            checkpoint.get(&new.name).is_some_and(|tensor| {
                tensor.encoding == Encoding::Plain(new.dtype) && tensor.shape == new.shape
            })
        };
        checkpoint.tensors().len() == self.tensors.len()
            && self.tensors.iter().all(is_there)
            && self
                .unfinished
                .iter()
                .all(|unfinished| unfinished.is_in(checkpoint))
    }

    fn element_size(&self, name: &str) -> usize {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        tensor.expect("a part of the unit").dtype.size()
    }

    fn bound(&self, name: &str) -> &BoundTensor<'_> {
        let mut bound = self.unfinished.iter().map(|unfinished| &unfinished.bound);
        bound
            .find(|bound| bound.slot.name == name)
            .expect("a tensor of the unit")
    }
}

impl Unfinished<'_> {
    /// True if the description of a quantized matrix, beyond names and shapes, is right.
    fn is_in(&self, checkpoint: &Checkpoint) -> bool {
        if self.scheme.elements().is_some() {
            return true;
        }
        let int8 = match self.scheme {
            // Names and shapes say all that the entry's key does not.
            Scheme::Fp8(_) | Scheme::Grouped(_) => return true,
            Scheme::Int8(int8) => int8,
            Scheme::Dense(_) | Scheme::Int8PerUse(..) | Scheme::FourBit(_) => NEVER,
            Scheme::Ggml(_) => NEVER,
        };
        let slot = self.bound.slot;
        let found = checkpoint
            .get(&slot.name)
            .map(|tensor| recognise(checkpoint, tensor, slot, int8, None));
        matches!(found, Some(Ok(Some(scheme))) if scheme == self.scheme)
    }
}

/// Parameters of a matrix that is not in LLM.int8().
const NEVER: Int8 = Int8 { threshold: 0.0 };
/// Bytes of a dense tensor that are read and written at a time, unless a row takes more.
const PIECE: usize = 4 << 20;
/// Rows that a thread reads at a time.
const BAND: usize = 64;
