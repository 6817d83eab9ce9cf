//! Form of a checkpoint's matrices by its configuration alone, where the checkpoint is not there to be looked at.

use std::num::NonZeroU64;

use llm_arch::{Slot, Stored, TensorKind, Unit};
use llm_plan::{Order, StoredTensor};
use llm_quant::{Fp8, GlobalScale, GroupCode, Grouped, Scheme};
use llm_tensor::DType;
use serde_json::{Map, Value};

use super::{Keys, Published};

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
                block: float8.block_size.unwrap_or(FP8.block),
                ..FP8
            })),
            Published::Mxfp4 => StoredTensor::in_order(Scheme::Grouped(MXFP4)),
            Published::ModelOpt(scheme) => StoredTensor::in_order((*scheme)?),
            Published::Compressed(compressed) => match compressed.scheme? {
                Scheme::Grouped(format) if format.zeros => words(format),
                scheme => StoredTensor::in_order(scheme),
            },
            Published::Gptq(gptq) => words(Grouped {
                code: match gptq.bits {
                    4 => GroupCode::Int4,
                    _ => GroupCode::Int8,
                },
                zeros: true,
                group: gptq.group_size,
                order: gptq.desc_act && gptq.group_size.is_some(),
                ..INT4
            }),
            Published::Awq(group) => words(Grouped {
                zeros: true,
                group: *group,
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
            TensorKind::Projection => is_expert || !self.of_experts,
            TensorKind::WideProjection | TensorKind::Head | TensorKind::Other => false,
        };
        (is_quantized && slot.stored == Stored::AsIs).then_some(self.tensor)
    }
}

/// The scheme of a group of compressed-tensors.
pub(super) fn of_weights(weights: Keys<'_>) -> Option<Scheme> {
    let bits = weights.get("num_bits")?.as_u64()?;
    let is_float = weights.get("type").is_some_and(|kind| kind == "float");
    let group = weights.get("group_size").and_then(Value::as_u64);
    let group = group.and_then(NonZeroU64::new);
    let sides = weights.get("block_structure").and_then(Value::as_array);
    let side = |i: usize| sides?.get(i)?.as_u64().filter(|side| *side > 0);
    let is_symmetric = weights.get("symmetric") != Some(&Value::Bool(false));
    Some(match (is_float, bits) {
        (true, 8) => Scheme::Fp8(Fp8 {
            block: side(0).zip(side(1)).map_or(FP8.block, <[u64; 2]>::from),
            ..FP8
        }),
        (true, _) if group == MXFP4.group => Scheme::Grouped(MXFP4),
        (true, _) => Scheme::Grouped(Grouped {
            global: Some(GlobalScale::Divisor),
            ..NVFP4
        }),
        (false, bits) => Scheme::Grouped(Grouped {
            code: match bits {
                4 => GroupCode::Int4,
                _ => GroupCode::Int8,
            },
            group,
            zeros: !is_symmetric,
            ..INT4
        }),
    })
}

pub(super) const NVFP4: Grouped = Grouped {
    code: GroupCode::E2M1,
    scale: DType::F8E4M3,
    group: NonZeroU64::new(16),
    zeros: false,
    global: Some(GlobalScale::Factor),
    order: false,
};

const MXFP4: Grouped = Grouped {
    scale: DType::F8E8M0,
    group: NonZeroU64::new(32),
    global: None,
    ..NVFP4
};

/// With scales of 16 bits, as most have them.
const INT4: Grouped = Grouped {
    code: GroupCode::Int4,
    scale: DType::F16,
    group: None,
    zeros: false,
    global: None,
    order: false,
};

/// With a scale a row.
pub(super) const FP8: Fp8 = Fp8 {
    dtype: DType::F8E4M3,
    scale: DType::F32,
    block: [1, u64::MAX],
};

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
            // Whose scales are in 16 bits, or whose groups of columns are told by a tensor alone.
            let is_known = !path.ends_with("compressed-fp8") && !path.ends_with("compressed-order");
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
