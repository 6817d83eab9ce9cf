//! Flags of the commands that write a checkpoint: `llm-run shard` and `llm-run quantize`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use llm_plan::WeightDType;
use llm_tensor::{Bytes, DType};

use super::load::KeyArgs;
use super::quant::{QuantArgs, RecordedComputeArgs};
use super::values::{float_dtype, shard_size, weight_dtype};

#[derive(Debug, Args)]
pub(crate) struct ShardArgs {
    /// A model's folder, or a checkpoint's file
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The folder to write
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// What a file's tensors may take together, as 4GB or 4GiB; a single tensor may take more. The default is that
    /// of the transformers library and merges all but the largest models into one file
    #[arg(long, value_name = "SIZE", default_value = "50GB", value_parser = shard_size)]
    pub(crate) max_shard_size: Bytes,
    /// Convert floating-point tensors to f32, f16 or bf16, and say so in config.json; in f16, values beyond 65504
    /// become infinite. Quantized matrices stay as they are [default: as they are; bf16 for GGUF's quantized blocks]
    #[arg(long, value_name = "DTYPE", value_parser = float_dtype)]
    pub(crate) dtype: Option<DType>,
    /// The format to write
    #[arg(long, value_enum, default_value_t = OutputFormat::Safetensors)]
    pub(crate) format: OutputFormat,
    /// Write the model of a GGUF as the hub has it: config.json and tokenizer made of its metadata, and its tensors under the
    /// names and in the order that go with these
    #[arg(long)]
    pub(crate) to_hf: bool,
    /// Replace files in OUT; the shards of an old checkpoint there are deleted
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// A model's folder, a checkpoint's file in one, or a .gguf file
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The folder to write
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Element type of what is not quantized: auto (the configuration's, else the tensors', bf16 for GGUF's blocks), f32, f16
    /// or bf16
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = weight_dtype)]
    pub(crate) dtype: WeightDType,
    /// What a file's tensors may take together, as 4GB or 4GiB; a single tensor may take more
    #[arg(long, value_name = "SIZE", default_value = "50GB", value_parser = shard_size)]
    pub(crate) max_shard_size: Bytes,
    /// Replace files in OUT; the shards of an old checkpoint there are deleted
    #[arg(long)]
    pub(crate) force: bool,
    /// Quantize what transformers cannot load quantized too: experts, and Falcon's matrices. Only llm-run reads it then
    #[arg(long)]
    pub(crate) all_linear: bool,
    #[command(flatten)]
    pub(crate) quant: QuantArgs,
    #[command(flatten)]
    pub(crate) compute: RecordedComputeArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OutputFormat {
    Safetensors,
}
