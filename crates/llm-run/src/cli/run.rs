//! Flags of the commands that run a model: `llm-run generate`, `chat` and `score`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::Value;

use super::load::LoadArgs;
use super::sampling::SamplingArgs;
use super::values::{above_zero, token_id};
use crate::speculate::Speculate;

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
    /// Tokens to guess after each one, by what followed on the same words before, and to check in the same pass: off, a number from
    /// 1 to 10, or auto
    ///
    /// The answer is the same, and where prompt and answer repeat themselves it takes fewer passes. auto guesses where each pass
    /// reads weights from disk and costs about the same for many tokens as for one, and as many as prove right; nothing where
    /// weights are in memory, experts are on disk, GPUs compute or weights are in LLM.int8(), for which a number may change the
    /// choice between two tokens that are about as probable.
    #[arg(long, value_name = "off|auto|N", default_value = "off", allow_negative_numbers = true, conflicts_with = "prompts", value_parser = Speculate::parse)]
    pub(crate) speculate: Speculate,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// A variable of a chat template.
#[derive(Debug, Clone)]
pub(crate) struct TemplateArg {
    pub(crate) name: String,
    pub(crate) value: Value,
}

impl FromStr for TemplateArg {
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
    /// Tokens to guess after each one and to check in the same pass: off, a number from 1 to 10, or auto, as `generate --help` has it
    #[arg(long, value_name = "off|auto|N", default_value = "off", allow_negative_numbers = true, value_parser = Speculate::parse)]
    pub(crate) speculate: Speculate,
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
