//! Flags of quantization.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};
use llm_quant::{BlockSize, Code, LoadIn, QuantConfig};
use llm_tensor::DType;
use serde_json::{Map, Value};

use super::values::float_dtype;
use crate::failure::{UserError, refuse};

/// Quantization of weights while they are loaded. The head, tables, norms and biases are not.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub(crate) struct QuantArgs {
    /// Quantize to 8 bits, LLM.int8()
    #[arg(long, conflicts_with_all = ["load_in_4bit", "quant_config"])]
    pub(crate) load_in_8bit: bool,
    /// Quantize to 4 bits, NF4 or FP4
    #[arg(long, conflicts_with = "quant_config")]
    pub(crate) load_in_4bit: bool,
    /// The values of 4-bit codes [default: nf4]
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        requires = "load_in_4bit",
        conflicts_with = "load_in_8bit"
    )]
    pub(crate) quant_type: Option<QuantType>,
    /// Quantize the scales of 4-bit blocks too, which saves 0.05 bytes a parameter
    #[arg(long, requires = "load_in_4bit", conflicts_with = "load_in_8bit")]
    pub(crate) double_quant: bool,
    /// Elements that share a scale: a power of two from 32 to 4096 [default: 64]
    #[arg(long, value_name = "N", requires = "load_in_4bit", conflicts_with = "load_in_8bit", value_parser = block_size)]
    pub(crate) blocksize: Option<BlockSize>,
    /// From which magnitude on an activation is multiplied in full precision; 0 for never [default: 6]
    #[arg(long, value_name = "X", requires = "load_in_8bit", conflicts_with = "load_in_4bit", allow_negative_numbers = true, value_parser = threshold)]
    pub(crate) threshold: Option<f32>,
    /// Keep unquantized, in 32 bits, what the CPU computes with, as bitsandbytes' flag of this name does: all that no GPU
    /// holds. Without it those weights are quantized like the others, and take a quarter or an eighth of that
    #[arg(long)]
    pub(crate) llm_int8_enable_fp32_cpu_offload: bool,
    /// Modules not to quantize, instead of the head: names, beginnings of names up to a dot, or ends of names
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) skip_modules: Option<Vec<String>>,
    /// A JSON file with these settings, as transformers writes them, or a config.json that has them
    #[arg(long, value_name = "FILE")]
    pub(crate) quant_config: Option<PathBuf>,
}

/// What a configuration of 4-bit weights says about their products.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization")]
pub(crate) struct RecordedComputeArgs {
    /// The type in which 4-bit weights are to be multiplied, for config.json
    #[arg(long, value_name = "DTYPE", requires = "load_in_4bit", conflicts_with = "load_in_8bit", value_parser = float_dtype)]
    pub(crate) compute_dtype: Option<DType>,
}

impl RecordedComputeArgs {
    pub(crate) fn record(&self, config: &mut QuantConfig) {
        if let Some(dtype) = self.compute_dtype {
            config.bnb_4bit_compute_dtype = dtype;
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantType {
    Nf4,
    Fp4,
}

impl QuantArgs {
    /// The quantization asked for, if any is.
    pub(crate) fn config(&self) -> Result<Option<QuantConfig>> {
        let mut config = match (&self.quant_config, self.load_in_8bit, self.load_in_4bit) {
            (Some(path), ..) => read_config(path)?,
            (None, true, _) => QuantConfig::new(LoadIn::EightBit),
            (None, _, true) => QuantConfig {
                bnb_4bit_quant_type: Code::Nf4,
                ..QuantConfig::new(LoadIn::FourBit)
            },
            (None, false, false) => {
                let alone = [
                    ("--skip-modules", self.skip_modules.is_some()),
                    (
                        "--llm-int8-enable-fp32-cpu-offload",
                        self.llm_int8_enable_fp32_cpu_offload,
                    ),
                ];
                return match alone.into_iter().find(|(_, is_given)| *is_given) {
                    Some((flag, _)) => refuse(format!(
                        "{flag}: nothing is quantized without --load-in-8bit, --load-in-4bit or --quant-config"
                    )),
                    None => Ok(None),
                };
            }
        };
        config.llm_int8_enable_fp32_cpu_offload |= self.llm_int8_enable_fp32_cpu_offload;
        if let Some(quant_type) = self.quant_type {
            config.bnb_4bit_quant_type = match quant_type {
                QuantType::Nf4 => Code::Nf4,
                QuantType::Fp4 => Code::Fp4,
            };
        }
        config.bnb_4bit_use_double_quant |= self.double_quant;
        if let Some(block_size) = self.blocksize {
            config.block_size = block_size;
        }
        if let Some(threshold) = self.threshold {
            config.llm_int8_threshold = threshold;
        }
        if let Some(modules) = &self.skip_modules {
            QuantConfig::check_skip_modules(modules)
                .map_err(|error| UserError(error.to_string()))?;
            config.llm_int8_skip_modules = Some(modules.clone());
        }
        Ok(Some(config))
    }
}

/// The configuration in a file: the file's object, or the one that it has under `quantization_config`.
fn read_config(path: &Path) -> Result<QuantConfig> {
    let flawed = |flaw: &dyn std::fmt::Display| UserError(format!("{}: {flaw}", path.display()));
    let text = std::fs::read(path).map_err(|error| flawed(&error))?;
    let mut object: Map<String, Value> =
        llm_json::parse_as(&text).map_err(|error| flawed(&error))?;
    if let Some(Value::Object(inner)) = object.get_mut("quantization_config") {
        object = std::mem::take(inner);
    }
    let config = QuantConfig::from_json(&object).map_err(|error| flawed(&error))?;
    let nothing = || flawed(&"it asks for neither `load_in_8bit` nor `load_in_4bit`");
    Ok(config.ok_or_else(nothing)?)
}

fn block_size(text: &str) -> Result<BlockSize, String> {
    let size = text.parse().ok().and_then(BlockSize::new);
    size.ok_or_else(|| "expected a power of two from 32 to 4096".to_owned())
}

fn threshold(text: &str) -> Result<f32, String> {
    let threshold = text.parse().ok();
    threshold
        .filter(|x: &f32| x.is_finite() && *x >= 0.0)
        .ok_or_else(|| "expected a number of at least 0".to_owned())
}
