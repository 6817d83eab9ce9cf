//! The model that a plan is made for.

use std::path::{Path, PathBuf};

use anyhow::Result;
use llm_arch::{Skeleton, Slot};
use llm_checkpoint::{CheckpointError, Elsewhere, MAX_CONFIG, NewTensor, ShardPlan, read_small};
use llm_plan::{Encodings, RunOn, StoredTensor, WeightDType};
use llm_quant::{QuantConfig, Scheme};
use llm_runtime::{BoundModel, PublishedForm, RuntimeError, read_config_with};
use llm_tensor::{Bytes, DType, Shape};

use crate::cli::KeyArgs;
use crate::hub_model::{HubModel, ToDownload};
use crate::output::words::printable;
use crate::placement::offload::read_from;
use crate::placement::program;
use crate::{demo, open, output};

/// A model whose weights may be there or not.
#[derive(Debug)]
pub(crate) struct PlannedModel {
    /// The last part of its path.
    pub(super) name: String,
    pub(crate) skeleton: Skeleton,
    /// Encoding of each slot in the checkpoint.
    pub(crate) stored: Vec<StoredTensor>,
    /// Quantization of its checkpoint, if there is one.
    pub(super) scheme: Option<String>,
    pub(super) files: CheckpointFiles,
    /// Files that weights are read from in place: the checkpoint's, or the folder where they would be.
    pub(super) read_from: Vec<PathBuf>,
    /// RAM that the process takes for itself.
    pub(super) program: Bytes,
    /// Bound to its checkpoint, where there is one.
    pub(super) bound: Option<BoundModel>,
    /// What it takes to have it here.
    pub(super) to_download: Option<ToDownload>,
}

/// The files of a checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CheckpointFiles {
    /// Their sizes.
    Present(Vec<Bytes>),
    /// Of a configuration alone.
    Expected {
        /// The element type that its weights are taken to have.
        dtype: DType,
        /// Sizes of the files that may be expected, by ways to cut them.
        cuts: Vec<Vec<Bytes>>,
    },
}

impl PlannedModel {
    /// Opens what the user calls a model; a folder may hold nothing but a `config.json`.
    pub(crate) fn open((path, hub): (&Path, Option<&HubModel>), keys: &KeyArgs) -> Result<Self> {
        let found = Self::open_files(path, HubModel::origin(hub), keys)?;
        let Some(hub) = hub else {
            return Ok(found);
        };
        Ok(PlannedModel {
            name: printable(&hub.name),
            read_from: hub.read_from().unwrap_or(found.read_from),
            to_download: hub.to_download(),
            ..found
        })
    }

    fn open_files(path: &Path, origin: Option<&dyn Elsewhere>, keys: &KeyArgs) -> Result<Self> {
        let config = path.join(CONFIG);
        match open::bind_with(path, keys, origin) {
            Err(error) if lacks_weights(&error) && config.is_file() => {
                let text = read_small(&config, MAX_CONFIG)?;
                let read = read_config_with(&text, &config, keys.unknown_keys());
                let (skeleton, quantization) = read.map_err(open::with_key_hint)?;
                output::notes(&skeleton.notices);
                let form = PublishedForm::of_config(&text);
                Self::without_weights(path, skeleton, (quantization.as_ref(), form))
            }
            model => Self::of_model(path, model?),
        }
    }

    fn of_model(path: &Path, model: BoundModel) -> Result<Self> {
        let checkpoint = model.checkpoint();
        let size = |file: &Path| match std::fs::metadata(file) {
            Ok(metadata) => Ok(Bytes::new(metadata.len())),
            Err(source) => Err(CheckpointError::Io {
                path: file.to_owned(),
                source,
            }),
        };
        let files = match path == Path::new(demo::NAME) {
            true => vec![Bytes::new(demo::weights().len() as u64)],
            false => checkpoint.files().map(size).collect::<Result<_, _>>()?,
        };
        let stored: Vec<_> = model.tensors().map(|bound| bound.stored()).collect();
        Ok(PlannedModel {
            name: name(path),
            read_from: read_from(&model),
            skeleton: model.skeleton().clone(),
            scheme: scheme(&stored),
            stored,
            files: CheckpointFiles::Present(files),
            program: program::with_model(&model),
            bound: Some(model),
            to_download: None,
        })
    }

    /// A model whose checkpoint is taken to hold what its configuration says.
    fn without_weights(
        path: &Path,
        skeleton: Skeleton,
        (quantization, form): (Option<&QuantConfig>, Option<PublishedForm>),
    ) -> Result<Self> {
        let dtype = skeleton.spec.dtype.unwrap_or(USUAL_DTYPE);
        let encodings = Encodings {
            dtype: WeightDType::As(dtype),
            config_dtype: None,
            quant: quantization,
        };
        let plain = StoredTensor::in_order(Scheme::Dense(dtype));
        let stored = |slot: &Slot| {
            if let Some(tensor) = form.and_then(|form| form.of_slot(slot)) {
                return tensor;
            }
            let kept = encodings.scheme(slot, plain, RunOn::Gpu(0));
            let kept = StoredTensor::in_order(kept);
            kept.quantized().map_or(plain, StoredTensor::in_order)
        };
        let stored: Vec<_> = skeleton.slots.iter().map(stored).collect();
        let cuts = cuts(&skeleton, &stored)?;
        Ok(PlannedModel {
            name: name(path),
            read_from: vec![path.to_owned()],
            program: program::with_folder(path, &skeleton),
            skeleton,
            scheme: scheme(&stored),
            stored,
            files: CheckpointFiles::Expected { dtype, cuts },
            bound: None,
            to_download: None,
        })
    }

