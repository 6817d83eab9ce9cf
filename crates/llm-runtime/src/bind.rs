//! A skeleton joined with a checkpoint.

mod config;
mod find;
mod gguf;
mod misfit;
mod tensor;
mod ties;
mod unused;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use llm_arch::{ModelSpec, Skeleton, UnknownKeys};
use llm_checkpoint::{Checkpoint, Format, MAX_CONFIG, read_small};
use llm_plan::{Encodings, WeightDType};
use llm_quant::{Int8, LoadIn, QuantConfig, Scheme};
use llm_tensor::DType;

use self::config::Config;
pub use self::config::{read_config, read_config_with};
use self::find::{Source, find};
pub(crate) use self::gguf::metadata as gguf_metadata;
pub use self::misfit::Misfit;
pub use self::tensor::BoundTensor;
use crate::packed;
use crate::packed::packing::Packing;
use crate::published::{self, Published};
use crate::quantized::{companions, recognise};
use crate::scaled;
use crate::{Notice, Result, RuntimeError};

/// A model whose every tensor is known to be there, in the right shape; no tensor bytes are held.
///
/// A clone shares all of it.
///
/// ```
/// use llm_runtime::BoundModel;
///
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama");
/// let model = BoundModel::open(&folder)?;
/// assert_eq!(model.spec().family, "llama");
/// for bound in model.tensors() {
///     assert_eq!(bound.slot.n_elements(), bound.tensor.shape.n_elements());
/// }
/// # Ok::<(), llm_runtime::RuntimeError>(())
/// ```
#[derive(Debug, Clone)]
pub struct BoundModel {
    checkpoint: Arc<Checkpoint>,
    skeleton: Arc<Skeleton>,
    /// For each slot, where the checkpoint has it and in which scheme.
    tensors: Arc<[Stored]>,
    quantization: Option<QuantConfig>,
    notices: Vec<Notice>,
}

/// Tensor of a slot, as a checkpoint has it.
#[derive(Debug)]
struct Stored {
    source: Source,
    scheme: Scheme,
    /// Sources of the parts of codes in groups.
    packing: Option<Box<Packing>>,
}

