//! What a model's own files say about generation, under what the command line says.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use anyhow::{Context, Result};
use llm_runtime::Sampling;
use serde::Deserialize;

use crate::cli::SamplingArgs;
use crate::failure::UserError;

/// `generation_config.json`, as far as it matters here; the same keys of an old `config.json`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    max_new_tokens: Option<usize>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl GenerationConfig {
    /// Of a model's folder: `generation_config.json`, else what `config.json` has of it, else nothing.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self> {
        for name in ["generation_config.json", "config.json"] {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(text) => return Self::parse(&text).with_context(|| path.display().to_string()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(
                        UserError(format!("cannot read {}: {error}", path.display())).into(),
                    );
                }
            }
        }
        Ok(Self::default())
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        llm_json::parse_as(text).map_err(|e| UserError(e.to_string()).into())
    }

    /// The tokens that end a text.
    pub(crate) fn eos_ids(&self) -> &[u32] {
        match &self.eos_token_id {
            None => &[],
            Some(OneOrMany::One(id)) => std::slice::from_ref(id),
            Some(OneOrMany::Many(ids)) => ids,
        }
    }
}

/// How a generation goes: all settled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) sampling: Sampling,
    pub(crate) seed: u64,
    /// As asked for; the context may end sooner.
    pub(crate) max_new_tokens: usize,
    pub(crate) stop: Vec<String>,
    /// Tokens that end the text.
    pub(crate) eos_ids: Vec<u32>,
}

impl Settings {
    /// `eos_ids` are the tokenizer's, for models whose configuration names none.
    pub(crate) fn new(
        args: &SamplingArgs,
        config: &GenerationConfig,
        eos_ids: &[u32],
        max_new_tokens: usize,
    ) -> Settings {
        let asked = [args.top_p, args.min_p].iter().any(Option::is_some) || args.top_k.is_some();
        let samples = match (args.greedy, args.temperature) {
            (true, _) => false,
            (false, Some(temperature)) => temperature > 0.0,
            (false, None) => asked || config.do_sample == Some(true),
        };
        // A file that does not sample may still hold the defaults of its format: they are not its wish.
        let config_samples = config.do_sample == Some(true);
        let of_config =
            |value: Option<f32>, neutral| value.filter(|_| config_samples).unwrap_or(neutral);
        let repetition_penalty = args
            .repetition_penalty
            .or(config.repetition_penalty)
            .unwrap_or(1.0);
        let sampling = Sampling {
            temperature: args
                .temperature
                .unwrap_or_else(|| of_config(config.temperature, 1.0)),
            top_k: args
                .top_k
                .or(config.top_k.filter(|_| config_samples))
                .unwrap_or(0),
            top_p: args.top_p.unwrap_or_else(|| of_config(config.top_p, 1.0)),
            min_p: args.min_p.unwrap_or_else(|| of_config(config.min_p, 0.0)),
            repetition_penalty,
        };
        let eos = if config.eos_ids().is_empty() {
            eos_ids
        } else {
            config.eos_ids()
        };
        Settings {
            sampling: if samples {
                sampling
            } else {
                Sampling {
                    repetition_penalty,
                    ..Sampling::GREEDY
                }
            },
            seed: args.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
            max_new_tokens: args
                .max_new_tokens
                .map(usize::from)
                .or(config.max_new_tokens)
                .unwrap_or(max_new_tokens),
            stop: args.stop.clone(),
            eos_ids: if args.ignore_eos {
                Vec::new()
            } else {
                eos.to_vec()
            },
        }
    }
}
