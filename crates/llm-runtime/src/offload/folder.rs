//! The folder of all entries, as people look after it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use llm_checkpoint::CheckpointError;
use llm_plan::{Encodings, RunOn};
use llm_tensor::Bytes;

use super::about::OffloadAbout;
use super::lock::{Lock, Mode};
use super::{files_in, names, names_in, remove, unit_files};
use crate::sum::{CHUNK, Summing};
use crate::{BoundModel, Result, RuntimeError};

/// A folder of weights that are encoded for streaming. What is in it and not of our making stays as it is.
#[derive(Debug)]
pub struct OffloadFolder {
    root: PathBuf,
}

/// The weights of one model, kept in one way.
#[derive(Debug)]
pub struct OffloadEntry {
    path: PathBuf,
    /// Its name in the folder.
    pub key: String,
    /// Description; `None` where there is none that is understood.
    pub about: Option<OffloadAbout>,
    /// Files of units.
    pub n_files: usize,
    /// Size of these.
    pub bytes: Bytes,
    /// Files that were not finished: of a process that writes now, or one that was killed.
    pub n_unfinished: usize,
    /// True if a running process uses it.
    pub is_in_use: bool,
}

/// A file that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffloadDamage {
    /// The file.
    pub path: PathBuf,
    /// Checksum in its name.
    pub expected: u64,
    /// Checksum of its bytes.
    pub found: u64,
}

impl OffloadFolder {
    /// The folder need not be there.
    pub fn new(root: PathBuf) -> Self {
        OffloadFolder { root }
    }

    /// Every entry, by key; none where there is no folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn entries(&self) -> Result<Vec<OffloadEntry>> {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(unreadable(&self.root, source)),
            Ok(_) => {}
        }
        let keys = names_in(&self.root).into_iter();
        let keys = keys.filter(|name| names::is_key(name));
        Ok(keys
            .filter_map(|key| OffloadEntry::open(&self.root, key))
            .collect())
    }

    /// Size of those files of `model`'s weights that are there, kept as `encodings` has it for `run_on`: a run
    /// finds them, and writes the others.
    ///
    /// # Errors
    /// When a file of the checkpoint is not there any more, or one in memory cannot be read.
    pub fn bytes_of(
        &self,
        model: &BoundModel,
        encodings: &Encodings<'_>,
        run_on: RunOn,
    ) -> Result<Bytes> {
        // A checkpoint in memory is read whole for its key.
        if !self.root.is_dir() {
            return Ok(Bytes::ZERO);
        }
        let key = OffloadAbout::new(model, String::new())?.key(model, encodings, run_on)?;
        // Whether it is in use is no matter here: to see that, one must be in the way of others.
        let files = unit_files(&self.root.join(key)).into_iter();
        Ok(files.map(|(path, ..)| len_of(&path)).sum())
    }
}

impl OffloadEntry {
    /// `None` for what is no folder.
    fn open(root: &Path, key: String) -> Option<Self> {
        let path = root.join(&key);
        if !fs::symlink_metadata(&path).ok()?.is_dir() {
            return None;
        }
        let mut entry = OffloadEntry {
            about: OffloadAbout::read(&path.join(names::ABOUT)),
            n_files: 0,
            bytes: Bytes::ZERO,
            n_unfinished: files_in(&path)
                .iter()
                .filter(|name| names::is_partial(name))
                .count(),
            is_in_use: is_in_use(&path.join(names::USE_LOCK)),
            key,
            path,
        };
        for (file, ..) in unit_files(&entry.path) {
            entry.bytes += len_of(&file);
            entry.n_files += 1;
        }
        Some(entry)
    }

    /// True if nothing will use it any more, because the files that it was made of are not what they were.
    pub fn is_stale(&self) -> bool {
        self.about.as_ref().is_some_and(OffloadAbout::is_stale)
    }

    /// Reads every file whole and lists those whose bytes are not what their names say; what another process removes
    /// meanwhile is none of them. `progress` is told the bytes of each piece, and its error ends it.
    ///
    /// # Errors
    /// When a file cannot be read, and what `progress` answers.
    pub fn verify<E: From<RuntimeError>>(
        &self,
        mut progress: impl FnMut(Bytes) -> std::result::Result<(), E>,
    ) -> std::result::Result<Vec<OffloadDamage>, E> {
        let mut damages = Vec::new();
        for (path, _, expected) in unit_files(&self.path) {
            let Some(found) = sum_of(&path, &mut progress)? else {
                continue;
            };
            if found != expected {
                damages.push(OffloadDamage {
                    path,
                    expected,
                    found,
                });
            }
        }
        Ok(damages)
    }

    /// Removes it; of a folder that holds other files as well, what is ours.
    ///
    /// # Errors
    /// [`RuntimeError::OffloadInUse`], and [`RuntimeError::OffloadFolder`] when something cannot be removed.
    pub fn clear(&self) -> Result<()> {
        let failed = |source| RuntimeError::OffloadFolder {
            folder: self.path.clone(),
            source,
        };
        let use_lock = self.path.join(names::USE_LOCK);
        let lock = match Lock::try_new(&use_lock, Mode::Exclusive) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                let folder = self.path.clone();
                return Err(RuntimeError::OffloadInUse { folder });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(failed(source)),
        };
        let mut ours = files_in(&self.path);
        ours.retain(|name| names::is_ours(name));
        // Last of all: whoever finds it waits for it.
        ours.sort_by_key(|name| name == names::USE_LOCK);
        for name in ours {
            remove(&self.path.join(name)).map_err(failed)?;
        }
        drop(lock);
        match fs::remove_dir(&self.path) {
            // Files that are not ours, or those of a run that has just begun.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed),
        }
    }
}

/// Nothing for what was just removed.
fn len_of(file: &Path) -> Bytes {
    Bytes::new(fs::symlink_metadata(file).map_or(0, |metadata| metadata.len()))
}

/// Without making the lock where there is none.
fn is_in_use(lock: &Path) -> bool {
    lock.is_file() && matches!(Lock::try_new(lock, Mode::Exclusive), Ok(None))
}

/// Checksum of a file; `None` where it is gone. A link or a pipe has none: it is no file of ours.
fn sum_of<E: From<RuntimeError>>(
    path: &Path,
    progress: &mut dyn FnMut(Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<Option<u64>, E> {
    let failed = |source| unreadable(path, source);
    let mut summing = Summing::default();
    let opened = fs::symlink_metadata(path).and_then(|metadata| match metadata.is_file() {
        true => File::open(path).map(Some),
        false => Ok(None),
    });
    let mut file = match opened {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Some(summing.finish())),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source).into()),
    };
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        bytes.clear();
        let mut chunk = file.by_ref().take(CHUNK as u64);
        if chunk.read_to_end(&mut bytes).map_err(failed)? == 0 {
            return Ok(Some(summing.finish()));
        }
        summing.update(&bytes);
        progress(Bytes::new(bytes.len() as u64))?;
    }
}

fn unreadable(path: &Path, source: io::Error) -> RuntimeError {
    let path = path.to_owned();
    CheckpointError::Io { path, source }.into()
}
