//! Flags of the commands about this machine: `llm-run cache` and `llm-run doctor`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values::not_empty;

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List whose weights are kept, and how
    List(CacheListArgs),
    /// Read every file whole and compare its bytes with the sum in its name
    Verify(CacheVerifyArgs),
    /// Remove what is kept; a run that needs it writes it anew
    Clear(CacheClearArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CacheFolderArgs {
    /// The folder of the weights [default: offload in the user's cache folder for llm-run]
    #[arg(long, value_name = "DIR")]
    pub(crate) offload_folder: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheListArgs {
    #[command(flatten)]
    pub(crate) folder: CacheFolderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CacheVerifyArgs {
    /// An entry, by its key or the beginning of it [default: all]
    #[arg(value_name = "KEY", value_parser = not_empty)]
    pub(crate) keys: Vec<String>,
    #[command(flatten)]
    pub(crate) folder: CacheFolderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CacheClearArgs {
    /// An entry, by its key or the beginning of it
    #[arg(value_name = "KEY", value_parser = not_empty)]
    pub(crate) keys: Vec<String>,
    /// Entries whose checkpoints have been changed, moved or removed
    #[arg(long, conflicts_with = "keys")]
    pub(crate) stale: bool,
    /// All entries
    #[arg(long, conflicts_with_all = ["keys", "stale"])]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) folder: CacheFolderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The folder whose disk to measure, with a temporary file of up to 1 GiB [default: the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) offload_folder: Option<PathBuf>,
    /// Measure less, in a second and less precisely
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Take of a GPU what every process takes, until the input ends: for the process that measures it
    #[arg(long, value_name = "N", hide = true)]
    pub(crate) hold_gpu: Option<u32>,
}
