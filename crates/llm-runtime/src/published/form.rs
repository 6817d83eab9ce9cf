//! Form of a checkpoint's matrices by its configuration alone, where the checkpoint is not there to be looked at.

use llm_arch::{Slot, Stored, TensorKind, Unit};
use llm_plan::{Order, StoredTensor};
use llm_quant::{Fp8, GroupCode, Grouped, Scheme};
use serde_json::{Map, Value};

use super::Published;
use super::schemes::{FP8, INT4};

/// Form that a configuration gives matrices, in a format of published checkpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedForm {
    tensor: StoredTensor,
    /// True if experts alone are quantized.
    of_experts: bool,
}

impl PublishedForm {
    /// Form in the text of a `config.json`; `None` where that names no such format, or several.
    pub fn of_config(config: &[u8]) -> Option<Self> {
        let config: Map<String, Value> = llm_json::parse_as(config).ok()?;
        let quantization = config.get("quantization_config")?.as_object()?;
        Self::of(&Published::from_json(quantization).ok()??)
    }

    fn of(published: &Published) -> Option<Self> {
        let words = |scheme| StoredTensor {
            scheme: Scheme::Grouped(scheme),
            order: Order::Strided,
        };
        let tensor = match published {
            Published::Float8(float8) => StoredTensor::in_order(Scheme::Fp8(Fp8 {
                block: match (float8.block_size, float8.of_rows) {
                    (Some(block), _) => block,
                    (None, true) => FP8.block,
                    (None, false) => [u64::MAX; 2],
                },
                ..FP8
            })),
            Published::Mxfp4 => StoredTensor::in_order(Scheme::Grouped(Grouped::MXFP4)),
            Published::ModelOpt(scheme) => StoredTensor::in_order((*scheme)?),
            Published::Compressed(compressed) => match compressed.scheme? {
                Scheme::Grouped(format) if format.zeros => words(format),
                scheme => StoredTensor::in_order(scheme),
            },
            Published::Gptq(gptq) => words(Grouped {
                code: GroupCode::of_bits(gptq.bits.into()),
                zeros: true,
                group: gptq.group_size.columns(),
                order: gptq.desc_act && gptq.group_size.columns().is_some(),
                ..INT4
            }),
            Published::Awq(group) => words(Grouped {
                zeros: true,
                group: group.columns(),
                ..INT4
            }),
        };
        Some(PublishedForm {
            tensor,
            of_experts: *published == Published::Mxfp4,
        })
    }

    /// Form of the tensor of a slot; `None` where it is not quantized.
    pub fn of_slot(&self, slot: &Slot) -> Option<StoredTensor> {
        let is_expert = matches!(slot.unit, Unit::Expert { .. });
        let is_quantized = match slot.kind {
            TensorKind::Projection | TensorKind::Both => is_expert || !self.of_experts,
            TensorKind::WideProjection
            | TensorKind::Head
            | TensorKind::Other
            | TensorKind::Single => false,
        };
        (is_quantized && slot.stored == Stored::AsIs).then_some(self.tensor)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::BoundModel;

    /// Of what is there, the configuration alone says what it takes.
    #[test]
    fn configurations_say_what_their_checkpoints_hold() {
        let folder: PathBuf =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/packed");
        let mut n_checked = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Ok(config) = std::fs::read(path.join("config.json")) else {
                continue;
            };
            let form = PublishedForm::of_config(&config).unwrap();
            // Whose scales are not in 32 bits, or whose groups of columns are told by a tensor alone.
            let unknown = ["compressed-fp8", "fp8-experts-powers", "compressed-order"];
            let is_known = unknown.iter().all(|name| !path.ends_with(name));
            let model = BoundModel::open(&path).unwrap();
            for bound in model.tensors().filter(|_| is_known) {
                let (rows, cols) = bound.slot.matrix();
                let bytes = |tensor: StoredTensor| {
                    let scheme = tensor.scheme;
                    (scheme.stored_bytes(rows as u64, cols as u64), tensor.order)
                };
                if let Some(tensor) = form.of_slot(bound.slot) {
                    assert_eq!(
                        bytes(tensor),
                        bytes(bound.stored()),
                        "{path:?} {}",
                        bound.slot.name
                    );
                    n_checked += 1;
                }
            }
        }
        assert!(n_checked > 70, "{n_checked}");
    }
}
