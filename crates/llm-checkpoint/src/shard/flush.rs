use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::CheckpointError;
use crate::write::write_error;

/// A thread that makes files durable while others are still being written, so that little is left to wait for in
/// the end.
#[derive(Debug)]
pub(super) struct Flusher {
    files: SyncSender<(PathBuf, File)>,
    thread: JoinHandle<Result<(), CheckpointError>>,
}

impl Flusher {
    pub(super) fn start() -> io::Result<Self> {
        let (files, received) = sync_channel::<(PathBuf, File)>(1);
        let thread = thread::Builder::new()
            .name("flush".to_owned())
            .spawn(move || {
                received.into_iter().try_for_each(|(path, file)| {
                    file.sync_all().map_err(|source| write_error(&path, source))
                })
            })?;
        Ok(Flusher { files, thread })
    }

    /// Has the disk begin with what was written of `file` so far, unless it is busy with that already.
    pub(super) fn hint(&self, path: &Path, file: &File) -> io::Result<()> {
        // A thread that has ended says why in `finish`.
        let _ = self.files.try_send((path.to_owned(), file.try_clone()?));
        Ok(())
    }

    /// Takes `file`, of which everything is written.
    pub(super) fn take(&self, path: PathBuf, file: File) {
        let _ = self.files.send((path, file));
    }

    /// Waits until every file that was taken is durable.
    pub(super) fn finish(self) -> Result<(), CheckpointError> {
        drop(self.files);
        self.thread.join().expect("syncing a file does not panic")
    }
}
