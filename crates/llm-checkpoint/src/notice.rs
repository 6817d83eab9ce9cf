use std::fmt;
use std::path::PathBuf;

/// Something about a checkpoint that opens all the same, and that whoever uses it should know. It prints as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A folder holds other weights as well, which may be those of another model.
    PassedOver {
        /// The folder.
        folder: PathBuf,
        /// The file that was opened.
        taken: String,
        /// Those that were not, sorted.
        others: Vec<String>,
        /// Reason for the choice.
        why: &'static str,
    },
    /// Shards were opened by their names, since there is no index.
    NoIndex {
        /// The folder.
        folder: PathBuf,
        /// Number of shards.
        n_shards: usize,
    },
    /// An index does not say where tensors lie. The shards are the truth.
    IndexDisagrees {
        /// The index.
        path: PathBuf,
        /// Tensors that it lists and no shard holds, sorted.
        nowhere: Vec<String>,
        /// Tensors that lie in other shards than it says, sorted.
        elsewhere: Vec<String>,
    },
    /// A folder holds an adapter beside a model.
    Adapter {
        /// Its configuration.
        path: PathBuf,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::PassedOver {
                folder,
                taken,
                others,
                why,
            } => {
                let (folder, others) = (folder.display(), listed(others));
                write!(
                    f,
                    "{folder} holds several checkpoints; {taken} is taken, {why}, and {others} is passed over"
                )
            }
            Notice::NoIndex { folder, n_shards } => {
                let folder = folder.display();
                write!(
                    f,
                    "{folder} has no index; its {n_shards} shards are taken by their names"
                )
            }
            Notice::IndexDisagrees {
                path,
                nowhere,
                elsewhere,
            } => {
                write!(f, "{} does not fit its shards", path.display())?;
                if !nowhere.is_empty() {
                    let (n, names) = (nowhere.len(), listed(nowhere));
                    write!(f, "; {n} of its tensors are in none of them: {names}")?;
                }
                if !elsewhere.is_empty() {
                    let (n, names) = (elsewhere.len(), listed(elsewhere));
                    write!(f, "; {n} are in another than it says: {names}")?;
                }
                Ok(())
            }
            Notice::Adapter { path } => {
                let path = path.display();
                write!(
                    f,
                    "{path} describes an adapter (LoRA); it is not applied, the model runs without it"
                )
            }
        }
    }
}

/// The first few names, and how many there are more.
pub(crate) fn listed(names: &[String]) -> String {
    let (shown, rest) = names.split_at(names.len().min(SHOWN));
    let more = match rest.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let shown: Vec<String> = shown.iter().map(|name| format!("`{name}`")).collect();
    shown.join(", ") + &more
}

/// Names that a line lists.
const SHOWN: usize = 8;
