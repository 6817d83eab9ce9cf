//! A skeleton joined with a checkpoint.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use llm_arch::{ArchError, ModelSpec, Skeleton, Slot, UnknownKeys, from_config_with, from_gguf};
use llm_checkpoint::{
    Checkpoint, Encoding, Format, Layout, TensorInfo, Value as MetaValue, read_small,
};
use llm_plan::{Encodings, StoredAs, WeightDType, is_final};
use llm_quant::{Int8, LoadIn, QuantConfig, QuantError, Scheme};
use serde_json::{Map, Value};

use crate::quantized::{Held, companions, recognise};
use crate::scaled::{Float8, Scaled};
use crate::{Notice, Result, RuntimeError};

/// A model whose every tensor is known to be there, in the right shape; no tensor bytes are held.
#[derive(Debug)]
pub struct BoundModel {
    checkpoint: Checkpoint,
    skeleton: Skeleton,
    /// For each slot, the checkpoint's name for it and how it is held.
    tensors: Vec<(String, Held)>,
    quantization: Option<QuantConfig>,
    notices: Vec<Notice>,
}

/// A slot with the checkpoint's tensor for it.
#[derive(Debug, Clone, Copy)]
pub struct BoundTensor<'a> {
    /// What the model needs.
    pub slot: &'a Slot,
    /// What the checkpoint has: of a quantized matrix its codes.
    pub tensor: &'a TensorInfo,
    pub(crate) held: Held,
}

impl BoundTensor<'_> {
    /// Whether the checkpoint holds it as it is kept in `scheme`, one element after the other: then it can be read in place,
    /// over and over.
    pub(crate) fn is_final(&self, scheme: Scheme) -> bool {
        let is_in_order = self.tensor.layout == Layout::RowMajor;
        is_in_order && is_final(self.slot, self.stored_as(), scheme)
    }

    /// What its elements are to be multiplied with.
    pub(crate) fn scaled(&self) -> Option<Scaled> {
        match self.held {
            Held::Scaled(scaled) => Some(scaled),
            Held::Dense(_) | Held::FourBit(_) | Held::Int8(_) => None,
        }
    }

    /// How the checkpoint holds it.
    pub fn stored_as(&self) -> StoredAs {
        match (self.held.stored_as(), &self.tensor.layout) {
            (StoredAs::Plain(dtype), Layout::Strided(_)) => StoredAs::Strided(dtype),
            (stored, Layout::RowMajor | Layout::Strided(_)) => stored,
        }
    }
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
                let skeleton = gguf_skeleton(&checkpoint).map_err(|flaw| RuntimeError::Config {
                    path: checkpoint.path().to_owned(),
                    flaw,
                })?;
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
                let config = parse_config(&config, &path, unknown_keys)?;
                Self::join(checkpoint, config)
            }
        }
    }

    /// Joins an opened checkpoint with the text of a `config.json`; `path` is what messages call it.
    ///
    /// # Errors
    /// When the configuration is not understood or the checkpoint does not fit it.
    pub fn with_config(checkpoint: Checkpoint, config: &[u8], path: &Path) -> Result<Self> {
        let config = parse_config(config, path, UnknownKeys::Refuse)?;
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
            float8: None,
            notices: Vec::new(),
        };
        Self::join(checkpoint, config)
    }

    fn join(checkpoint: Checkpoint, config: Config) -> Result<Self> {
        let Config {
            mut skeleton,
            quantization,
            float8,
            notices,
        } = config;
        let block_size = float8.and_then(|float8| float8.block_size);
        skeleton.settle_names(|name| checkpoint.get(name).is_some());
        let default = QuantConfig::new(LoadIn::EightBit);
        let int8 = Int8 {
            threshold: quantization.as_ref().unwrap_or(&default).llm_int8_threshold,
        };
        let mut misfit = Misfit::new(&checkpoint, &skeleton);
        let mut tensors = Vec::with_capacity(skeleton.slots.len());
        for slot in &skeleton.slots {
            match find(&checkpoint, slot) {
                Some(tensor) => {
                    let held = recognise(&checkpoint, tensor, slot, int8, block_size)?;
                    if let Held::Dense(_) | Held::Scaled(_) = held {
                        misfit.compare(slot, tensor);
                    }
                    tensors.push((tensor.name.clone(), held));
                }
                None => misfit
                    .missing
                    .push(format!("`{}` {:?}", slot.name, slot.stored_shape())),
            }
        }
        let companions = tensors
            .iter()
            .flat_map(|(name, held)| companions(*held, name));
        let names = tensors.iter().map(|(name, _)| name.clone());
        let used: HashSet<String> = names.chain(companions).collect();
        let unused = checkpoint
            .tensors()
            .map(|t| t.name.as_str())
            .filter(|name| !used.contains(*name));
        misfit.extra = unused
            .filter(|name| !skeleton.is_harmless(name))
            .map(|name| format!("`{name}`"))
            .collect();
        if misfit.is_empty() {
            let (notices, own) = (skeleton.notices.iter().cloned(), notices);
            Ok(BoundModel {
                notices: notices.map(Notice::Configuration).chain(own).collect(),
                checkpoint,
                skeleton,
                tensors,
                quantization,
            })
        } else {
            Err(Box::new(misfit).into())
        }
    }

    /// What the model is.
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
        let slots = self.skeleton.slots.iter().zip(&self.tensors);
        slots.map(|(slot, (name, held))| BoundTensor {
            slot,
            tensor: self
                .checkpoint
                .get(name)
                .expect("a bound name is in the checkpoint"),
            held: *held,
        })
    }

    /// The quantization that the configuration says the checkpoint has.
    pub fn quantization(&self) -> Option<&QuantConfig> {
        self.quantization.as_ref()
    }

    /// What was decided about the model and should be said; what concerns its files,
    /// [`Checkpoint::notices`](llm_checkpoint::Checkpoint::notices) has.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// How every tensor is kept once it is loaded as asked.
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
        let quantized = self.tensors().find_map(|bound| match bound.stored_as() {
            StoredAs::Quantized(scheme) => Some(scheme.to_string()),
            StoredAs::Plain(_) | StoredAs::Strided(_) | StoredAs::Blocks => None,
        });
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

