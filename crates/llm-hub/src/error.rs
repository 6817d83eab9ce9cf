//! Errors of names, answers, downloads and the cache.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A failure to find or bring a model of a hub.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no repository has.
    #[error("`{text}` is no name on a hub: {flaw}")]
    Name {
        /// What was given.
        text: String,
        /// What is wrong with it.
        flaw: NameFlaw,
    },
    /// An address of the environment that cannot be used.
    #[error(
        "HF_ENDPOINT is `{text}`, and an address begins with https:// or http:// and has a host"
    )]
    Endpoint {
        /// What the variable holds.
        text: String,
    },
    /// No folder for the cache is known.
    #[error("no folder for models is known; set HF_HOME")]
    NoHome,
    /// A model that is not in the cache, where nothing may be fetched.
    #[error("{name} is not in {}; HF_HUB_OFFLINE is set, so nothing is fetched", folder.display())]
    Offline {
        /// Name and revision.
        name: String,
        /// The cache.
        folder: PathBuf,
    },
    /// A hub that gives no answer.
    #[error("{url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened, the last of some tries.
        reason: String,
    },
    /// No such repository, or one that only others may see.
    #[error("the hub has no {name}, or does not show it: check the name{}", token_hint(*has_token))]
    NoRepo {
        /// Name and revision.
        name: String,
        /// True where a token was sent.
        has_token: bool,
    },
    /// No such revision.
    #[error("{name}: the repository has no such branch, tag or commit")]
    NoRevision {
        /// Name and revision.
        name: String,
    },
    /// A repository whose conditions its reader has not agreed to.
    #[error(
        "{name} is gated: agree to its conditions at {page} and {}",
        if *has_token { "use a token of that account, which may read gated repositories" } else { "set HF_TOKEN to a token of that account" }
    )]
    Gated {
        /// Name and revision.
        name: String,
        /// Where that is done.
        page: String,
        /// True where a token was sent.
        has_token: bool,
    },
    /// A token that the hub refuses.
    #[error("{url}: the hub answers {status}{}", token_hint(*has_token))]
    Refused {
        /// What was asked for.
        url: String,
        /// Status of the answer.
        status: u16,
        /// True where a token was sent.
        has_token: bool,
    },
    /// Any other answer that is no success.
    #[error("{url}: the hub answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// Status of the answer.
        status: u16,
    },
    /// An answer that cannot be used.
    #[error("{url}: {flaw}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        flaw: AnswerFlaw,
    },
    /// A choice that is left to the user.
    #[error("{name}: {choice}")]
    Choice {
        /// Name and revision.
        name: String,
        /// What there is.
        choice: ChoiceFlaw,
    },
    /// A file whose bytes are not those that the hub speaks of.
    #[error(
        "{file}: what was downloaded sums to {found}, and the hub says {expected}; nothing of it is kept"
    )]
    Sum {
        /// The file.
        file: String,
        /// Sum in the hub's list.
        expected: String,
        /// Sum of what came.
        found: String,
    },
    /// A model that another process downloads.
    #[error("{name}: files of it are being downloaded; end that first")]
    InUse {
        /// Its name.
        name: String,
    },
    /// A disk with too little room.
    #[error("{} has room for {free} bytes, and {needed} are to be downloaded; HF_HUB_CACHE says where else", folder.display())]
    NoRoom {
        /// The cache.
        folder: PathBuf,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A file or folder of the cache that cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

fn token_hint(has_token: bool) -> &'static str {
    match has_token {
        true => "; the token that was sent may lack the right to read it",
        false => "; for what is not public set HF_TOKEN",
    }
}

impl HubError {
    /// True where another name, other rights or another setting would do; false where network, hub or machine failed.
    pub fn is_users(&self) -> bool {
        match self {
            HubError::Name { .. }
            | HubError::Endpoint { .. }
            | HubError::NoHome
            | HubError::Offline { .. }
            | HubError::NoRepo { .. }
            | HubError::NoRevision { .. }
            | HubError::Gated { .. }
            | HubError::Refused { .. }
            | HubError::Choice { .. }
            | HubError::InUse { .. }
            | HubError::Io { .. } => true,
            HubError::Unreachable { .. }
            | HubError::Status { .. }
            | HubError::Answer { .. }
            | HubError::Sum { .. }
            | HubError::NoRoom { .. } => false,
        }
    }

    /// An error of the system at a path.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| HubError::Io { path, source }
    }
}

/// What is wrong with an answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnswerFlaw {
    /// No JSON, or JSON of another form.
    #[error("the answer is no list of files: {0}")]
    Json(String),
    /// A commit that is not 40 hexadecimal digits.
    #[error("the answer has the commit `{0}`, which is none")]
    Commit(String),
    /// A name of a file that would lie elsewhere.
    #[error("the answer lists the file `{file}`: {flaw}")]
    File {
        /// The name.
        file: String,
        /// What is wrong with it.
        flaw: NameFlaw,
    },
    /// A file without length or sum.
    #[error("the hub does not say the length and the checksum of {0}")]
    Undescribed(String),
    /// Another length than the list has.
    #[error("the answer has {found} bytes, and the list of files {expected}")]
    Length {
        /// Bytes in the list.
        expected: u64,
        /// Bytes of the answer.
        found: u64,
    },
    /// Another part of the file than was asked for.
    #[error("the answer is the part `{0}`, which was not asked for")]
    Range(String),
    /// The whole file in the place of a part.
    #[error("the hub sends no parts of files, and nothing is said of one before it is downloaded")]
    NoRanges,
    /// Another commit than the list is of.
    #[error(
        "the answer is of commit {found}, and the list of files of {expected}; the repository changed meanwhile: try again"
    )]
    Changed {
        /// Commit of the list.
        expected: String,
        /// Commit of the answer.
        found: String,
    },
    /// Another file than the list has.
    #[error(
        "the answer has the checksum {found}, and the list of files {expected}; the repository changed meanwhile: try again"
    )]
    ChangedFile {
        /// Sum in the list.
        expected: String,
        /// Sum in the answer.
        found: String,
    },
    /// A redirect that is not followed.
    #[error("the answer leads to `{0}`, which is not followed")]
    Redirect(String),
    /// More than is read of any list.
    #[error("the answer is longer than {0} bytes")]
    TooLong(u64),
}

/// What is left to choose.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChoiceFlaw {
    /// No weights in a format that is read.
    #[error("the repository has no weights in safetensors, PyTorch or GGUF files")]
    NoWeights,
    /// No file by this name, nor in this quantization.
    #[error("no file is or has `{asked}`; there are {}", there.join(", "))]
    NoFile {
        /// What was asked for.
        asked: String,
        /// Weights that there are.
        there: Vec<String>,
    },
    /// Several models.
    #[error("several models are there; say which after a colon, such as `:{}`: {}", there[0], there.join(", "))]
    Several {
        /// Weights that there are.
        there: Vec<String>,
    },
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameFlaw {
    /// Not an owner and a name.
    #[error("it is written org/name, with @revision and :file where they are wanted")]
    NotTwoParts,
    /// A part that no name has.
    #[error("`{0}` is none of its parts")]
    Part(String),
    /// A path that leaves its folder.
    #[error("it is no path inside a folder")]
    Leaves,
    /// A character that no path has.
    #[error("it has a backslash or a control character in it")]
    Control,
    /// Too many bytes.
    #[error("it is too long")]
    TooLong,
}
