use std::path::PathBuf;

use llm_arch::ArchError;
use llm_backend::BackendError;
use llm_checkpoint::CheckpointError;
use llm_tensor::DType;

use crate::Misfit;

/// What can go wrong between a model's files and its tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The checkpoint cannot be opened or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A configuration that cannot be read.
    #[error("cannot read {path}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        source: std::io::Error,
    },
    /// A configuration that is no JSON object.
    #[error("{path} is not a JSON object: {reason}")]
    ConfigSyntax {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A configuration that does not describe a model that we know.
    #[error("{path}: {flaw}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        flaw: ArchError,
    },
    /// The checkpoint does not hold the tensors that the configuration asks for.
    #[error(transparent)]
    Misfit(#[from] Box<Misfit>),
    /// A weight element type that nothing computes with.
    #[error("weights cannot be kept as {dtype}; choose f32, f16 or bf16")]
    WeightDType {
        /// The element type asked for.
        dtype: DType,
    },
    /// A device refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Nothing to feed.
    #[error("the prompt is empty: there is no token to continue from")]
    EmptyPrompt,
    /// A token id that the model does not know.
    #[error("token id {id} is out of range: the model's vocabulary has {vocab} entries")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// Entries.
        vocab: usize,
    },
    /// More tokens than the context holds.
    #[error("{n_tokens} tokens do not fit the context of {context}{hint}", hint = context_hint(*context, *model_context))]
    ContextFull {
        /// Positions that are taken and asked for, together.
        n_tokens: usize,
        /// Positions of the session.
        context: usize,
        /// Positions the model was made for.
        model_context: usize,
    },
    /// The caller's interrupt was raised.
    #[error("interrupted")]
    Interrupted,
    /// Logits that are no numbers.
    #[error(
        "the model's logits are not finite numbers; its weights may have overflowed {dtype}: try --dtype f32"
    )]
    NotFinite {
        /// The element type of the weights.
        dtype: DType,
    },
}

impl RuntimeError {
    /// Whether the input is at fault (a file, a prompt, an option) rather than the machine.
    pub fn is_users(&self) -> bool {
        match self {
            RuntimeError::Backend(_)
            | RuntimeError::Interrupted
            | RuntimeError::NotFinite { .. } => false,
            RuntimeError::Checkpoint(_)
            | RuntimeError::ReadConfig { .. }
            | RuntimeError::ConfigSyntax { .. }
            | RuntimeError::Config { .. }
            | RuntimeError::Misfit(_)
            | RuntimeError::WeightDType { .. }
            | RuntimeError::EmptyPrompt
            | RuntimeError::IdOutOfRange { .. }
            | RuntimeError::ContextFull { .. } => true,
        }
    }
}

fn context_hint(context: usize, model_context: usize) -> String {
    if context < model_context {
        format!(" that was asked for; the model has up to {model_context}")
    } else {
        " that the model has".to_owned()
    }
}
