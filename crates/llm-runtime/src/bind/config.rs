//! What a `config.json` says of a checkpoint.

use std::path::Path;

use llm_arch::{Skeleton, UnknownKeys, from_config_with};
use llm_quant::{QuantConfig, QuantError};
use serde_json::{Map, Value};

use crate::published::Published;
use crate::{Notice, Result, RuntimeError};

/// Model that a `config.json` describes, and the quantization that it says its checkpoint has. `path`
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
    let config = Config::parse(config, path, unknown_keys)?;
    Ok((config.skeleton, config.quantization))
}

/// All that a `config.json` says.
pub(super) struct Config {
    pub(super) skeleton: Skeleton,
    pub(super) quantization: Option<QuantConfig>,
    pub(super) published: Option<Published>,
    pub(super) notices: Vec<Notice>,
}

impl Config {
    /// Reading of a text; `path` is what messages call it.
    ///
    /// # Errors
    /// When it is not understood.
    pub(super) fn parse(config: &[u8], path: &Path, unknown_keys: UnknownKeys) -> Result<Self> {
        let mut config: Map<String, Value> =
            llm_json::parse_as(config).map_err(|e| RuntimeError::ConfigSyntax {
                path: path.to_owned(),
                reason: e.to_string(),
            })?;
        let (quantization, published) = quantization(&mut config, path)?;
        let skeleton =
            from_config_with(&config, unknown_keys).map_err(|flaw| RuntimeError::Config {
                path: path.to_owned(),
                flaw: Box::new(flaw),
            })?;
        let activations = published.as_ref().and_then(Published::activations);
        let notice = activations.map(|key| Notice::NotApplied {
            path: path.to_owned(),
            key: key.to_owned(),
            instead: "activations stay as they are, which is more exact",
        });
        let offload = quantization
            .as_ref()
            .is_some_and(|quant| quant.llm_int8_enable_fp32_cpu_offload);
        let offload = offload.then(|| Notice::NotApplied {
        path: path.to_owned(),
        key: "llm_int8_enable_fp32_cpu_offload: true".to_owned(),
        instead: "what the checkpoint holds quantized stays so on the CPU too, where it takes less",
    });
        Ok(Config {
            skeleton,
            quantization,
            published,
            notices: notice.into_iter().chain(offload).collect(),
        })
    }
}

/// Takes the `quantization_config` out of a configuration, the rest of which describes the model.
fn quantization(
    config: &mut Map<String, Value>,
    path: &Path,
) -> Result<(Option<QuantConfig>, Option<Published>)> {
    let flawed = |flaw| RuntimeError::QuantConfig {
        path: path.to_owned(),
        flaw: Box::new(flaw),
    };
    match config.shift_remove("quantization_config") {
        None | Some(Value::Null) => Ok((None, None)),
        Some(Value::Object(quantization)) => match Published::from_json(&quantization) {
            Ok(None) => {
                let config = QuantConfig::from_json(&quantization).map_err(flawed)?;
                Ok((config, None))
            }
            Ok(published) => Ok((None, published)),
            Err(flaw) => Err(flawed(flaw)),
        },
        Some(other) => Err(flawed(QuantError::BadValue {
            key: "quantization_config".to_owned(),
            found: other.to_string(),
            expected: "an object".to_owned(),
        })),
    }
}
