use std::fmt;
use std::path::PathBuf;

use llm_checkpoint::TensorInfo;
use llm_tensor::Bytes;

/// Something that was decided about a model and that whoever uses it should know. It prints as one line.
///
/// Notices about files alone are in [`Checkpoint::notices`](llm_checkpoint::Checkpoint::notices).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A key of a configuration whose wish is not fulfilled, and need not be.
    NotApplied {
        /// The file.
        path: PathBuf,
        /// The key with its value.
        key: String,
        /// Behaviour instead.
        instead: &'static str,
    },
    /// Reading of the configuration: keys that were passed over, parts of the model that are left out.
    Configuration(String),
    /// The configuration ties the head to the table of tokens, and the checkpoint has another one, which is used.
    OwnHead {
        /// The head's matrix.
        head: String,
        /// The table.
        table: String,
    },
    /// The table of tokens is stored as the head that is tied to it.
    TableAsHead {
        /// The head's matrix.
        head: String,
        /// The table.
        table: String,
    },
    /// There is no head, and the table of tokens makes the logits, though the configuration does not tie them.
    TableForHead {
        /// The head's matrix.
        head: String,
        /// The table.
        table: String,
    },
    /// Tensors that belong to no part of the model.
    LeftOut(Unused),
    /// Tensors of layers that do compute, which the configuration has no use for.
    LeftOutOfLayers(Unused),
}

/// Tensors that are not used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unused {
    /// Number of them.
    pub n: usize,
    /// Bytes that they take in the checkpoint.
    pub bytes: Bytes,
    /// The first few, sorted by name.
    pub names: Vec<String>,
}

impl Unused {
    pub(crate) fn add(&mut self, tensor: &TensorInfo) {
        self.n += 1;
        self.bytes += tensor.stored_bytes();
        if self.names.len() < SHOWN {
            self.names.push(tensor.name.clone());
        }
    }
}

/// `2 tensors (132 B)`, and which.
impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unused { n, bytes, names } = self;
        let plural = if *n == 1 { "" } else { "s" };
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        write!(f, "{n} tensor{plural} ({bytes}): {}", names.join(", "))?;
        match n - names.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::NotApplied { path, key, instead } => {
                write!(f, "{}: `{key}` is not applied: {instead}", path.display())
            }
            Notice::Configuration(text) => f.write_str(text),
            Notice::OwnHead { head, table } => write!(
                f,
                "the configuration ties `{head}` to `{table}`, and the checkpoint has both, which differ: the stored head is used"
            ),
            Notice::TableAsHead { head, table } => write!(
                f,
                "of `{table}` and `{head}`, which are tied, only the latter is stored: it is used for both"
            ),
            Notice::TableForHead { head, table } => write!(
                f,
                "there is no `{head}`: `{table}` makes the logits, as the reference has it for this family"
            ),
            Notice::LeftOut(unused) => {
                write!(f, "left out, since the model has no use for them: {unused}")
            }
            Notice::LeftOutOfLayers(unused) => write!(
                f,
                "left out, as the reference does, although they lie in layers that compute: {unused}; if the model was trained with them, its configuration is wrong and so are its answers"
            ),
        }
    }
}

/// Tensors that a line lists.
const SHOWN: usize = 4;
