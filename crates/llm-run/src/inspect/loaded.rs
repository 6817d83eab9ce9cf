//! Contents of a checkpoint once it is loaded as asked, or of one that its configuration alone tells of.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use llm_arch::Slot;
use llm_checkpoint::{Encoding, Format};
use llm_plan::{Encodings, RunOn, StoredTensor, WeightDType};
use llm_quant::{QuantConfig, Scalar, Scheme, StoredBytes};
use llm_runtime::{BoundModel, Linears, Save};
use llm_tensor::DType;

use super::report::{CheckpointReport, Tensor, Total, file_name};
use crate::output::words::dtype_name;
use crate::peers::LeftDense;
use crate::plan::PlannedModel;

/// Every tensor that the model needs, as it will be kept.
pub(super) fn report<'m>(
    model: &'m BoundModel,
    dtype: WeightDType,
    quant: Option<&QuantConfig>,
) -> Result<CheckpointReport<'m>> {
    let checkpoint = model.checkpoint();
    let files: Vec<String> = checkpoint.files().map(file_name).collect();
    let encodings = model.encodings(dtype, quant)?;
    let slots = model.tensors().map(|bound| {
        let file = files[bound.tensor.file_idx].clone();
        (bound.slot, bound.stored(), file)
    });
    let format = match checkpoint.format() {
        Format::Safetensors => "safetensors, loaded",
        Format::Torch => "torch, loaded",
        _ => "gguf, loaded",
    };
    Ok(CheckpointReport {
        left_dense: Save::new(model, encodings, &Scalar, Linears::Peers)
            .beyond_peers()
            .map(LeftDense::new),
        ..of_slots(slots, &encodings, (checkpoint.path(), format))
    })
}

/// The same of a model whose weights are not there.
pub(super) fn expected<'m>(
    path: &Path,
    model: &'m PlannedModel,
    dtype: WeightDType,
    quant: Option<&QuantConfig>,
) -> Result<CheckpointReport<'m>> {
    let encodings = model.encodings(dtype, quant)?;
    let slots = model.skeleton.slots.iter().zip(&model.stored);
    let slots = slots.map(|(slot, stored)| (slot, *stored, String::new()));
    Ok(of_slots(slots, &encodings, (path, NO_WEIGHTS)))
}

const NO_WEIGHTS: &str = "no weights: as config.json says";

/// Every slot, in the file that holds it.
fn of_slots<'m>(
    slots: impl Iterator<Item = (&'m Slot, StoredTensor, String)>,
    encodings: &Encodings<'_>,
    (path, format): (&Path, &str),
) -> CheckpointReport<'m> {
    let mut tensors = Vec::new();
    let mut n_parameters = 0;
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut sum = StoredBytes::default();
    for (slot, stored, file) in slots {
        let scheme = encodings.scheme(slot, stored, RunOn::Cpu);
        n_parameters += slot.n_elements();
        let (rows, cols) = slot.matrix();
        let stored = scheme.stored_bytes(rows as u64, cols as u64);
        sum.elements += stored.elements;
        sum.statistics += stored.statistics;
        let total = totals.entry(scheme.to_string()).or_insert_with(|| Total {
            name: scheme.to_string(),
            n_tensors: 0,
            n_parameters: 0,
            bytes: 0,
        });
        total.n_tensors += 1;
        total.n_parameters += slot.n_elements();
        total.bytes += stored.total().get();
        let is_quantized = scheme.is_quantized();
        // Blocks have theirs in them.
        let is_in_blocks = matches!(scheme, Scheme::Ggml(_));
        let kept_as = match scheme {
            Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => Encoding::Plain(dtype),
            Scheme::Int8(_) => Encoding::Plain(DType::I8),
            Scheme::FourBit(_) => Encoding::Plain(DType::U8),
            Scheme::Ggml(ty) => Encoding::Block(ty),
            Scheme::Fp8(format) => Encoding::Plain(format.dtype),
            Scheme::Grouped(format) => Encoding::Plain(format.code_dtype()),
        };
        tensors.push(Tensor {
            name: &slot.name,
            dtype: dtype_name(kept_as),
            scheme: is_quantized.then(|| scheme.to_string()),
            shape: slot.shape.iter().map(|&n| n as u64).collect(),
            bytes: stored.elements.get(),
            statistics_bytes: (is_quantized && !is_in_blocks).then_some(stored.statistics.get()),
            file,
        });
    }
    let has_statistics = tensors.iter().any(|t| t.statistics_bytes.is_some());
    CheckpointReport {
        path: path.display().to_string(),
        format: format.to_owned(),
        n_tensors: tensors.len(),
        n_parameters,
        bytes: sum.total().get(),
        statistics_bytes: has_statistics.then_some(sum.statistics.get()),
        transformers: None,
        left_dense: None,
        tensors,
        by_dtype: totals.into_values().collect(),
        by_file: Vec::new(),
        shared: Vec::new(),
        metadata: BTreeMap::new(),
    }
}
