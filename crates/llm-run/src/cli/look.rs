//! Flags of the commands that look at a model without running it: `llm-run plan`, `inspect` and `verify`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use llm_plan::WeightDType;

use super::load::{KeyArgs, LoadArgs};
use super::quant::{QuantArgs, RecordedComputeArgs};
use super::values::{above_zero, weight_dtype};
use crate::hub_model::HubModel;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A model's folder, which may hold nothing but a config.json, a .safetensors or .gguf file, `demo`, or a name on a hub,
    /// org/name, of which only headers are fetched
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// The model that was named as on a hub
    #[arg(skip)]
    pub(crate) hub: Option<HubModel>,
    /// Sequences that are worked on at a time
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) batch: NonZeroUsize,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// List each unit, and what each memory holds for what
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Draw what memories would hold
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A folder, a checkpoint's file, `demo`, or a name on a hub, org/name, of which only headers are fetched
    #[arg(value_name = "MODEL", required_unless_present = "formats")]
    pub(crate) model: Option<PathBuf>,
    /// The model that was named as on a hub
    #[arg(skip)]
    pub(crate) hub: Option<HubModel>,
    /// List every format of weights, and what becomes of it: computed with as stored, decoded, or refused
    #[arg(long, conflicts_with_all = ["model", "dtype"])]
    pub(crate) formats: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Show the tensors as loading keeps them: auto, f32, f16 or bf16; quantizations likewise
    #[arg(long, value_name = "DTYPE", value_parser = weight_dtype)]
    pub(crate) dtype: Option<WeightDType>,
    #[command(flatten)]
    pub(crate) quant: QuantArgs,
    #[command(flatten)]
    pub(crate) compute: RecordedComputeArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A folder, or a checkpoint's file
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Write the sums of the tensors, BLAKE3, to llm-run.manifest.json beside the weights. They stay valid when the
    /// checkpoint is cut into other shards
    #[arg(long)]
    pub(crate) write_manifest: bool,
    /// Look for elements that are no finite numbers, NaN and infinities, in every floating-point tensor
    #[arg(long)]
    pub(crate) nan: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub(crate) json: bool,
}