/// What the text of a `config.json` describes: the model, and the quantization that it says its checkpoint has. `path`
/// is what messages call it.
///
/// # Errors
/// When it is not understood.
pub fn read_config(config: &[u8], path: &Path) -> Result<(Skeleton, Option<QuantConfig>)> {
    read_config_with(config, path, UnknownKeys::Refuse)
}

/// The same, keys that nothing is known of being passed over if that is wished.
///
/// # Errors
/// As [`read_config`].
pub fn read_config_with(
    config: &[u8],
    path: &Path,
    unknown_keys: UnknownKeys,
) -> Result<(Skeleton, Option<QuantConfig>)> {
    let config = parse_config(config, path, unknown_keys)?;
    Ok((config.skeleton, config.quantization))
}

/// All that a `config.json` says.
struct Config {
    skeleton: Skeleton,
    quantization: Option<QuantConfig>,
    float8: Option<Float8>,
    notices: Vec<Notice>,
}

fn parse_config(config: &[u8], path: &Path, unknown_keys: UnknownKeys) -> Result<Config> {
    let mut config: Map<String, Value> =
        llm_json::parse_as(config).map_err(|e| RuntimeError::ConfigSyntax {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
    let (quantization, float8) = quantization(&mut config, path)?;
    let skeleton =
        from_config_with(&config, unknown_keys).map_err(|flaw| RuntimeError::Config {
            path: path.to_owned(),
            flaw,
        })?;
    let activations = float8.as_ref().and_then(|f| f.activations.as_ref());
    let notice = activations.map(|scheme| Notice::NotApplied {
        path: path.to_owned(),
        key: format!("activation_scheme: {scheme}"),
        instead: "activations stay as they are, which is more exact",
    });
    Ok(Config {
        skeleton,
        quantization,
        float8,
        notices: notice.into_iter().collect(),
    })
}

/// Takes the `quantization_config` out of a configuration, the rest of which describes the model.
fn quantization(
    config: &mut Map<String, Value>,
    path: &Path,
) -> Result<(Option<QuantConfig>, Option<Float8>)> {
    let flawed = |flaw| RuntimeError::QuantConfig {
        path: path.to_owned(),
        flaw: Box::new(flaw),
    };
    match config.shift_remove("quantization_config") {
        None | Some(Value::Null) => Ok((None, None)),
        Some(Value::Object(quantization)) => match Float8::from_json(&quantization) {
            Ok(None) => {
                let config = QuantConfig::from_json(&quantization).map_err(flawed)?;
                Ok((config, None))
            }
            Ok(float8) => Ok((None, float8)),
            Err(flaw) => Err(flawed(flaw)),
        },
        Some(other) => Err(flawed(QuantError::BadValue {
            key: "quantization_config".to_owned(),
            found: other.to_string(),
            expected: "an object".to_owned(),
        })),
    }
}

/// Every way in which a checkpoint does not fit a configuration, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The checkpoint.
    pub path: PathBuf,
    /// The family that the configuration names.
    pub family: &'static str,
    /// Tensors that are not there, with the shape expected.
    pub missing: Vec<String>,
    /// Tensors of another shape, with expected and found.
    pub misshapen: Vec<String>,
    /// Tensors whose elements are no weights.
    pub no_weights: Vec<String>,
    /// Tensors that the family has no use for.
    pub extra: Vec<String>,
}

impl Misfit {
    fn new(checkpoint: &Checkpoint, skeleton: &Skeleton) -> Self {
        Misfit {
            path: checkpoint.path().to_owned(),
            family: skeleton.spec.family,
            missing: Vec::new(),
            misshapen: Vec::new(),
            no_weights: Vec::new(),
            extra: Vec::new(),
        }
    }

    fn compare(&mut self, slot: &Slot, tensor: &TensorInfo) {
        let expected = slot.stored_shape();
        if !tensor
            .shape
            .iter()
            .copied()
            .eq(expected.iter().map(|&d| d as u64))
        {
            self.misshapen.push(format!(
                "`{}` is {}, expected {expected:?}",
                tensor.name, tensor.shape
            ));
        }
        let is_computable = match tensor.encoding {
            Encoding::Plain(dtype) => dtype.is_float(),
            Encoding::Block(_) => true,
            Encoding::Opaque(_) => false,
        };
        if !is_computable {
            self.no_weights
                .push(format!("`{}` of {}", tensor.name, tensor.encoding));
        }
    }

    fn is_empty(&self) -> bool {
        self.kinds().iter().all(|(_, tensors)| tensors.is_empty())
    }

    fn kinds(&self) -> [(&'static str, &Vec<String>); 4] {
        [
            ("missing", &self.missing),
            ("of another shape", &self.misshapen),
            ("of elements that are not computed with", &self.no_weights),
            ("not understood", &self.extra),
        ]
    }
}

impl std::error::Error for Misfit {}

/// One line, each kind with its count and its first few tensors.
impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} does not hold the {} model of its configuration",
            self.path.display(),
            self.family
        )?;
        for (kind, tensors) in self
            .kinds()
            .into_iter()
            .filter(|(_, tensors)| !tensors.is_empty())
        {
            let (shown, rest) = tensors.split_at(tensors.len().min(SHOWN));
            write!(f, "; {} {kind}: {}", tensors.len(), shown.join(", "))?;
            if !rest.is_empty() {
                write!(f, " and {} more", rest.len())?;
            }
        }
        Ok(())
    }
}

