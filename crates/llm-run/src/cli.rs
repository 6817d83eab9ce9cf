//! The command line.

mod convert;
mod examples;
mod load;
mod look;
mod machine;
mod manual;
mod models;
mod place;
mod quant;
mod run;
mod sampling;
mod serve;
mod values;

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

pub(crate) use self::convert::{QuantizeArgs, ShardArgs};
pub(crate) use self::load::{KeyArgs, LoadArgs};
pub(crate) use self::look::{InspectArgs, PlanArgs, VerifyArgs};
pub(crate) use self::machine::{
    CacheClearArgs, CacheCommand, CacheFolderArgs, CacheListArgs, CacheVerifyArgs, DoctorArgs,
};
pub(crate) use self::manual::{CompletionsArgs, ManArgs};
pub(crate) use self::models::{ListArgs, PullArgs, RemoveArgs};
pub(crate) use self::place::{DeviceArg, PlaceArgs};
pub(crate) use self::run::{ChatArgs, GenerateArgs, ScoreArgs};
pub(crate) use self::sampling::SamplingArgs;
pub(crate) use self::serve::ServeArgs;
pub(crate) use self::values::ComputeDType;

/// Load and run language models.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Arguments of the process. An error in them is printed and ends the process with exit code 2.
    pub(crate) fn of_arguments() -> Self {
        Cli::try_parse().unwrap_or_else(|mut error| {
            if let Some(tip) = tip(&error) {
                // The parser's own guess goes by the letters alone.
                error.remove(ContextKind::SuggestedArg);
                let tip = ContextValue::StyledStrs(vec![tip.into()]);
                error.insert(ContextKind::Suggested, tip);
            }
            error.exit()
        })
    }
}

/// Hint for the usual mistakes of beginners.
fn tip(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let model = text(ContextKind::InvalidSubcommand)?;
            let is_model = Path::new(model).exists() || model.contains('/');
            is_model.then(|| format!("to continue a prompt: llm-run generate {model} \"...\""))
        }
        ErrorKind::UnknownArgument => {
            let word = text(ContextKind::InvalidArg)?;
            if !word.starts_with('-') {
                return Some("a text of several words is written in quotes".to_owned());
            }
            let word = word.split('=').next()?;
            let (_, tip) = FLAGS_ELSEWHERE
                .iter()
                .find(|(flags, _)| flags.contains(&word))?;
            Some((*tip).to_owned())
        }
        _ => None,
    }
}

