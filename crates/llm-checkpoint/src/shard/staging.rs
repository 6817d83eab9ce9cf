use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::names::{INDEX, STAGING, UNFINISHED_SHARD, is_shard_name};
use crate::error::CheckpointError;
use crate::manifest::MANIFEST;
use crate::write::{folder_of, write_error};

/// Fate of files that are in the way of a new checkpoint.
///
/// Exhaustive on purpose: there is nothing in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are kept, and the new checkpoint is not written.
    Keep,
    /// The new checkpoint takes the place of an old one, of which also those shards go that have other names.
    Replace,
}

/// A hidden folder inside the one that is to hold a checkpoint. All of the checkpoint is made here and put in place
/// at once; dropped before that, nothing is left behind.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    /// Locked, so that no two writers meet.
    handle: File,
    path: PathBuf,
    existing: Existing,
    /// Files to remove on drop.
    cleanup: Cleanup,
}

#[derive(Debug, PartialEq, Eq)]
enum Cleanup {
    Nothing,
    Staged,
    StagedAndFolder,
}

impl Staging {
    /// Creates `folder`, unless it is there, and the staging folder in it, which replaces one that a killed
    /// process left.
    pub(super) fn create(folder: &Path, existing: Existing) -> Result<Self, CheckpointError> {
        let failed = |source| write_error(folder, source);
        let is_new = match fs::create_dir(folder) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        let mut staging = Staging {
            folder: folder.to_owned(),
            handle: File::open(folder).map_err(failed)?,
            path: folder.join(STAGING),
            existing,
            cleanup: Cleanup::Nothing,
        };
        match staging.handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CheckpointError::InUse {
                    folder: folder.to_owned(),
                });
            }
            // Some network file systems have no locks: no reason not to write there.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if let (Existing::Keep, Some(old)) = (existing, staging.old_files()?.first()) {
            return Err(CheckpointError::Exists { path: old.clone() });
        }
        staging.cleanup = if is_new {
            Cleanup::StagedAndFolder
        } else {
            Cleanup::Staged
        };
        match fs::remove_dir_all(&staging.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::create_dir(&staging.path).map_err(failed)?;
        Ok(staging)
    }

    /// Staged path of the file that is to be `name`.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`] when it is in place already and to be kept.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        let place = self.folder.join(name);
        if self.existing == Existing::Keep && place.symlink_metadata().is_ok() {
            return Err(CheckpointError::Exists { path: place });
        }
        Ok(self.path.join(name))
    }

    /// Writes the file that is to be `name` and makes it durable.
    ///
    /// # Errors
    /// As [`Staging::file`], and [`CheckpointError::Write`].
    pub(super) fn write(&self, name: &str, mut contents: impl Read) -> Result<(), CheckpointError> {
        let path = self.file(name)?;
        let mut write = || {
            let mut file = File::create_new(&path)?;
            io::copy(&mut contents, &mut file)?;
            file.sync_all()
        };
        write().map_err(|source| write_error(&path, source))
    }

    /// Puts everything in place. The caller has made every file durable; the index, if there is one, is among
    /// them.
    pub(super) fn put_in_place(mut self) -> Result<(), CheckpointError> {
        for step in self.steps()? {
            // Once the old index has gone, what is staged may be all there is.
            if matches!(step, Step::Rename { .. }) {
                self.cleanup = Cleanup::Nothing;
            }
            step.run()?;
        }
        Ok(())
    }

    /// Steps of putting everything in place. A crash may come between any two.
    ///
    /// The old checkpoint stays whole until an index that names a missing shard takes the place of its own. From
    /// then on the folder does not open, old files go and new ones come, and last of all the new index.
    fn steps(&self) -> Result<Vec<Step>, CheckpointError> {
        let mut new = names(&self.path)?;
        let is_sharded = new.iter().any(|name| name == INDEX);
        new.retain(|name| name != INDEX);
        // Weights last: other programs open `model.safetensors` without looking for an index.
        new.sort_by_key(|name| is_shard_name(name));
        self.write(BARRIER, no_checkpoint().as_bytes())?;

        let index = self.folder.join(INDEX);
        let place = |name: &str| Step::Rename {
            from: self.path.join(name),
            to: self.folder.join(name),
        };
        let mut steps = vec![
            Step::Sync(self.path.clone()),
            Step::Rename {
                from: self.path.join(BARRIER),
                to: index.clone(),
            },
            Step::Sync(self.folder.clone()),
        ];
        let old = self.old_files()?.into_iter();
        steps.extend(old.filter(|path| *path != index).map(Step::Remove));
        steps.extend(new.iter().map(|name| place(name)));
        steps.push(Step::Sync(self.folder.clone()));
        steps.push(if is_sharded {
            place(INDEX)
        } else {
            Step::Remove(index)
        });
        steps.push(Step::RemoveFolder(self.path.clone()));
        steps.push(Step::Sync(self.folder.clone()));
        steps.push(Step::Sync(folder_of(&self.folder).to_owned()));
        Ok(steps)
    }

    /// Files of the folder that belong to a checkpoint as we write them; sorted.
    fn old_files(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let is_old = |name: &String| is_shard_name(name) || name == INDEX || name == MANIFEST;
        let old = names(&self.folder)?.into_iter().filter(is_old);
        Ok(old.map(|name| self.folder.join(name)).collect())
    }
}

/// One change of a folder, which happens or does not.
#[derive(Debug)]
enum Step {
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove(PathBuf),
    RemoveFolder(PathBuf),
    /// Makes durable which files the folder has.
    Sync(PathBuf),
}

impl Step {
    fn run(&self) -> Result<(), CheckpointError> {
        let (path, result) = match self {
            Step::Rename { from, to } => (to, fs::rename(from, to)),
            Step::Remove(path) => (path, fs::remove_file(path)),
            Step::RemoveFolder(path) => (path, fs::remove_dir(path)),
            Step::Sync(folder) => (folder, File::open(folder).and_then(|f| f.sync_all())),
        };
        result.map_err(|source| write_error(path, source))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Whatever cannot be removed is found, and removed, by the next writer.
        if self.cleanup != Cleanup::Nothing {
            let _ = fs::remove_dir_all(&self.path);
        }
        if self.cleanup == Cleanup::StagedAndFolder {
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// The name under which the index is staged that keeps a folder from being opened.
const BARRIER: &str = ".unfinished-index";

/// An index of a shard that is never there: every reader refuses it, and names that shard.
fn no_checkpoint() -> String {
    let index = json!({"metadata": {}, "weight_map": {"unfinished": UNFINISHED_SHARD}});
    format!("{index:#}\n")
}

/// Names of the files in `folder` that are text, sorted; ours all are.
fn names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let list = || {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        let mut names: Vec<String> = names
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        names.sort_unstable();
        Ok(names)
    };
    list().map_err(|source| write_error(folder, source))
}

#[cfg(test)]
mod tests;