impl BoundModel {
    /// Opens a folder or file: the checkpoint, and the configuration beside it or, for GGUF, inside it.
    ///
    /// # Errors
    /// When either cannot be read or is not understood, or they do not fit each other.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(Checkpoint::open(path)?)
    }

    /// Joins an opened checkpoint with the configuration beside it or, for GGUF, inside it.
    ///
    /// # Errors
    /// When the configuration cannot be read or is not understood, or they do not fit each other.
    pub fn of(checkpoint: Checkpoint) -> Result<Self> {
        Self::of_with(checkpoint, UnknownKeys::Refuse)
    }

    /// The same, keys of a `config.json` that nothing is known of being passed over if that is wished.
    ///
    /// # Errors
    /// As [`BoundModel::of`].
    pub fn of_with(checkpoint: Checkpoint, unknown_keys: UnknownKeys) -> Result<Self> {
        match checkpoint.format() {
            Format::Gguf => {
                let skeleton = gguf::skeleton(&checkpoint)?;
                Self::bind(checkpoint, skeleton)
            }
            _ => {
                let path = checkpoint.folder().join("config.json");
                let config =
                    read_small(&path, MAX_CONFIG).map_err(
                        |source| match Checkpoint::adapter_in(checkpoint.folder()) {
                            Some(error) => error.into(),
                            None => RuntimeError::ReadConfig {
                                path: path.clone(),
                                source,
                            },
                        },
                    )?;
                let config = Config::parse(&config, &path, unknown_keys)?;
                Self::join(checkpoint, config)
            }
        }
    }

    /// Joins an opened checkpoint with the text of a `config.json`; `path` is what messages call it.
    ///
    /// # Errors
    /// When the configuration is not understood or the checkpoint does not fit it.
    pub fn with_config(checkpoint: Checkpoint, config: &[u8], path: &Path) -> Result<Self> {
        let config = Config::parse(config, path, UnknownKeys::Refuse)?;
        Self::join(checkpoint, config)
    }

    /// Joins an opened checkpoint with a skeleton.
    ///
    /// # Errors
    /// [`Misfit`] when they do not fit, [`RuntimeError::Quantized`] and [`RuntimeError::QuantizedPart`].
    pub fn bind(checkpoint: Checkpoint, skeleton: Skeleton) -> Result<Self> {
        let config = Config {
            skeleton,
            quantization: None,
            published: None,
            notices: Vec::new(),
        };
        Self::join(checkpoint, config)
    }

    fn join(checkpoint: Checkpoint, config: Config) -> Result<Self> {
        let Config {
            mut skeleton,
            quantization,
            published,
            mut notices,
        } = config;
        let block_size = published.as_ref().and_then(Published::block_size);
        let may_be_packed = packed::are_there(&checkpoint);
        skeleton.settle_names(|name| checkpoint.get(name).is_some());
        let default = QuantConfig::new(LoadIn::EightBit);
        let int8 = Int8 {
            threshold: quantization.as_ref().unwrap_or(&default).llm_int8_threshold,
        };
        let skeleton = ties::settle(&checkpoint, skeleton, &mut notices)?;
        let mut misfit = Misfit::new(&checkpoint, &skeleton);
        let mut tensors = Vec::with_capacity(skeleton.slots.len());
        for slot in &skeleton.slots {
            if may_be_packed
                && let Some(found) = packed::find(&checkpoint, &skeleton, slot, published.as_ref())?
            {
                tensors.push(found.into());
                continue;
            }
            let Some(mut source) = find(&checkpoint, &skeleton, slot, &mut misfit) else {
                continue;
            };
            let scaled = source.scaled(&checkpoint, slot, block_size)?;
            let tensor = source.tensor(&checkpoint);
            let scheme = match scaled {
                Some(format) => Some(Scheme::Fp8(format)),
                None => recognise(&checkpoint, tensor, slot, int8, block_size)?,
            };
            if published.is_some() {
                scaled::check_scaled(&checkpoint, tensor, scheme)?;
            }
            match scheme {
                Some(Scheme::Int8(_) | Scheme::FourBit(_)) => {}
                Some(
                    Scheme::Dense(_)
                    | Scheme::Int8PerUse(..)
                    | Scheme::Ggml(_)
                    | Scheme::Fp8(_)
                    | Scheme::Grouped(_),
                )
                | None => misfit.compare(slot, tensor, checkpoint.format()),
            }
            // What is not understood is no weight, as the misfit says.
            let scheme = scheme.unwrap_or(Scheme::Dense(DType::U8));
            tensors.push(Stored {
                source,
                scheme,
                packing: None,
            });
        }
        let companions =
            tensors
                .iter()
                .flat_map(|stored| match (&stored.packing, &stored.source) {
                    (Some(packing), _) => packing.names.clone(),
                    (None, Source::Whole(name)) => companions(&checkpoint, stored.scheme, name),
                    (None, Source::Part(part)) => part.companions(&checkpoint),
                });
        let names = tensors.iter().map(|stored| stored.source.name().to_owned());
        let kv_scales = published.map_or_else(Vec::new, |_| published::kv_scales(&checkpoint));
        if !kv_scales.is_empty() {
            notices.push(Notice::NotApplied {
                path: checkpoint.path().to_owned(),
                key: format!("scales of keys and values, as {}", kv_scales[0]),
                instead: "keys and values stay as they are, which is more exact",
            });
        }
        let used: HashSet<String> = names.chain(companions).chain(kv_scales).collect();
        unused::sort(&checkpoint, &skeleton, &used, &mut misfit, &mut notices);
        if misfit.is_empty() {
            let of_configuration = skeleton.notices.iter().cloned();
            notices.splice(0..0, of_configuration.map(Notice::Configuration));
            Ok(BoundModel {
                checkpoint: Arc::new(checkpoint),
                skeleton: Arc::new(skeleton),
                tensors: tensors.into(),
                quantization,
                notices,
            })
        } else {
            Err(Box::new(misfit).into())
        }
    }

    /// Description of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.skeleton.spec
    }

    /// The model without its weights.
    pub fn skeleton(&self) -> &Skeleton {
        &self.skeleton
    }

    /// The checkpoint that it is bound to.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Each slot with the checkpoint's tensor for it.
    pub fn tensors(&self) -> impl Iterator<Item = BoundTensor<'_>> {
        let slots = self.skeleton.slots.iter().zip(self.tensors.iter());
        slots.map(|(slot, stored)| BoundTensor {
            slot,
            tensor: stored.source.tensor(&self.checkpoint),
            scheme: stored.scheme,
            packing: stored.packing.as_deref(),
            scales: stored.source.scales(),
        })
    }

    /// The quantization that the configuration says the checkpoint has.
    pub fn quantization(&self) -> Option<&QuantConfig> {
        self.quantization.as_ref()
    }

    /// Decisions about the model that should be said; those about its files are in
    /// [`Checkpoint::notices`](llm_checkpoint::Checkpoint::notices).
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Encodings of all tensors once they are loaded as asked.
    ///
    /// # Errors
    /// [`RuntimeError::AlreadyQuantized`] when a quantization is asked for and the checkpoint has one,
    /// [`RuntimeError::WeightDType`].
    pub fn encodings<'q>(
        &self,
        dtype: WeightDType,
        quant: Option<&'q QuantConfig>,
    ) -> Result<Encodings<'q>> {
        if let WeightDType::As(dtype) = dtype
            && !dtype.is_weight()
        {
            return Err(RuntimeError::WeightDType { dtype });
        }
        let mut quantized = self.tensors().filter_map(|b| b.stored().quantized());
        let quantized = quantized.next().map(|scheme| scheme.to_string());
        if let (Some(scheme), Some(_)) = (quantized, quant) {
            let path = self.checkpoint.path().to_owned();
            return Err(RuntimeError::AlreadyQuantized { path, scheme });
        }
        Ok(Encodings {
            dtype,
            config_dtype: self.spec().dtype,
            quant,
        })
    }
}

impl From<packed::Found> for Stored {
    fn from(found: packed::Found) -> Self {
        Stored {
            source: match found.is_whole {
                true => Source::Whole(found.codes.name),
                false => Source::part(found.codes),
            },
            scheme: Scheme::Grouped(found.format),
            packing: Some(Box::new(found.packing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_checkpoint::Layout;
    use llm_plan::{Order, StoredTensor};

    use super::*;

    #[test]
    fn views_are_told_from_what_lies_in_order() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let model = BoundModel::open(&fixtures.join("models/llama")).unwrap();
        let bound = model.tensors().next().unwrap();
        let stored = bound.stored();
        assert_eq!(stored, StoredTensor::in_order(bound.scheme));
        let mut view = bound.tensor.clone();
        view.layout = Layout::Strided([1, 2].into());
        let bound = BoundTensor {
            tensor: &view,
            ..bound
        };
        let strided = StoredTensor {
            order: Order::Strided,
            ..stored
        };
        assert_eq!(bound.stored(), strided);
    }
}