/// Flags of llama.cpp, vLLM and transformers, and what is written here instead.
const FLAGS_ELSEWHERE: [(&[&str], &str); 7] = [
    (
        &["-m", "--model", "--model-id", "--model-path"],
        "the model is named without a flag: llm-run generate MODEL \"...\"",
    ),
    (
        &[
            "--n-gpu-layers",
            "--gpu-layers",
            "--gpu-memory-utilization",
            "--gpu-memory",
        ],
        "what a GPU holds follows from its memory: --max-memory '0=15GB,cpu=12GB' bounds it",
    ),
    (
        &["--ram", "--memory", "--cpu-memory", "--cpu-offload-gb"],
        "budgets of memory are given together: --max-memory 'cpu=12GB'",
    ),
    (
        &["--ctx-size", "--max-model-len", "--max-length", "--n-ctx"],
        "positions of prompt and generation together: --context TOKENS",
    ),
    (
        &["--n-predict", "--max-tokens"],
        "tokens to generate: --max-new-tokens N",
    ),
    (&["--temp"], "the flag is --temperature T"),
    (
        &[
            "--quantization",
            "--quantize",
            "--load-4bit",
            "--load-8bit",
            "--bits",
        ],
        "weights are quantized by --load-in-4bit or --load-in-8bit",
    ),
];

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt; without arguments, tell a story with the bundled demonstration model
    #[command(alias = "run", after_help = examples::GENERATE)]
    Generate(GenerateArgs),
    /// Talk with a model
    #[command(after_help = examples::CHAT)]
    Chat(ChatArgs),
    /// Answer many clients at a time over HTTP, as OpenAI's API does
    ///
    /// /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /health and /metrics. What a request asks for and cannot
    /// have is refused with a reason. Ctrl-C lets answers come to their ends; a second one does not.
    #[command(after_help = examples::SERVE)]
    Serve(ServeArgs),
    /// Print how probable a model finds a text
    #[command(after_help = examples::SCORE)]
    Score(ScoreArgs),
    /// Say where a model would go and what it would take, or why it does not fit and what would do
    ///
    /// Nothing but headers is read. Budgets beyond what this machine has make a hypothetical plan. The first line
    /// recommends: the most exact precision that makes 10 tokens/s in the fastest memory, or at least half as many as the fastest. A checkpoint
    /// that cannot be run is planned by the sizes of its tensors. The exit code is 0 where the model fits and 2 where it
    /// does not.
    #[command(after_help = examples::PLAN)]
    Plan(PlanArgs),
    /// List what is in a checkpoint: tensors, sizes, metadata
    #[command(after_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// Cut a checkpoint into shards, merge it, or convert it to safetensors
    ///
    /// Any checkpoint that can be read is written as safetensors, and beside it copies of the model's
    /// configuration, tokenizer and chat template. Names and bytes of the tensors stay as they are. Those of a GGUF
    /// file keep their GGUF names, which the Python libraries do not know; quantized blocks become bf16. Names that
    /// share their bytes in a PyTorch file become tensors of their own.
    ///
    /// The new files take their places when all are complete on disk: whatever happens before that, OUT stays as it
    /// is.
    #[command(after_help = examples::SHARD)]
    Shard(ShardArgs),
    /// Write a checkpoint in 8 or 4 bits, as bitsandbytes does and transformers loads
    ///
    /// Matrices are quantized, but for the head; tables, norms and biases stay as they are. Configuration, tokenizer
    /// and chat template are copied, and the configuration says how the weights are quantized. The new files take
    /// their places when all are complete on disk.
    #[command(after_help = examples::QUANTIZE)]
    Quantize(QuantizeArgs),
    /// Check a checkpoint: its headers, and its bytes where there are sums of them
    ///
    /// Zip files of PyTorch's have a CRC-32 of every storage; --write-manifest makes sums for all formats. The exit code is
    /// 2 where something is not as it should be.
    #[command(after_help = examples::VERIFY)]
    Verify(VerifyArgs),
    /// Download what is needed of a model from a hub, and print where it is
    ///
    /// Wherever MODEL is taken it may be a name, and is downloaded first; for `plan` and `inspect` headers are enough. Files
    /// come to the cache that the Python library `huggingface_hub` has, and what that downloaded is found. HF_ENDPOINT,
    /// HF_TOKEN, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean what they mean there. A download that was ended goes on.
    #[command(after_help = examples::PULL)]
    Pull(PullArgs),
    /// List the models that were downloaded from a hub
    List(ListArgs),
    /// Remove a model that was downloaded from a hub
    #[command(after_help = examples::REMOVE)]
    Remove(RemoveArgs),
    /// Look after weights that were encoded for streaming and are kept in the offload folder
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Say what this machine has for a model, and measure how fast its memory and disk are read
    ///
    /// That takes some seconds; other programs that run meanwhile slow it down. What is measured is kept in the
    /// user's cache folder, and plans count with it.
    #[command(after_help = examples::DOCTOR)]
    Doctor(DoctorArgs),
    /// Print what completes commands and flags in a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = examples::MAN)]
    Man(ManArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Words as a shell would have them, up to a pipe.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quote) = (vec![String::new()], None);
        for c in line.chars() {
            match (quote, c) {
                (None, '|' | '>') => break,
                (None, ' ') => words.push(String::new()),
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if open == c => quote = None,
                (_, c) => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_command_has_examples_that_are_understood() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let Some(examples) = command.get_after_help() else {
                // Nothing but `--json`, and commands with their own.
                assert!(["list", "cache"].contains(&name), "{name}");
                continue;
            };
            for line in examples.to_string().lines().skip(1) {
                let words = words(line);
                assert_eq!(words[..2], ["llm-run", name], "{line}");
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{line}: {error}");
                }
            }
        }
    }
}
