//! The command line.

mod sampling;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use llm_arch::UnknownKeys;
use llm_cpu::Isa;
use llm_plan::WeightDType;
use llm_tensor::{Bytes, DType};

pub(crate) use self::sampling::SamplingArgs;
use crate::plan::PlaceArgs;
use crate::quant::{QuantArgs, float_dtype};

/// Load and run language models.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// The command line that was typed. What is wrong with it is said here, and ends the process with exit code 2.
    pub(crate) fn of_arguments() -> Self {
        Cli::try_parse().unwrap_or_else(|mut error| {
            if let Some(tip) = tip(&error) {
                let tip = ContextValue::StyledStrs(vec![tip.into()]);
                error.insert(ContextKind::Suggested, tip);
            }
            error.exit()
        })
    }
}

/// What beginners mean by what is no command line.
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
            let is_flag = word.starts_with('-');
            (!is_flag).then(|| "a text of several words is written in quotes".to_owned())
        }
        _ => None,
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt; without arguments, tell a story with the bundled demonstration model
    #[command(alias = "run")]
    Generate(GenerateArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Print how probable a model finds a text
    Score(ScoreArgs),
    /// Say where a model would go and what it would take, or why it does not fit and what would do
    ///
    /// Nothing but headers is read. Budgets beyond what this machine has make a hypothetical plan. The first line
    /// recommends: the most exact precision that makes 10 tokens/s in the fastest memory, or at least half as many as the fastest. A checkpoint
    /// that cannot be run is planned by the sizes of its tensors. The exit code is 0 where the model fits and 2 where it
    /// does not.
    Plan(PlanArgs),
    /// List what is in a checkpoint: tensors, sizes, metadata
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
    Shard(ShardArgs),
    /// Write a checkpoint in 8 or 4 bits, as bitsandbytes does and transformers loads
    ///
    /// Matrices are quantized, but for the head; tables, norms and biases stay as they are. Configuration, tokenizer
    /// and chat template are copied, and the configuration says how the weights are quantized. The new files take
    /// their places when all are complete on disk.
    Quantize(QuantizeArgs),
    /// Check a checkpoint: its headers, and its bytes where there are sums of them
    ///
    /// Zip files of PyTorch's have a CRC-32 of every storage; --write-manifest makes sums for all formats. The exit code is
    /// 2 where something is not as it should be.
    Verify(VerifyArgs),
    /// Look after weights that were encoded for streaming and are kept in the offload folder
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Say what this machine has for a model, and measure how fast its memory and disk are read
    ///
    /// That takes some seconds; other programs that run meanwhile slow it down. What is measured is kept in the
    /// user's cache folder, and plans count with it.
    Doctor(DoctorArgs),
}

/// How a model is loaded.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Element type of KV cache, and of weights that are not quantized: auto (the configuration's, else the tensors'), f32, f16 or bf16
    #[arg(long, value_name = "DTYPE", default_value = "auto", value_parser = weight_dtype)]
    pub(crate) dtype: WeightDType,
    /// Threads that compute [default: one for each processor that may be used]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Positions to keep, prompt and answer together [default: what the model and the request need; for a plan, 4096]
    #[arg(short, long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) context: Option<NonZeroUsize>,
    /// Check the checkpoint's bytes before it is loaded, as `llm-run verify` does, which reads all of them
    #[arg(long)]
    pub(crate) verify: bool,
    /// The instruction set to compute with [default: the best that the machine has]
    #[arg(long, value_name = "ISA", hide = true)]
    pub(crate) isa: Option<Isa>,
    #[command(flatten)]
    pub(crate) quant: QuantArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// How a model's configuration is read.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct KeyArgs {
    /// Pass over keys of config.json that nothing is known of, and list them; the model may then compute otherwise
    /// than it was meant to
    #[arg(long)]
    pub(crate) allow_unknown_config: bool,
}

