//! Models by name: what a hub has of them, their files by HTTP, and a cache that the Python library shares.
//!
//! [`pull`] takes a name, `org/name[@revision][:file]`, to files in the cache. It asks the hub once for its list of files at a
//! commit, chooses those that a model needs, and brings what is not there. Knows nothing of what is in them.
//!
//! [`look`] brings configurations, and of weights the ranges that a reader of their headers asks for, so that a plan can be
//! made before anything is downloaded.
//!
//! # Hostile answers
//!
//! Names of files and commits from the hub become types that cannot name a place outside of their folder. All files are
//! taken from the one commit that the list is of. Their lengths and sums are held against the list: a file has its name
//! only when it is whole and right. The token goes to the hub's own scheme, host and port, never to where that redirects.
//!
//! # Interruption
//!
//! A process may end at any time. What lies in an incomplete file is a beginning of it, from which the next run goes on;
//! links, revisions and whole files come to be by one rename each.

mod cache;
mod choose;
mod download;
mod error;
mod event;
mod http;
mod listing;
mod look;
mod name;
mod pull;
mod settings;
mod sum;

pub use cache::{CachedRepo, find, list, remove};
pub use error::{AnswerFlaw, ChoiceFlaw, HubError, NameFlaw};
pub use event::Event;
pub use look::{Looked, RangedFile, look};
pub use name::{Commit, FileName, RepoId, RepoName, Revision};
pub use pull::{Pulled, cached, pull};
pub use settings::Settings;
pub use sum::Sum;