/// Bytes that a configuration may have: those of sparsely quantized models list every tensor.
const MAX_CONFIG: u64 = 64 << 20;

/// Tensors of a kind that a message lists; the error itself holds all.
const SHOWN: usize = 8;

fn find<'c>(checkpoint: &'c Checkpoint, slot: &Slot) -> Option<&'c TensorInfo> {
    checkpoint
        .get(&slot.name)
        .or_else(|| checkpoint.get(slot.short_name()?))
}

fn gguf_skeleton(checkpoint: &Checkpoint) -> std::result::Result<Skeleton, ArchError> {
    let vocab = checkpoint
        .get("token_embd.weight")
        .and_then(|t| t.shape.first().copied())
        .unwrap_or(0);
    from_gguf(&scalars(checkpoint), vocab as usize, |name| {
        checkpoint.get(name).is_some()
    })
}

/// What a GGUF's metadata says, arrays apart.
pub(crate) fn scalars(checkpoint: &Checkpoint) -> Map<String, Value> {
    let metadata = checkpoint.metadata().iter();
    let scalars = metadata.filter_map(|(key, value)| Some((key.clone(), scalar(value)?)));
    scalars.collect()
}

/// A value as JSON; arrays hold vocabularies and per-layer lists, which no configuration key is.
fn scalar(value: &MetaValue) -> Option<Value> {
    match value {
        MetaValue::String(text) => Some(Value::from(text.as_str())),
        MetaValue::Bool(flag) => Some(Value::from(*flag)),
        // Through the decimal digits, so that an f32's 1e-5 is the 1e-5 that was meant.
        MetaValue::F32(x) => x.to_string().parse::<f64>().ok().map(Value::from),
        MetaValue::F64(x) => Some(Value::from(*x)),
        MetaValue::Array(_) => None,
        MetaValue::U8(_)
        | MetaValue::I8(_)
        | MetaValue::U16(_)
        | MetaValue::I16(_)
        | MetaValue::U32(_)
        | MetaValue::I32(_)
        | MetaValue::U64(_)
        | MetaValue::I64(_) => value.as_u64().map(Value::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_told_from_what_lies_in_order() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let model = BoundModel::open(&fixtures.join("models/llama")).unwrap();
        let bound = model.tensors().next().unwrap();
        let StoredAs::Plain(dtype) = bound.stored_as() else {
            panic!("{:?}", bound.stored_as());
        };
        let mut view = bound.tensor.clone();
        view.layout = Layout::Strided([1, 2].into());
        let bound = BoundTensor {
            tensor: &view,
            ..bound
        };
        assert_eq!(bound.stored_as(), StoredAs::Strided(dtype));
    }
}
