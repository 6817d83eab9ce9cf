use std::io;
use std::path::PathBuf;

pub use self::header::HeaderFlaw;
pub use self::index::IndexFlaw;
pub use self::tensor::TensorFlaw;

mod header;
mod index;
mod tensor;

/// Error of reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot read {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Underlying error.
        source: io::Error,
    },
    /// The operating system refused to take a new file, or a part of it.
    #[error("cannot write {path}")]
    Write {
        /// The file that was to be.
        path: PathBuf,
        /// Underlying error.
        source: io::Error,
    },
    /// A file that would have to be overwritten to write a checkpoint.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A folder into which another process is writing a checkpoint.
    #[error("another process is writing a checkpoint to {folder}")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The manifest of a checkpoint is not what it should be.
    #[error("{path} is no valid manifest: {reason}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A file of none of the formats.
    #[error(
        "{path} is no checkpoint; give a folder, a .safetensors, .gguf or PyTorch .bin file, or an .index.json"
    )]
    NotACheckpoint {
        /// The path as given.
        path: PathBuf,
    },
    /// Something that is no file and has the name of one.
    #[error("{path} is {what}, not a file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// Kind found.
        what: &'static str,
    },
    /// A file that is something else.
    #[error("{path} is {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Kind of the file, and the remedy.
        what: &'static str,
    },
    /// A folder without weights.
    #[error("{folder} contains no .safetensors, no PyTorch .bin and no .gguf file{}", also(found.as_deref()))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// A file that is there and holds weights of another program, with what can be done.
        found: Option<String>,
    },
    /// A folder with an adapter and no model.
    #[error(
        "{folder} holds an adapter (LoRA) of {}, not a model; adapters are not applied here: merge it in Python with peft's `merge_and_unload` and `save_pretrained`, and give that folder",
        base_name(base.as_deref())
    )]
    Adapter {
        /// The folder.
        folder: PathBuf,
        /// The model that it is for, by the adapter's word.
        base: Option<String>,
    },
    /// A folder into which a checkpoint was being written when the process ended.
    #[error(
        "{path}: writing a checkpoint here was begun and did not end, so that there is none; write it again with --force"
    )]
    Unfinished {
        /// The folder, or its index.
        path: PathBuf,
    },
    /// A set of files, cut from one checkpoint, that is not all there.
    #[error(
        "{folder} lacks {n_missing} of the {n_parts} parts of its checkpoint: {}; download them as well",
        some(names, *n_missing)
    )]
    MissingParts {
        /// The folder.
        folder: PathBuf,
        /// The names of the first few that are missing.
        names: Vec<String>,
        /// Number missing.
        n_missing: u64,
        /// Number of parts in all.
        n_parts: u64,
    },
    /// A folder with several checkpoints and nothing that says which is meant.
    #[error(
        "{folder} contains several checkpoints, name one of them: {names}",
        names = names.join(", ")
    )]
    SeveralCheckpoints {
        /// The folder.
        folder: PathBuf,
        /// The names of the files, sorted.
        names: Vec<String>,
    },
    /// A file's header is wrong.
    #[error("{path}: {flaw}")]
    Header {
        /// The file.
        path: PathBuf,
        /// Defect found.
        flaw: HeaderFlaw,
    },
    /// One tensor is wrong, or cannot be read as asked.
    #[error("{path}: tensor `{tensor}`: {flaw}")]
    Tensor {
        /// The file that holds it.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// Defect found.
        flaw: TensorFlaw,
    },
    /// The index of a sharded checkpoint is wrong, or disagrees with the shards.
    #[error("{path}: {flaw}")]
    Index {
        /// The index.
        path: PathBuf,
        /// Defect found.
        flaw: IndexFlaw,
    },
    /// The checkpoint has no tensor of that name.
    #[error("{path} has no tensor `{tensor}`")]
    NoSuchTensor {
        /// Path opened.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
}

fn also(found: Option<&str>) -> String {
    found.map_or_else(String::new, |found| format!("; {found}"))
}

fn base_name(base: Option<&str>) -> String {
    base.map_or_else(
        || "some model".to_owned(),
        |base| format!("`{}`", base.escape_debug()),
    )
}

/// Some names of `n`.
fn some(names: &[String], n: u64) -> String {
    let more = match n - names.len() as u64 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    names.join(", ") + &more
}
