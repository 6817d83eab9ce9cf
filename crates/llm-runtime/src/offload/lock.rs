//! Locks that end with the process that holds them, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A lock on a file that is there for nothing else. Dropped, it is let go.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "closing it lets the lock go")] File);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

impl Lock {
    /// `None` while another process, or another lock of this one, is in the way.
    ///
    /// # Errors
    /// When the file is not there and cannot be made, or cannot be opened.
    pub(super) fn try_new(path: &Path, mode: Mode) -> io::Result<Option<Lock>> {
        loop {
            let file = open(path)?;
            let locked = match mode {
                Mode::Shared => file.try_lock_shared(),
                Mode::Exclusive => file.try_lock(),
            };
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                // Some network file systems have no locks: no reason not to work there.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if is_at(&file, path)? {
                return Ok(Some(Lock(file)));
            }
        }
    }
}

/// Makes the file where it is not there; one that cannot be written to can still be locked.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).or_else(|error| match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            File::open(path).map_err(|_| error)
        }
        _ => Err(error),
    })
}

/// True if the file is still the one at `path`: it may have been removed between being opened and locked, and the lock
/// would be one that nobody else sees.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
