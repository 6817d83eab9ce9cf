//! What happens while files are brought.

use std::time::Duration;

use crate::error::HubError;
use crate::name::FileName;

/// What happens while files are brought.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file is begun.
    File {
        /// The file.
        file: &'a FileName,
        /// Its bytes.
        size: u64,
        /// Bytes of all files that are brought.
        total: u64,
    },
    /// Bytes came, or were there already.
    Received {
        /// The file.
        file: &'a FileName,
        /// So many.
        bytes: u64,
    },
    /// Bytes have to come once more.
    Lost {
        /// The file.
        file: &'a FileName,
        /// So many.
        bytes: u64,
    },
    /// Another process downloads this file.
    Waiting {
        /// The file.
        file: &'a FileName,
    },
    /// Something failed, and is tried again.
    Retry {
        /// What failed.
        why: &'a str,
        /// Pause before.
        wait: Duration,
    },
    /// The hub cannot be asked, and what the cache has is taken.
    FromCache {
        /// Why it cannot.
        why: &'a HubError,
    },
}