    /// Encodings of all tensors once they are loaded as asked.
    ///
    /// # Errors
    /// When a quantization is asked for and the checkpoint has one.
    pub(crate) fn encodings<'q>(
        &self,
        dtype: WeightDType,
        quant: Option<&'q QuantConfig>,
    ) -> Result<Encodings<'q>> {
        if let (Some(scheme), Some(_)) = (&self.scheme, quant) {
            return Err(RuntimeError::AlreadyQuantized {
                path: self.name.clone().into(),
                scheme: scheme.clone(),
            }
            .into());
        }
        Ok(Encodings {
            dtype,
            config_dtype: self.skeleton.spec.dtype,
            quant,
        })
    }
}

impl CheckpointFiles {
    /// Ways in which the checkpoint is, or may be, cut into files: their sizes.
    pub(super) fn cuts(&self) -> &[Vec<Bytes>] {
        match self {
            CheckpointFiles::Present(files) => std::slice::from_ref(files),
            CheckpointFiles::Expected { cuts, .. } => cuts,
        }
    }
}

/// Sizes of one file, and of shards where these are several.
fn cuts(skeleton: &Skeleton, stored: &[StoredTensor]) -> Result<Vec<Vec<Bytes>>> {
    let cut = |max_shard_size| -> Result<Vec<Bytes>> {
        let tensors = skeleton.slots.iter().zip(stored);
        let tensors = tensors.map(|(slot, &stored)| {
            Ok(NewTensor {
                name: slot.name.clone(),
                dtype: DType::U8,
                shape: Shape::new(&[stored_bytes(slot, stored)])?,
            })
        });
        let plan = ShardPlan::new(tensors.collect::<Result<_>>()?, max_shard_size)?;
        Ok(plan.shards().iter().map(|shard| shard.bytes).collect())
    };
    let mut cuts = vec![cut(None)?, cut(Some(SHARD))?];
    cuts.dedup();
    Ok(cuts)
}

fn stored_bytes(slot: &Slot, stored: StoredTensor) -> u64 {
    let rows = slot.shape.first().map_or(1, |&rows| rows as u64);
    let cols = slot.n_elements() / rows.max(1);
    stored.scheme.stored_bytes(rows, cols).total().get()
}

fn scheme(stored: &[StoredTensor]) -> Option<String> {
    let mut quantized = stored.iter().filter_map(|stored| stored.quantized());
    quantized.next().map(|scheme| scheme.to_string())
}

/// The error of a folder that holds no weights.
/// True if a folder has no file of weights.
pub(crate) fn lacks_weights(error: &anyhow::Error) -> bool {
    let found = match error.downcast_ref::<RuntimeError>() {
        Some(RuntimeError::Checkpoint(found)) => Some(found),
        _ => error.downcast_ref::<CheckpointError>(),
    };
    matches!(found, Some(CheckpointError::NoWeights { .. }))
}

/// The last part of a path, `.` being the folder's own name.
pub(super) fn name(path: &Path) -> String {
    let whole = path.canonicalize();
    let path = whole.as_deref().unwrap_or(path);
    let name = path.file_name().unwrap_or(path.as_os_str());
    printable(&name.to_string_lossy())
}

pub(crate) const CONFIG: &str = "config.json";
/// Element type of most checkpoints whose configuration does not name one.
const USUAL_DTYPE: DType = DType::BF16;
/// The size of shards in which models of this size are mostly published.
const SHARD: Bytes = Bytes::new(10_000_000_000);

#[cfg(test)]
mod tests {
    use llm_runtime::read_config;

    use super::*;

    fn planned(config: &str) -> PlannedModel {
        let (skeleton, quantization) = read_config(config.as_bytes(), Path::new(CONFIG)).unwrap();
        let form = PublishedForm::of_config(config.as_bytes());
        let quantization = (quantization.as_ref(), form);
        PlannedModel::without_weights(Path::new("x"), skeleton, quantization).unwrap()
    }

    #[test]
    fn a_configuration_alone_says_what_its_checkpoint_holds() {
        let model = r#""model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 4"#;
        let plain = planned(&format!("{{{model}}}"));
        let n_parameters = plain.skeleton.n_parameters();
        assert_eq!(plain.scheme, None);
        let CheckpointFiles::Expected { dtype, cuts } = plain.files else {
            panic!("there is no file");
        };
        assert_eq!(dtype, DType::BF16);
        assert_eq!(cuts, [[Bytes::new(2 * n_parameters)]], "too small to cut");

        let quantization = r#""dtype": "float16", "quantization_config": {"quant_method": "bitsandbytes",
            "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}"#;
        let quantized = planned(&format!("{{{model}, {quantization}}}"));
        assert_eq!(quantized.scheme.as_deref(), Some("nf4"));
        let n_quantized = quantized.stored.iter();
        let n_quantized = n_quantized.filter(|s| s.quantized().is_some());
        assert_eq!(n_quantized.count(), 2 * 7, "the projections of two layers");
        let gptq =
            r#""quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}"#;
        let gptq = planned(&format!("{{{model}, {gptq}}}"));
        let of = |stored: &StoredTensor| stored.scheme.to_string() == "int4/32";
        assert_eq!(
            gptq.stored.iter().filter(|stored| of(stored)).count(),
            2 * 7
        );
        let quant = QuantConfig::new(llm_quant::LoadIn::EightBit);
        let twice = quantized.encodings(WeightDType::Auto, Some(&quant));
        assert!(twice.unwrap_err().to_string().contains("quantized already"));
    }
}
