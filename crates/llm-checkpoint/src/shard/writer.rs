use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::flush::Flusher;
use super::plan::{INDEX, ShardPlan};
use super::staging::{Existing, Staging};
use crate::error::CheckpointError;
use crate::write::{header, write_error};

/// Writes a checkpoint's files into a folder without holding them: the tensors' bytes as they come, in the order of
/// the plan.
///
/// Nothing of it can be seen before [`finish`], which puts everything in place: until then whatever is in the
/// folder stays as it is, and the writer, when it is dropped, leaves nothing behind. A process that is killed, a
/// full disk or a power failure leaves the old checkpoint, or the new one, or, when it struck while `finish` was
/// replacing one by the other, a folder that does not open and says that the checkpoint is to be written again.
///
/// [`finish`]: ShardWriter::finish
#[derive(Debug)]
pub struct ShardWriter<'p> {
    plan: &'p ShardPlan,
    metadata: BTreeMap<String, String>,
    staging: Staging,
    flusher: Flusher,
    /// Shards that were begun, the last of which is `open` while bytes of it are missing.
    n_begun: usize,
    open: Option<OpenShard>,
}

#[derive(Debug)]
struct OpenShard {
    path: PathBuf,
    file: File,
    /// Bytes that have not come yet.
    missing: u64,
    /// Bytes that came since the disk was last told to begin.
    unflushed: u64,
}

impl<'p> ShardWriter<'p> {
    /// Creates `folder` unless it is there and prepares to write the files of `plan` into it, each with `metadata`
    /// as its `__metadata__`.
    ///
    /// Old files are those that a `ShardWriter` writes, that is `model.safetensors`, the shards
    /// `model-00001-of-00003.safetensors`, their index and a [`Manifest`](crate::Manifest); others are left alone.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`] when there are old files and `existing` says to keep them,
    /// [`CheckpointError::InUse`], [`CheckpointError::Write`].
    pub fn create(
        folder: &Path,
        plan: &'p ShardPlan,
        metadata: BTreeMap<String, String>,
        existing: Existing,
    ) -> Result<Self, CheckpointError> {
        Ok(ShardWriter {
            plan,
            metadata,
            staging: Staging::create(folder, existing)?,
            flusher: Flusher::start().map_err(|source| write_error(folder, source))?,
            n_begun: 0,
            open: None,
        })
    }

    /// What is written.
    pub fn plan(&self) -> &'p ShardPlan {
        self.plan
    }

    /// Adds a file that goes with the weights, as `config.json`.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`] when there is one that is to be kept, [`CheckpointError::Write`], also when a
    /// file of that name was added before.
    ///
    /// # Panics
    /// When `name` is not a plain file name.
    pub fn add_file(&self, name: &str, contents: &[u8]) -> Result<(), CheckpointError> {
        assert_plain(name);
        self.staging.write(name, contents)
    }

    /// As [`ShardWriter::add_file`], with the contents and the name of the file at `from`.
    ///
    /// # Errors
    /// As [`ShardWriter::add_file`], and [`CheckpointError::Io`] when `from` cannot be opened.
    ///
    /// # Panics
    /// When `from` has no name, or one that is not text.
    pub fn copy_file(&self, from: &Path) -> Result<(), CheckpointError> {
        let name = from.file_name().and_then(|name| name.to_str());
        let name = name.expect("a path that ends in a file's name");
        let file = File::open(from).map_err(|source| CheckpointError::Io {
            path: from.to_owned(),
            source,
        })?;
        self.staging.write(name, file)
    }

    /// Appends little-endian elements. A call may end inside a tensor, or begin in one and end in another, or in
    /// another shard.
    ///
    /// # Errors
    /// [`CheckpointError::Write`], and [`CheckpointError::Header`] when a shard's header becomes longer than
    /// readers accept.
    ///
    /// # Panics
    /// When these are more bytes than the tensors have left.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), CheckpointError> {
        while !bytes.is_empty() {
            let shard = match &mut self.open {
                Some(shard) if shard.missing > 0 => shard,
                _ => {
                    assert!(self.begin_next()?, "bytes beyond those of the plan");
                    continue;
                }
            };
            let n = shard.missing.min(bytes.len() as u64);
            let (now, later) = bytes.split_at(n as usize);
            shard.write(now, &self.flusher)?;
            bytes = later;
        }
        Ok(())
    }

    /// Makes everything durable and puts it in place.
    ///
    /// # Errors
    /// [`CheckpointError::Write`], [`CheckpointError::Header`] as [`ShardWriter::write`].
    ///
    /// # Panics
    /// When bytes of the tensors are missing.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        // What is left may have shards of no bytes.
        while self.begin_next()? {}
        if let Some(index) = self.plan.index() {
            self.staging.write(INDEX, index.as_bytes())?;
        }
        self.flusher.finish()?;
        self.staging.put_in_place()
    }

    /// Ends the open shard and begins the next one; false when there is none.
    fn begin_next(&mut self) -> Result<bool, CheckpointError> {
        if let Some(shard) = self.open.take() {
            assert_eq!(
                shard.missing,
                0,
                "bytes that {} still lacks",
                shard.path.display()
            );
            self.flusher.take(shard.path, shard.file);
        }
        let Some(next) = self.plan.shards().get(self.n_begun) else {
            return Ok(false);
        };
        self.n_begun += 1;
        let path = self.staging.file(&next.name)?;
        let tensors = &self.plan.tensors()[next.tensors.clone()];
        let (header, missing) = header(&path, tensors, &self.metadata)?;
        let create = || {
            let mut file = File::create_new(&path)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            Ok(file)
        };
        let file = create().map_err(|source| write_error(&path, source))?;
        self.open = Some(OpenShard {
            path,
            file,
            missing: missing.get(),
            unflushed: 0,
        });
        Ok(true)
    }
}

impl OpenShard {
    fn write(&mut self, bytes: &[u8], flusher: &Flusher) -> Result<(), CheckpointError> {
        self.missing -= bytes.len() as u64;
        self.unflushed += bytes.len() as u64;
        let mut write = || {
            self.file.write_all(bytes)?;
            if self.unflushed >= FLUSH_EVERY {
                self.unflushed = 0;
                flusher.hint(&self.path, &self.file)?;
            }
            Ok(())
        };
        write().map_err(|source| write_error(&self.path, source))
    }
}

fn assert_plain(name: &str) {
    let is_plain = Path::new(name).file_name().is_some_and(|n| n == name);
    assert!(is_plain, "`{name}` is not a plain file name");
}

/// Bytes after which the disk is told to begin: enough that it writes long runs, few enough that it does not idle.
const FLUSH_EVERY: u64 = 128 << 20;