impl KeyArgs {
    pub(crate) fn unknown_keys(self) -> UnknownKeys {
        match self.allow_unknown_config {
            true => UnknownKeys::PassOver,
            false => UnknownKeys::Refuse,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// A model's folder, a .safetensors or .gguf file, or `demo`
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// The text to continue; `-` reads standard input
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt_file", "token_ids"])]
    pub(crate) prompt: Option<String>,
    /// The text to continue, where no MODEL stands before it; `-` reads standard input
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["prompt", "prompt_file", "token_ids"])]
    pub(crate) prompt_text: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", conflicts_with = "token_ids")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Token ids to continue, as 1,2,3; no tokenizer is needed
    #[arg(
        long,
        value_name = "IDS",
        value_delimiter = ',',
        conflicts_with = "chat", allow_negative_numbers = true, value_parser = token_id)]
    pub(crate) token_ids: Option<Vec<u32>>,
    /// Read prompts from a file of JSON lines, `-` being standard input, and print a JSON line for each as it ends
    ///
    /// A line is a text, or an object with one of `prompt`, a text, `token_ids`, and `messages`, which are objects with
    /// `role` and `content`, and whatever else the model's chat template reads (`tool_calls`, `reasoning_content`), with
    /// `tools`, `documents` and `chat_template_kwargs` beside them; and, if wanted, with `id`, any value that the result
    /// repeats, and `max_new_tokens`. --chat and --system apply to texts. From a pipe or a terminal each line is answered
    /// as it comes.
    ///
    /// A result has the number of its `line`, its `id`, `n_prompt_tokens`, `generated_ids`, `text` and `end`: eos,
    /// stop, length, context or time. Where choices are random it also has the `seed` that repeats them for the prompt
    /// alone; it follows from --seed and the prompt's place among the others. A line that cannot be read, or whose prompt
    /// is empty, too long or refused by the template, has an `error` instead; the others go on, and the exit code is 2.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_text", "prompt_file", "token_ids", "json"])]
    pub(crate) prompts: Option<PathBuf>,
    /// Prompts to work on at a time [default: 8]
    ///
    /// Each pass over the weights serves all of them, but for an encoder's, which reads one prompt after the other. Each
    /// has a KV cache of its own, as long as the longest prompt and its answer, or 2048 where prompts are still to come,
    /// unless --context says otherwise. With --num-beams prompts follow one after the other.
    #[arg(long, value_name = "N", value_parser = above_zero, requires = "prompts", conflicts_with_all = ["prompt", "prompt_text", "prompt_file", "token_ids", "json"])]
    pub(crate) batch: Option<NonZeroUsize>,
    /// Treat the prompt as a message and apply the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// Instructions that the conversation is held under
    #[arg(
        long,
        value_name = "TEXT",
        requires = "chat",
        conflicts_with = "token_ids"
    )]
    pub(crate) system: Option<String>,
    /// Tools that the model may call: a JSON file with a list of their schemas, for the chat template
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// A variable of the chat template and its value as JSON, such as enable_thinking=false; may be repeated
    #[arg(long, value_name = "NAME=JSON")]
    pub(crate) template_arg: Vec<TemplateArg>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what was planned beside what was used, to standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// A variable of a chat template.
#[derive(Debug, Clone)]
pub(crate) struct TemplateArg {
    pub(crate) name: String,
    pub(crate) value: serde_json::Value,
}

impl std::str::FromStr for TemplateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected NAME=JSON, such as enable_thinking=false or effort='\"high\"'";
        let (name, value) = text.split_once('=').ok_or(expected)?;
        let value = serde_json::from_str(value).map_err(|error| format!("{expected}: {error}"))?;
        Ok(TemplateArg {
            name: name.to_owned(),
            value,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// A model's folder, a .safetensors or .gguf file
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Instructions that the conversation is held under
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Print what was planned beside what was used, to standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// A model's folder, a .safetensors or .gguf file, or `demo`
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Token ids to score, as 1,2,3
    #[arg(
        long,
        value_name = "IDS",
        value_delimiter = ',',
        conflicts_with = "text", allow_negative_numbers = true, value_parser = token_id)]
    pub(crate) token_ids: Option<Vec<u32>>,
    /// A file whose text to score; `-` reads standard input. A text longer than the context is cut into windows
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
    /// For encoder-decoder models: the decoder's ids, the others being the encoder's
    #[arg(long, value_name = "IDS", value_delimiter = ',', allow_negative_numbers = true, value_parser = token_id)]
    pub(crate) decoder_token_ids: Option<Vec<u32>>,
    /// Write the logits after each token as a safetensors tensor `logits`, f32 [tokens, vocab]
    #[arg(long, value_name = "OUT")]
    pub(crate) logits: Option<PathBuf>,
    /// Print one JSON object instead of a summary
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what was planned beside what was used, to standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A model's folder, which may hold nothing but a config.json, a .safetensors or .gguf file, or `demo`
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
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
    /// A folder, a checkpoint's file, or `demo`
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Show the tensors as loading keeps them: auto, f32, f16 or bf16; quantizations likewise
    #[arg(long, value_name = "DTYPE", value_parser = weight_dtype)]
    pub(crate) dtype: Option<WeightDType>,
    #[command(flatten)]
    pub(crate) quant: QuantArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

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
    /// Element type of what is not quantized: auto (the configuration's, else the tensors'), f32, f16 or bf16
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
    pub(crate) keys: KeyArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OutputFormat {
    Safetensors,
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
}

fn weight_dtype(text: &str) -> Result<WeightDType, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(WeightDType::Auto);
    }
    match text.parse::<DType>() {
        Ok(dtype) if dtype.is_weight() => Ok(WeightDType::As(dtype)),
        _ => Err("expected auto, f32, f16 or bf16".to_owned()),
    }
}

fn shard_size(text: &str) -> Result<Bytes, String> {
    let size = text.parse::<Bytes>().map_err(|error| error.to_string())?;
    if size == Bytes::ZERO {
        return Err("expected a size above 0".to_owned());
    }
    Ok(size)
}

fn above_zero(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "expected a whole number above 0".to_owned())
}

fn token_id(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "expected token ids, as 1,2,3".to_owned())
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("expected a text".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
