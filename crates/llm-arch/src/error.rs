use std::fmt;

/// Errors of a model's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchError {
    /// A family that has no file here.
    #[error("unknown model family `{found}`; known are {known}")]
    UnknownFamily {
        /// The configuration's `model_type` or `general.architecture`.
        found: String,
        /// The families that we know.
        known: String,
    },
    /// The configuration lacks a key that has no default.
    #[error("`{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value that a model of the family cannot have, or that is not understood.
    #[error("`{key}` is {found}, expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// The value as JSON.
        found: String,
        /// Values that are understood.
        expected: String,
    },
    /// Two spellings of a key that contradict each other.
    #[error("`{key}` is {found} and `{other}` is {other_found}, which are spellings of one key")]
    Contradiction {
        /// The spelling that comes first.
        key: String,
        /// Its value as JSON.
        found: String,
        /// The other.
        other: String,
        /// Its value.
        other_found: String,
    },
    /// Keys that nothing here reads and that are not known to be harmless.
    #[error("not understood, and so not safe to ignore: {}", list(keys))]
    UnknownKeys {
        /// The keys with their values.
        keys: Vec<UnknownKey>,
    },
    /// A model of text and something else, whose text half is no model of its own.
    #[error("the text half of a `{model_type}` model is not run by itself: {reason}")]
    TextHalf {
        /// The configuration's `model_type`.
        model_type: String,
        /// Reason.
        reason: &'static str,
    },
    /// A GGUF's model that no `config.json` describes.
    #[error("no config.json describes the model of this GGUF: {reason}")]
    NoConfig {
        /// Reason.
        reason: &'static str,
    },
    /// Extents that are possible each, and together describe no real model.
    #[error(
        "a model of {n_parameters} parameters is larger than any; the configuration's extents cannot all be right"
    )]
    TooLarge {
        /// The sum over all tensors.
        n_parameters: u128,
    },
    /// Layers and experts that are possible each, and together are too many.
    #[error(
        "a model of some {n_tensors} tensors has more layers and experts than any; the configuration cannot be right"
    )]
    TooManyTensors {
        /// About how many.
        n_tensors: u64,
    },
}

/// A configuration's key that nothing is known of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// Its name, with the names of the objects it lies in.
    pub key: String,
    /// Its value as JSON, clipped.
    pub value: String,
    /// A key that may have been meant.
    pub guess: Option<String>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.value)?;
        match &self.guess {
            Some(guess) => write!(f, " (did you mean `{guess}`?)"),
            None => Ok(()),
        }
    }
}

fn list(keys: &[UnknownKey]) -> String {
    let keys: Vec<_> = keys.iter().map(UnknownKey::to_string).collect();
    keys.join(", ")
}
