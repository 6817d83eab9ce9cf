//! Adapters (LoRA): small matrices to be added to those of another model, which are no model by themselves.

use std::path::Path;

use serde::Deserialize;

use crate::error::CheckpointError;
use crate::source::read_small;

/// Config file of an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// Prefix of its weights' names.
pub(crate) const WEIGHTS: &str = "adapter_model.";

/// Error of an adapter's folder where a model was wanted.
pub(crate) fn error(folder: &Path) -> CheckpointError {
    #[derive(Deserialize)]
    struct Config {
        base_model_name_or_path: Option<String>,
    }
    let config = read_small(&folder.join(CONFIG), MAX_CONFIG).ok();
    let config = config.and_then(|json| serde_json::from_slice::<Config>(&json).ok());
    CheckpointError::Adapter {
        folder: folder.to_owned(),
        base: config.and_then(|config| config.base_model_name_or_path),
    }
}

/// Bytes that a description may have.
const MAX_CONFIG: u64 = 1 << 20;
