//! Settings of a generation.

use std::time::Duration;

use llm_runtime::{Beams, Rules, Sampling};

use crate::grammar::Constraint;
use crate::{EngineError, Result};

/// Settings of a generation: all but the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Drawing of each token.
    pub sampling: Sampling,
    /// Rules without the greatest length, which depends on the prompt.
    pub rules: Rules,
    /// Beam search: continuations that are kept side by side, where there is more than one.
    pub beams: Option<Beams>,
    /// Seed of what is random.
    pub seed: u64,
    /// Length as asked for; the context may end sooner.
    pub length: Length,
    /// Time after which the answer ends.
    pub max_time: Option<Duration>,
    /// Strings that end the answer before them.
    pub stop: Vec<String>,
    /// Log-probabilities that each token of a [`Batch`](crate::Batch) comes with: its own, and those of so many of the most
    /// probable tokens.
    pub logprobs: Option<usize>,
    /// Grammar that the answer is held to.
    pub constraint: Option<Constraint>,
    /// First token of the decoder of a model with an encoder.
    pub start_token: Option<u32>,
}

/// Length of an answer at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Length {
    /// Tokens to generate.
    New(usize),
    /// Tokens of the decoder, its prompt included.
    Total {
        /// Those of prompt and answer.
        n_tokens: usize,
        /// File that limits it.
        file: String,
    },
}

impl Settings {
    /// True where choices are random.
    pub fn draws(&self) -> bool {
        self.sampling.temperature > 0.0
    }

    /// Sequences that an answer takes.
    pub fn n_sequences(&self) -> usize {
        self.beams.map_or(1, |beams| beams.n_beams)
    }

    /// First tokens of the decoder: its start token, or the prompt.
    pub fn begin<'a>(&'a self, prompt: &'a [u32]) -> &'a [u32] {
        match &self.start_token {
            Some(start_token) => std::slice::from_ref(start_token),
            None => prompt,
        }
    }

    /// Tokens to generate at most after `n_begin` of the decoder's.
    ///
    /// # Errors
    /// When there is no room for one.
    pub fn max_new_tokens(&self, n_begin: usize) -> Result<usize> {
        match &self.length {
            Length::New(n_tokens) => Ok(*n_tokens),
            Length::Total { n_tokens, file } => match n_tokens.checked_sub(n_begin) {
                Some(n_left) if n_left > 0 => Ok(n_left),
                Some(_) | None => Err(EngineError::NoRoom {
                    file: file.clone(),
                    n_tokens: *n_tokens,
                    n_begin,
                }),
            },
        }
    }
}
