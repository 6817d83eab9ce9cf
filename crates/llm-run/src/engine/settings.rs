//! Settings of a generation.

use std::time::Duration;

use anyhow::Result;
use llm_runtime::{Beams, Rules, Sampling};

use crate::failure::refuse;

/// Settings of a generation: all but the prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) sampling: Sampling,
    /// Rules without the greatest length, which depends on the prompt.
    pub(crate) rules: Rules,
    /// Beam search: continuations that are kept side by side, where there is more than one.
    pub(crate) beams: Option<Beams>,
    pub(crate) seed: u64,
    /// Length as asked for; the context may end sooner.
    pub(crate) length: Length,
    pub(crate) max_time: Option<Duration>,
    pub(crate) stop: Vec<String>,
    /// First token of the decoder of a model with an encoder.
    pub(crate) start_token: Option<u32>,
}

/// Length of an answer at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Length {
    /// Tokens to generate.
    New(usize),
    /// Tokens of the decoder, its prompt included.
    Total {
        n_tokens: usize,
        /// File that limits it.
        file: String,
    },
}

impl Settings {
    /// True where choices are random.
    pub(crate) fn draws(&self) -> bool {
        self.sampling.temperature > 0.0
    }

    /// Sequences that an answer takes.
    pub(crate) fn n_sequences(&self) -> usize {
        self.beams.map_or(1, |beams| beams.n_beams)
    }

    /// First tokens of the decoder: its start token, or the prompt.
    pub(crate) fn begin<'a>(&'a self, prompt: &'a [u32]) -> &'a [u32] {
        match &self.start_token {
            Some(start_token) => std::slice::from_ref(start_token),
            None => prompt,
        }
    }

    /// Tokens to generate at most after `n_begin` of the decoder's.
    ///
    /// # Errors
    /// When there is no room for one.
    pub(crate) fn max_new_tokens(&self, n_begin: usize) -> Result<usize> {
        match &self.length {
            Length::New(n_tokens) => Ok(*n_tokens),
            Length::Total { n_tokens, file } => match n_tokens.checked_sub(n_begin) {
                Some(n_left) if n_left > 0 => Ok(n_left),
                Some(_) | None => {
                    let problem = format!(
                        "`max_length` is {n_tokens}, and the prompt has {n_begin} tokens already; give --max-new-tokens"
                    );
                    refuse(format!("{file}: {problem}"))
                }
            },
        }
    }
}
