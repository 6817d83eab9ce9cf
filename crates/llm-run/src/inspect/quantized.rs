//! Quantized matrices among a checkpoint's tensors: bitsandbytes' are told by their names and states, without the model's
//! architecture, those in other formats by the model that they are bound to.

use std::collections::HashMap;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_quant::layout::{MAX_JSON, QuantState};
use llm_quant::{Code, Part, Scheme};
use llm_runtime::{BoundModel, BoundTensor};
use llm_tensor::DType;

/// A quantized matrix in a checkpoint.
pub(super) struct Matrix {
    /// The name of its codes.
    pub(super) weight: String,
    pub(super) scheme: String,
    /// Output and input features.
    pub(super) shape: Vec<u64>,
    /// Bytes of all its tensors but the codes.
    pub(super) statistics_bytes: u64,
}

/// Quantized matrices of a checkpoint, by the names of their tensors.
pub(super) struct Matrices {
    all: Vec<Matrix>,
    by_name: HashMap<String, usize>,
}

impl Matrices {
    /// A matrix of codes in groups that has tensors of its own.
    fn add(&mut self, checkpoint: &Checkpoint, bound: &BoundTensor<'_>) {
        let whole = checkpoint.get(&bound.tensor.name);
        if whole.is_none_or(|whole| whole.bytes != bound.tensor.bytes) {
            return;
        }
        let idx = self.all.len();
        let mut statistics_bytes = 0;
        for name in bound.companions() {
            if *name != bound.tensor.name {
                let part = checkpoint.get(name).map(TensorInfo::stored_bytes);
                statistics_bytes += part.unwrap_or_default().get();
            }
            self.by_name.insert(name.clone(), idx);
        }
        self.all.push(Matrix {
            weight: bound.tensor.name.clone(),
            scheme: bound.scheme.to_string(),
            shape: bound.slot.shape.iter().map(|&n| n as u64).collect(),
            statistics_bytes,
        });
    }

    /// The matrix that a tensor belongs to.
    pub(super) fn of(&self, tensor: &str) -> Option<&Matrix> {
        Some(&self.all[*self.by_name.get(tensor)?])
    }
}

/// Finds them. What is not as it should be counts as plain tensors: to be looked at is what `inspect` is for.
///
/// # Errors
/// When a state cannot be read from the file.
pub(super) fn matrices(checkpoint: &Checkpoint, model: Option<&BoundModel>) -> Result<Matrices> {
    let mut matrices = Matrices {
        all: Vec::new(),
        by_name: HashMap::new(),
    };
    for tensor in checkpoint.tensors() {
        let Some((weight, Part::Weight)) = Part::of_name(&tensor.name) else {
            continue;
        };
        let Some((scheme, shape)) = recognised(checkpoint, &weight)? else {
            continue;
        };
        let idx = matrices.all.len();
        let mut statistics_bytes = 0;
        for part in Part::IN_FILES {
            let Some(part) = checkpoint.get(&part.name(&weight)) else {
                continue;
            };
            if part.name != weight {
                statistics_bytes += part.stored_bytes().get();
            }
            matrices.by_name.insert(part.name.clone(), idx);
        }
        matrices.all.push(Matrix {
            weight,
            scheme,
            shape,
            statistics_bytes,
        });
    }
    let bound = model.into_iter().flat_map(BoundModel::tensors);
    for bound in bound.filter(|bound| matches!(bound.scheme, Scheme::Grouped(_))) {
        matrices.add(checkpoint, &bound);
    }
    Ok(matrices)
}

/// The scheme and the shape of a matrix, if `weight` is one that is quantized.
fn recognised(checkpoint: &Checkpoint, weight: &str) -> Result<Option<(String, Vec<u64>)>> {
    for code in Code::ALL {
        let name = Part::State(code).name(weight);
        let Some(state) = checkpoint.get(&name) else {
            continue;
        };
        let n = state.shape.n_elements();
        if state.encoding != Encoding::Plain(DType::U8) || n > MAX_JSON as u64 {
            return Ok(None);
        }
        let mut json = vec![0; n as usize];
        checkpoint.read_into(&name, 0..n, DType::U8, &mut json)?;
        let state = QuantState::parse(&json).ok();
        return Ok(state.map(|state| {
            let scheme = Scheme::FourBit(state.format());
            (scheme.to_string(), state.shape.to_vec())
        }));
    }
    let tensor = checkpoint.get(weight);
    let is_int8 = |t: &&TensorInfo| t.encoding == Encoding::Plain(DType::I8);
    let tensor = tensor.filter(is_int8);
    let has_scales = checkpoint.get(&Part::Scb.name(weight)).is_some();
    Ok(tensor
        .filter(|_| has_scales)
        .map(|tensor| ("int8".to_owned(), tensor.shape.to_vec())))
}
