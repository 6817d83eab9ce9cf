//! Opening of a model: from what the user calls it to its files, bound to its architecture.

mod checkpoint;
mod gguf;
mod unknown;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use anyhow::Result;
use llm_arch::ArchError;
use llm_checkpoint::{Checkpoint, Elsewhere, Format};
use llm_runtime::{BoundModel, RuntimeError};
use llm_text::{TextError, Tokenizer};

pub(crate) use self::checkpoint::{checkpoint, expect_there, is_hub_name};
pub(crate) use self::gguf::gguf_tokenizer;
pub(crate) use self::unknown::unknown_checkpoint;
use self::unknown::with_plan_hint;
use crate::cli::KeyArgs;
use crate::failure::UserError;
use crate::generation_config::{GenerationConfig, OtherKeys};
use crate::{demo, output};

/// A model that was found and understood, its weights not yet loaded.
pub(crate) struct OpenModel {
    pub(crate) bound: BoundModel,
    /// Its error counts only where a tokenizer is needed: token ids do without one.
    tokenizer: Result<Arc<Tokenizer>, TextError>,
    /// Done once the tokenizer's notices are printed.
    notices: Once,
    generation: ConfigOrigin,
}

/// Origin of the generation configuration.
enum ConfigOrigin {
    Demo,
    Folder(PathBuf),
    Nowhere,
}

impl OpenModel {
    pub(crate) fn open(path: &Path, keys: &KeyArgs) -> Result<Self> {
        let bound = bind_or_hint(path, keys, None)?;
        if path == Path::new(demo::NAME) {
            return Ok(OpenModel {
                bound,
                tokenizer: Tokenizer::from_json(demo::TOKENIZER, Some(demo::TOKENIZER_CONFIG))
                    .map(Arc::new),
                notices: Once::new(),
                generation: ConfigOrigin::Demo,
            });
        }
        let checkpoint = bound.checkpoint();
        let (tokenizer, generation) = match checkpoint.format() {
            Format::Gguf => {
                let tokenizer = gguf_tokenizer(checkpoint.metadata());
                (Tokenizer::from_gguf(&tokenizer), ConfigOrigin::Nowhere)
            }
            _ => {
                let folder = checkpoint.folder();
                (
                    Tokenizer::from_folder(folder),
                    ConfigOrigin::Folder(folder.to_owned()),
                )
            }
        };
        Ok(OpenModel {
            bound,
            tokenizer: tokenizer.map(Arc::new),
            notices: Once::new(),
            generation,
        })
    }

    /// The tokenizer, where text is to be read or written. What it takes otherwise than its files may mean is said.
    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
        Ok(self.shared_tokenizer()?)
    }

    /// The same for a thread of its own.
    pub(crate) fn shared_tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        // The error is shown, not stored elsewhere: its message is all that is needed of it.
        let tokenizer = self.tokenizer.as_ref();
        let tokenizer = tokenizer.map_err(|error| UserError(error.to_string()))?;
        self.notices
            .call_once(|| output::notes(tokenizer.notices()));
        Ok(tokenizer)
    }

    /// Generation configuration of the model's makers.
    ///
    /// # Errors
    /// When a value of it is out of bounds.
    pub(crate) fn generation(&self) -> Result<GenerationConfig> {
        match &self.generation {
            ConfigOrigin::Demo => {
                let origin = Path::new(demo::ORIGIN);
                GenerationConfig::parse(origin, demo::CONFIG, OtherKeys::AreTheModels)
            }
            ConfigOrigin::Folder(folder) => GenerationConfig::of_folder(folder),
            ConfigOrigin::Nowhere => Ok(GenerationConfig::default()),
        }
    }
}

/// Opens what the user calls a model, without its tokenizer.
pub(crate) fn bind(path: &Path, keys: &KeyArgs) -> Result<BoundModel> {
    bind_with(path, keys, None)
}

/// The same of one of whose files `origin` may have the bytes.
pub(crate) fn bind_with(
    path: &Path,
    keys: &KeyArgs,
    origin: Option<&dyn Elsewhere>,
) -> Result<BoundModel> {
    if path == Path::new(demo::NAME) {
        let origin = Path::new(demo::ORIGIN);
        let checkpoint = Checkpoint::from_bytes(origin, demo::weights())?;
        return Ok(BoundModel::with_config(checkpoint, demo::CONFIG, origin)?);
    }
    bind_files_with(path, keys, origin)
}

/// The same with a hint where it cannot be run and can be looked at.
pub(crate) fn bind_or_hint(
    path: &Path,
    keys: &KeyArgs,
    origin: Option<&dyn Elsewhere>,
) -> Result<BoundModel> {
    bind_with(path, keys, origin).map_err(|error| with_plan_hint(path, origin, error))
}

/// Opens a model's files, and says once what is to be said of them.
pub(crate) fn bind_files(path: &Path, keys: &KeyArgs) -> Result<BoundModel> {
    bind_files_with(path, keys, None)
}

fn bind_files_with(
    path: &Path,
    keys: &KeyArgs,
    origin: Option<&dyn Elsewhere>,
) -> Result<BoundModel> {
    expect_there(path)?;
    let checkpoint = Checkpoint::open_with(path, origin).map_err(RuntimeError::from)?;
    // Before the model is bound: where that fails, they may say why.
    output::notes(checkpoint.notices());
    let model = BoundModel::of_with(checkpoint, keys.unknown_keys()).map_err(with_key_hint)?;
    output::notes(model.notices());
    Ok(model)
}

/// An error in a configuration, with what lets it pass.
pub(crate) fn with_key_hint(error: RuntimeError) -> anyhow::Error {
    match &error {
        RuntimeError::Config { flaw, .. } if matches!(**flaw, ArchError::UnknownKeys { .. }) => {
            UserError(format!(
                "{error}; --allow-unknown-config passes over such keys"
            ))
            .into()
        }
        _ => error.into(),
    }
}
