//! Flags of the commands about models of a hub: `llm-run pull`, `list` and `remove`.

use clap::Args;
use llm_hub::RepoName;

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// A model's name, org/name@revision:file; the last two may be left out, and a GGUF's quantization, such as Q4_K_M, stand for its file
    #[arg(value_name = "NAME")]
    pub(crate) model: RepoName,
    /// Print one JSON object instead of the path
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// A model's name, org/name
    #[arg(value_name = "NAME")]
    pub(crate) model: RepoName,
}
