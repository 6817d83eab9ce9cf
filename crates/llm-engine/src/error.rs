//! What can go wrong with an answer.

use std::sync::Arc;

use llm_runtime::RuntimeError;
use llm_text::TextError;

/// Errors of an answer, or of the session that makes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// An error of the session, or a prompt that it cannot read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Tokens that make no text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A prompt as long as it and its answer may be together.
    #[error(
        "{file}: `max_length` is {n_tokens}, and the prompt has {n_begin} tokens already; give --max-new-tokens"
    )]
    NoRoom {
        /// File that limits the length.
        file: String,
        /// Tokens of both together.
        n_tokens: usize,
        /// Tokens that are there already.
        n_begin: usize,
    },
    /// A stop string that would end every answer before it begins.
    #[error("a stop string is empty")]
    EmptyStop,
    /// Tokens of which nobody knows what they spell by themselves, or of which none ends an answer.
    #[error(
        "the model's tokens do not tell what they spell, or none of them ends an answer: no grammar holds for them"
    )]
    NoSpelling,
    /// A grammar that cannot be made, or that an answer cannot be held to.
    #[error("{problem}")]
    Grammar {
        /// What is wrong with it.
        problem: String,
    },
    /// A search with more beams than there are sequences.
    #[error("{n_beams} beams take as many sequences, and there are {n_sequences}")]
    TooManyBeams {
        /// Beams that were asked for.
        n_beams: usize,
        /// Sequences of the batch.
        n_sequences: usize,
    },
    /// An error of the session that ended several answers.
    #[error(transparent)]
    OfAll(Arc<EngineError>),
}

impl EngineError {
    /// Outcome of one prompt: an error inside leaves all others as they are.
    ///
    /// # Errors
    /// When the error is of more than this prompt.
    pub fn of_prompt<T>(outcome: Result<T, Self>) -> Result<Result<T, Self>, Self> {
        match outcome {
            Err(error) if !error.is_of_prompt() => Err(error),
            outcome => Ok(outcome),
        }
    }

    fn is_of_prompt(&self) -> bool {
        matches!(
            self,
            EngineError::Runtime(RuntimeError::NotFinite { .. } | RuntimeError::NoTokenLeft)
                | EngineError::Grammar { .. }
        )
    }

    /// The session's error, if it is one.
    pub fn of_runtime(&self) -> Option<&RuntimeError> {
        match self {
            EngineError::Runtime(error) => Some(error),
            EngineError::OfAll(error) => error.of_runtime(),
            EngineError::Text(_)
            | EngineError::NoRoom { .. }
            | EngineError::EmptyStop
            | EngineError::NoSpelling
            | EngineError::Grammar { .. }
            | EngineError::TooManyBeams { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_of_all_prompts_and_a_choice_of_one() {
        let outcome = |error: RuntimeError| EngineError::of_prompt::<()>(Err(error.into()));
        assert!(outcome(RuntimeError::NoTokenLeft).is_ok_and(|of_one| of_one.is_err()));
        assert!(outcome(RuntimeError::Interrupted).is_err());
        assert!(EngineError::of_prompt(Ok(())).is_ok_and(|of_one| of_one.is_ok()));
    }
}
