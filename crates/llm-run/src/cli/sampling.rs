//! Flags of sampling.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use llm_runtime::EarlyStopping;

use super::values::{above_zero, not_empty, token_id};
use crate::generation_config::bounds::{
    ANY, AT_LEAST_ZERO, Bounds, MOST_BEAMS, POSITIVE, SHARE, SHARE_OR_ZERO,
};

/// How tokens are chosen. What is not given comes from the model's generation_config.json; without one, and without
/// any of these, the most probable token is taken.
#[derive(Debug, Default, Args)]
pub(crate) struct SamplingArgs {
    /// Always take the most probable token
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "seed"])]
    pub(crate) greedy: bool,
    /// Divides the logits: below 1 surer, above 1 more surprising; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = number(AT_LEAST_ZERO))]
    pub(crate) temperature: Option<f32>,
    /// Choose among the K most probable tokens; 0 for all
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole)]
    pub(crate) top_k: Option<usize>,
    /// Choose among the most probable tokens that together reach probability P
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number(SHARE))]
    pub(crate) top_p: Option<f32>,
    /// Choose among tokens at least P times as probable as the most probable one
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number(SHARE_OR_ZERO))]
    pub(crate) min_p: Option<f32>,
    /// Holds tokens that were seen already against themselves; 1 does not
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = number(POSITIVE))]
    pub(crate) repetition_penalty: Option<f32>,
    /// Taken from the logit of each token that was generated, once; the prompt does not count
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number(ANY))]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken from it as often as it was generated
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number(ANY))]
    pub(crate) frequency_penalty: Option<f32>,
    /// No N tokens come twice in the same order, the prompt's included; 0 for any
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole)]
    pub(crate) no_repeat_ngram_size: Option<usize>,
    /// Added to a token's logit, as 42=-1.5; several with commas, or given several times
    #[arg(long, value_name = "ID=BIAS", value_delimiter = ',', value_parser = logit_bias)]
    pub(crate) logit_bias: Vec<LogitBias>,
    /// Tokens that never come, as 1,2,3
    #[arg(long, value_name = "IDS", value_delimiter = ',', allow_negative_numbers = true, value_parser = token_id)]
    pub(crate) suppress_tokens: Option<Vec<u32>>,
    /// Keep the N most probable continuations side by side, and print the best when all is done
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = beams)]
    pub(crate) num_beams: Option<usize>,
    /// With beams: the power of its length by which a continuation's log-probability is divided; above 0 longer ones win
    /// [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = number(ANY))]
    pub(crate) length_penalty: Option<f32>,
    /// With beams, end when N continuations have ended: at once, or only if no other seems to become better, or never
    /// before that is certain [default: false]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) early_stopping: Option<EarlyStoppingArg>,
    /// Makes random choices repeatable [default: another one each time]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    pub(crate) seed: Option<u64>,
    /// Tokens to generate at most [default: the model's wish, else 256, in a chat 1024]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) max_new_tokens: Option<NonZeroUsize>,
    /// Tokens to generate at least before the model may end the text
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole)]
    pub(crate) min_new_tokens: Option<usize>,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = not_empty)]
    pub(crate) stop: Vec<String>,
    /// Go on after the model's end-of-text token
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

/// Number that is added to a token's logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogitBias {
    pub(crate) id: u32,
    pub(crate) value: f32,
}

/// When a beam search ends, in transformers' words.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum EarlyStoppingArg {
    True,
    False,
    Never,
}

impl From<EarlyStoppingArg> for EarlyStopping {
    fn from(arg: EarlyStoppingArg) -> Self {
        match arg {
            EarlyStoppingArg::True => EarlyStopping::AtOnce,
            EarlyStoppingArg::False => EarlyStopping::Heuristic,
            EarlyStoppingArg::Never => EarlyStopping::Never,
        }
    }
}

/// Parser of numbers within bounds.
fn number(bounds: Bounds) -> impl Fn(&str) -> Result<f32, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|&x| (bounds.holds)(x));
        number.ok_or_else(|| format!("expected {}", bounds.expected))
    }
}

fn whole(text: &str) -> Result<usize, String> {
    text.parse()
        .map_err(|_| "expected a whole number from 0".to_owned())
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

fn beams(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|n| (1..=MOST_BEAMS).contains(n))
        .ok_or_else(|| format!("expected a number from 1 to {MOST_BEAMS}"))
}

fn logit_bias(text: &str) -> Result<LogitBias, String> {
    let expected = || "expected a token id and a number, as 42=-1.5".to_owned();
    let (id, value) = text.split_once('=').ok_or_else(expected)?;
    let id = id.trim().parse().map_err(|_| expected())?;
    let value = number(ANY)(value.trim()).map_err(|_| expected())?;
    Ok(LogitBias { id, value })
}
