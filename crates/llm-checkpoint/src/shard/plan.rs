use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use llm_tensor::{Bytes, DType, Shape};
use serde_json::{Value, json};

use super::names::{SINGLE, shard_name};
use super::together::Quantized;
use crate::checkpoint::Checkpoint;
use crate::error::{CheckpointError, TensorFlaw};
use crate::format::Format;
use crate::opaque::Opaques;
use crate::tensor::{Encoding, TensorInfo};
use crate::write::{METADATA_KEY, NewTensor};

/// Cut of tensors into safetensors files.
///
/// The cut is that of the Hugging Face libraries: a shard takes tensors in the given order until the next one would
/// exceed the limit, and a tensor that is larger than the limit gets a shard of its own at once, while the shard
/// that was being filled goes on. Inside a shard tensors of wider elements come first, so that each begins where
/// its elements can be used in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardPlan {
    tensors: Vec<NewTensor>,
    shards: Vec<Shard>,
    /// Types and shapes of tensors that are copied as bytes, as which [`ShardPlan::tensors`] has them.
    opaque: Opaques,
    /// See [`ShardPlan::unconverted`].
    unconverted: Vec<String>,
}

/// One file of a [`ShardPlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// The file's name: `model-00001-of-00003.safetensors`, or `model.safetensors` when it is the only one.
    pub name: String,
    /// Range of its [`ShardPlan::tensors`], in the order of their bytes.
    pub tensors: Range<usize>,
    /// Bytes of these tensors; the file's header comes on top.
    pub bytes: Bytes,
}

impl ShardPlan {
    /// Cuts `tensors` so that those of a file take at most `max_shard_size`, where their sizes allow it; without a
    /// limit, into one file.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] when a name appears twice or means metadata, or when 64 bits cannot count its
    /// bytes.
    ///
    /// # Panics
    /// When 64 bits cannot count the bytes of all tensors together.
    pub fn new(
        tensors: Vec<NewTensor>,
        max_shard_size: Option<Bytes>,
    ) -> Result<Self, CheckpointError> {
        let sizes = sizes(&tensors)?;
        let max = max_shard_size.unwrap_or(Bytes::new(u64::MAX));
        let mut cuts = Vec::new();
        let mut filling = Cut::default();
        for (tensor, bytes) in tensors.into_iter().zip(sizes) {
            if bytes > max {
                cuts.push(Cut {
                    tensors: vec![tensor],
                    bytes,
                });
                continue;
            }
            if filling.bytes + bytes > max {
                cuts.push(std::mem::take(&mut filling));
            }
            filling.tensors.push(tensor);
            filling.bytes += bytes;
        }
        // A checkpoint without tensors is a file, too.
        if !filling.tensors.is_empty() || cuts.is_empty() {
            cuts.push(filling);
        }
        Ok(Self::name(cuts))
    }

