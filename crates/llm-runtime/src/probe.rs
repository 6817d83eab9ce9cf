//! Search for the unit, and its weights, from which on numbers are not finite.

use std::cell::{Cell, RefCell};

use llm_arch::{Role, Side, Unit};
use llm_backend::{Backend, Queue};
use llm_plan::{Encodings, RunOn, WeightDType};
use llm_quant::{Part, Scheme};
use llm_tensor::{DType, le_bytes_to_f32};

use crate::not_finite::NotFinite;
use crate::quantized::read_elements;
use crate::{BoundModel, BoundTensor, Result};

/// Looks at each unit's results in turn, and remembers the first that are no finite numbers.
#[derive(Debug, Default)]
pub struct Probe {
    unit: Cell<Option<Unit>>,
    seen: RefCell<Vec<f32>>,
}

impl Probe {
    /// Looks at the first `n_elements` of what `unit` made.
    pub(crate) fn look<B: Backend>(
        &self,
        queue: &mut B::Queue,
        results: &B::Buffer,
        n_elements: usize,
        unit: Unit,
    ) -> Result<()> {
        if self.unit.get().is_some() {
            return Ok(());
        }
        let mut seen = self.seen.borrow_mut();
        seen.resize(n_elements, 0.0);
        queue.download(results, &mut seen)?;
        if !seen.iter().all(|x| x.is_finite()) {
            self.unit.set(Some(unit));
        }
        Ok(())
    }

    /// The first unit whose results are not.
    pub(crate) fn unit(&self) -> Option<Unit> {
        self.unit.get()
    }
}

/// Source of a session's weights.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) model: BoundModel,
    pub(crate) dtype: WeightDType,
}

impl Origin {
    /// Cause of what is not finite after `unit`, which read `ids`: the weights are read, until one is not either.
    pub(crate) fn explain(&self, unit: Unit, ids: &[u32]) -> NotFinite {
        let encodings = Encodings {
            dtype: self.dtype,
            config_dtype: self.model.spec().dtype,
            quant: None,
        };
        let mut dtype = DType::F32;
        for bound in self.model.tensors().filter(|bound| self.is_of(bound, unit)) {
            let scheme = encodings.scheme(bound.slot, bound.stored(), RunOn::Cpu);
            let kept = scheme.elements().unwrap_or(DType::F32);
            if kept != DType::F32 {
                dtype = kept;
            }
            // What cannot be read is not to blame.
            let found = match (bound.slot.role, unit) {
                (Role::TokenTable, Unit::Embedding)
                | (Role::PerLayerTable, Unit::PerLayerTable) => self.in_rows(&bound, ids, kept),
                _ => self.in_all(&bound, kept),
            };
            if let Ok(Some(flaw)) = found {
                return flaw;
            }
        }
        NotFinite::Made { unit, dtype }
    }

    /// True if a tensor has a part in what `unit` makes.
    fn is_of(&self, bound: &BoundTensor<'_>, unit: Unit) -> bool {
        let of = bound.slot.unit;
        let is_tied = self.model.spec().is_tied();
        match unit {
            Unit::Layer(Side::Decoder, i) => {
                of == unit || matches!(of, Unit::Expert { layer, .. } if layer == i)
            }
            // Nobody looks between them.
            Unit::Head | Unit::FinalNorm(Side::Decoder) => {
                matches!(of, Unit::Head | Unit::FinalNorm(Side::Decoder))
                    || (is_tied && bound.slot.role == Role::TokenTable)
            }
            Unit::Layer(Side::Encoder, _)
            | Unit::FinalNorm(Side::Encoder)
            | Unit::Expert { .. }
            | Unit::Embedding
            | Unit::PerLayerTable => of == unit,
        }
    }

    /// The rows of a table that were looked up.
    fn in_rows(
        &self,
        bound: &BoundTensor<'_>,
        ids: &[u32],
        kept: DType,
    ) -> Result<Option<NotFinite>> {
        let (_, cols) = bound.slot.matrix();
        for &id in ids {
            let start = u64::from(id) * cols as u64;
            if let Some(flaw) = self.in_range(bound, start..start + cols as u64, kept)? {
                return Ok(Some(flaw));
            }
        }
        Ok(None)
    }

    /// All elements, or what they are decoded with.
    fn in_all(&self, bound: &BoundTensor<'_>, kept: DType) -> Result<Option<NotFinite>> {
        let part = match bound.scheme {
            Scheme::Dense(_)
            | Scheme::Int8PerUse(..)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_) => {
                let n = bound.slot.n_elements();
                return self.in_range(bound, 0..n, kept);
            }
            Scheme::FourBit(format) if format.double_quant => Part::NestedAbsmax,
            Scheme::FourBit(_) => Part::Absmax,
            Scheme::Int8(_) => Part::Scb,
        };
        let checkpoint = self.model.checkpoint();
        match checkpoint.get(&part.name(&bound.tensor.name)) {
            Some(tensor) => {
                let scheme = Scheme::Dense(DType::F32);
                let statistics = BoundTensor {
                    tensor,
                    scheme,
                    ..*bound
                };
                self.in_range(&statistics, 0..tensor.shape.n_elements(), kept)
            }
            None => Ok(None),
        }
    }

    fn in_range(
        &self,
        bound: &BoundTensor<'_>,
        range: std::ops::Range<u64>,
        kept: DType,
    ) -> Result<Option<NotFinite>> {
        let (checkpoint, tensor) = (self.model.checkpoint(), bound.tensor);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + PIECE);
            let n = (end - start) as usize;
            bytes.resize(n * size_of::<f32>(), 0);
            values.resize(n, 0.0);
            read_elements(checkpoint, bound, start..end, DType::F32, &mut bytes)?;
            le_bytes_to_f32(DType::F32, &bytes, &mut values).expect("f32 of f32");
            let path = || {
                let path = checkpoint.files().nth(tensor.file_idx);
                path.expect("a tensor's file").to_owned()
            };
            if let Some(&value) = values.iter().find(|x| !x.is_finite()) {
                return Ok(Some(NotFinite::Stored {
                    path: path(),
                    tensor: tensor.name.clone(),
                    value,
                }));
            }
            let largest = largest(kept);
            if let Some(&value) = values.iter().find(|x| x.abs() > largest) {
                return Ok(Some(NotFinite::TooLarge {
                    path: path(),
                    tensor: tensor.name.clone(),
                    value,
                    dtype: kept,
                }));
            }
            start = end;
        }
        Ok(None)
    }
}

/// Largest number that is not yet rounded to an infinity.
fn largest(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 65_519.996,
        // Half a step above its largest number.
        DType::BF16 => f32::from_bits(0x7f7f_7fff),
        _ => f32::MAX,
    }
}

/// Elements that are looked at at a time.
const PIECE: u64 = 1 << 18;
