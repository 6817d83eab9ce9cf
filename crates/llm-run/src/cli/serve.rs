//! Flags of `llm-run serve`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::load::LoadArgs;
use super::values::{above_zero, not_empty};

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// A model's folder, a .safetensors or .gguf file, or `demo`
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Address to listen at; other than this machine's own it needs --api-key-file
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1", value_parser = not_empty)]
    pub(crate) host: String,
    /// Port to listen at; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,
    /// A file with the key that clients have to give
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Answer whoever reaches the server, without a key
    #[arg(long, conflicts_with = "api_key_file")]
    pub(crate) allow_anyone: bool,
    /// The model's name for clients [default: that of its folder or file]
    #[arg(long, value_name = "NAME", value_parser = not_empty)]
    pub(crate) name: Option<String>,
    /// Answers at a time, each with a KV cache of its own [default: 8]
    #[arg(long, value_name = "N", value_parser = above_zero)]
    pub(crate) batch: Option<NonZeroUsize>,
    /// Requests that wait beside them; the next one is told to come again
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) queue: u16,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}