    /// As [`ShardPlan::new`], for the tensors of `checkpoint` in the order in which they lie in its files.
    ///
    /// Floating-point elements and quantized blocks are to be written as `convert`; without it floats stay as they
    /// are and blocks become bf16. Other elements are never converted, nor are codes of quantized matrices and what they
    /// are decoded with ([`ShardPlan::unconverted`]). Names that share their bytes in the source become tensors of their
    /// own.
    ///
    /// # Errors
    /// As [`ShardPlan::new`].
    ///
    /// # Panics
    /// As [`ShardPlan::new`].
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        convert: Option<DType>,
        max_shard_size: Option<Bytes>,
    ) -> Result<Self, CheckpointError> {
        let mut tensors: Vec<&TensorInfo> = checkpoint.tensors().collect();
        tensors.sort_by_key(|t| (t.file_idx, t.bytes.start));
        let quantized = convert.map(|_| Quantized::of(checkpoint.tensors()));
        let is_part = |tensor: &TensorInfo| quantized.as_ref().is_some_and(|q| q.has(tensor));
        let mut opaque = Opaques::new();
        let mut new = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            let convert = convert.filter(|_| !is_part(tensor));
            let (dtype, shape) = match tensor.encoding {
                Encoding::Block(_) => (convert.unwrap_or(DType::BF16), tensor.shape.clone()),
                Encoding::Plain(stored) if stored.is_float() => {
                    (convert.unwrap_or(stored), tensor.shape.clone())
                }
                Encoding::Plain(stored) => (stored, tensor.shape.clone()),
                Encoding::Opaque(ty) if checkpoint.format() != Format::Safetensors => {
                    return Err(CheckpointError::Tensor {
                        path: checkpoint.path().to_owned(),
                        tensor: tensor.name.clone(),
                        flaw: TensorFlaw::NoSafetensorsType {
                            name: ty.name().to_owned(),
                        },
                    });
                }
                Encoding::Opaque(ty) => {
                    opaque.insert(tensor.name.clone(), (ty, tensor.shape.clone()));
                    let n_bytes = [tensor.contiguous_bytes()];
                    let shape = Shape::new(&n_bytes).expect("one extent fits 64 bits");
                    (DType::U8, shape)
                }
            };
            new.push(NewTensor {
                name: tensor.name.clone(),
                dtype,
                shape,
            });
        }
        let is_float = |encoding| matches!(encoding, Encoding::Plain(dtype) if dtype.is_float());
        let unconverted = tensors
            .iter()
            .filter(|tensor| is_part(tensor) && is_float(tensor.encoding));
        let unconverted = unconverted.map(|tensor| tensor.name.clone()).collect();
        Ok(ShardPlan {
            opaque,
            unconverted,
            ..Self::new(new, max_shard_size)?
        })
    }

    /// Floating-point tensors that stay as they are though others are converted: what the codes of quantized matrices are
    /// decoded with, and codes that are declared so.
    pub fn unconverted(&self) -> &[String] {
        &self.unconverted
    }

    /// True if every tensor is written as it is in `checkpoint`.
    pub fn keeps_encodings(&self, checkpoint: &Checkpoint) -> bool {
        self.tensors.iter().all(|new| {
            let old = checkpoint.get(&new.name);
            self.opaque.contains_key(&new.name)
                || old.is_some_and(|old| old.encoding == Encoding::Plain(new.dtype))
        })
    }

    pub(super) fn opaque(&self) -> &Opaques {
        &self.opaque
    }

    fn name(cuts: Vec<Cut>) -> Self {
        let n_shards = cuts.len();
        let mut plan = ShardPlan {
            tensors: Vec::new(),
            shards: Vec::with_capacity(n_shards),
            opaque: Opaques::new(),
            unconverted: Vec::new(),
        };
        for (shard_idx, mut cut) in cuts.into_iter().enumerate() {
            cut.tensors
                .sort_by_key(|t| std::cmp::Reverse(t.dtype.size()));
            let start = plan.tensors.len();
            plan.tensors.append(&mut cut.tensors);
            plan.shards.push(Shard {
                name: shard_name(shard_idx, n_shards),
                tensors: start..plan.tensors.len(),
                bytes: cut.bytes,
            });
        }
        plan
    }

    /// Every tensor, in the order in which its bytes are written.
    pub fn tensors(&self) -> &[NewTensor] {
        &self.tensors
    }

    /// The files, in the order in which they are written; at least one.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes of all tensors.
    pub fn total(&self) -> Bytes {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// The text of the index, as the Hugging Face libraries lay it out; nothing where there is only one file.
    pub(super) fn index(&self) -> Option<String> {
        if self.shards.len() == 1 {
            return None;
        }
        let weight_map: BTreeMap<&str, &str> = self
            .shards
            .iter()
            .flat_map(|shard| {
                let tensors = &self.tensors[shard.tensors.clone()];
                tensors
                    .iter()
                    .map(|t| (t.name.as_str(), shard.name.as_str()))
            })
            .collect();
        let index: Value =
            json!({"metadata": {"total_size": self.total().get()}, "weight_map": weight_map});
        Some(format!("{index:#}\n"))
    }
}

/// Bytes of each tensor, whose names are as a checkpoint's must be.
fn sizes(tensors: &[NewTensor]) -> Result<Vec<Bytes>, CheckpointError> {
    let mut names = HashSet::with_capacity(tensors.len());
    let size = |tensor: &NewTensor| {
        if tensor.name == METADATA_KEY {
            return Err(TensorFlaw::ReservedName);
        }
        Ok(tensor.shape.bytes(tensor.dtype)?)
    };
    let mut sizes = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let size = match size(tensor) {
            Ok(_) if !names.insert(tensor.name.as_str()) => Err(TensorFlaw::Duplicate),
            other => other,
        };
        sizes.push(size.map_err(|flaw| CheckpointError::Tensor {
            path: SINGLE.into(),
            tensor: tensor.name.clone(),
            flaw,
        })?);
    }
    Ok(sizes)
}

/// A shard before their number is known.
#[derive(Default)]
struct Cut {
    tensors: Vec<NewTensor>,
    bytes: Bytes,
}
