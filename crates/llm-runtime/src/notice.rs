use std::fmt;
use std::path::PathBuf;

/// Something that was decided about a model and that whoever uses it should know. It prints as one line.
///
/// What concerns only the files is in [`Checkpoint::notices`](llm_checkpoint::Checkpoint::notices).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A key of a configuration whose wish is not fulfilled, and need not be.
    NotApplied {
        /// The file.
        path: PathBuf,
        /// The key with its value.
        key: String,
        /// What happens instead.
        instead: &'static str,
    },
    /// How the configuration was understood: keys that were passed over, parts of the model that are left out.
    Configuration(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::NotApplied { path, key, instead } => {
                write!(f, "{}: `{key}` is not applied: {instead}", path.display())
            }
            Notice::Configuration(text) => f.write_str(text),
        }
    }
}
