use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::flush::Flusher;
use super::names::INDEX;
use super::plan::ShardPlan;
use super::staging::{Existing, Staging};
use crate::error::CheckpointError;
use crate::write::{header_of, write_error};

/// Writes a checkpoint's files into a folder without holding them: the tensors' bytes as they come, in the order of
/// the plan or tensor by tensor in any order.
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
    shards: Vec<ShardState>,
    /// Shard in which [`ShardWriter::write`] goes on, and bytes of its tensors before that.
    cursor: (usize, u64),
    /// For each tensor its shard, and the bytes of the shard's tensors before it.
    places: HashMap<&'p str, (usize, u64)>,
}

#[derive(Debug)]
enum ShardState {
    Ahead,
    Open(OpenShard),
    Complete,
}

#[derive(Debug)]
struct OpenShard {
    path: PathBuf,
    file: File,
    /// Offset of the tensors' bytes.
    data: u64,
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
            shards: plan.shards().iter().map(|_| ShardState::Ahead).collect(),
            cursor: (0, 0),
            places: places(plan),
        })
    }

    /// Plan that is written.
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

    /// Appends little-endian elements to those that `write` wrote before. A call may end inside a tensor, or begin in
    /// one and end in another, or in another shard.
    ///
    /// # Errors
    /// [`CheckpointError::Write`], and [`CheckpointError::Header`] when a shard's header becomes longer than
    /// readers accept.
    ///
    /// # Panics
    /// When these are more bytes than the tensors have left.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), CheckpointError> {
        while !bytes.is_empty() {
            let (shard_idx, offset) = self.cursor;
            let shard = self.plan.shards().get(shard_idx);
            let left = shard.expect("bytes beyond those of the plan").bytes.get() - offset;
            if left == 0 {
                self.cursor = (shard_idx + 1, 0);
                continue;
            }
            let (now, later) = bytes.split_at(left.min(bytes.len() as u64) as usize);
            self.write_at(shard_idx, offset, now)?;
            self.cursor.1 += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Writes little-endian elements of tensor `name` behind the first `start` bytes of it. Every byte is to be written
    /// once, in any order; who writes this way does not use [`ShardWriter::write`].
    ///
    /// # Errors
    /// As [`ShardWriter::write`].
    ///
    /// # Panics
    /// When there is no such tensor in the plan, or its shard has fewer bytes left.
    pub fn write_tensor(
        &mut self,
        name: &str,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        let place = self.places.get(name);
        let &(shard_idx, offset) = place.unwrap_or_else(|| panic!("`{name}` is not in the plan"));
        if bytes.is_empty() {
            return Ok(());
        }
        self.write_at(shard_idx, offset + start, bytes)
    }

    /// Makes everything durable and puts it in place.
    ///
    /// # Errors
    /// [`CheckpointError::Write`], [`CheckpointError::Header`] as [`ShardWriter::write`].
    ///
    /// # Panics
    /// When bytes of the tensors are missing.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        for shard_idx in 0..self.shards.len() {
            // What is still ahead may be shards of no bytes.
            self.begin(shard_idx)?;
            if let ShardState::Open(shard) = &self.shards[shard_idx] {
                let (path, missing) = (shard.path.display(), shard.missing);
                panic!("{path} still lacks {missing} bytes");
            }
        }
        if let Some(index) = self.plan.index() {
            self.staging.write(INDEX, index.as_bytes())?;
        }
        self.flusher.finish()?;
        self.staging.put_in_place()
    }

    fn write_at(
        &mut self,
        shard_idx: usize,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        self.begin(shard_idx)?;
        let ShardState::Open(shard) = &mut self.shards[shard_idx] else {
            panic!("bytes for a shard that has all of them");
        };
        shard.write_at(offset, bytes, &self.flusher)?;
        self.end_if_complete(shard_idx);
        Ok(())
    }

    /// Writes the header of a shard that is still ahead.
    fn begin(&mut self, shard_idx: usize) -> Result<(), CheckpointError> {
        let ShardState::Ahead = self.shards[shard_idx] else {
            return Ok(());
        };
        let shard = &self.plan.shards()[shard_idx];
        let path = self.staging.file(&shard.name)?;
        let tensors = &self.plan.tensors()[shard.tensors.clone()];
        let (header, missing) = header_of(&path, tensors, self.plan.opaque(), &self.metadata)?;
        let create = || {
            let mut file = File::create_new(&path)?;
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            Ok(file)
        };
        let file = create().map_err(|source| write_error(&path, source))?;
        self.shards[shard_idx] = ShardState::Open(OpenShard {
            path,
            file,
            data: 8 + header.len() as u64,
            missing: missing.get(),
            unflushed: 0,
        });
        self.end_if_complete(shard_idx);
        Ok(())
    }

    fn end_if_complete(&mut self, shard_idx: usize) {
        let state = &mut self.shards[shard_idx];
        if !matches!(state, ShardState::Open(shard) if shard.missing == 0) {
            return;
        }
        if let ShardState::Open(shard) = std::mem::replace(state, ShardState::Complete) {
            self.flusher.take(shard.path, shard.file);
        }
    }
}

impl OpenShard {
    fn write_at(
        &mut self,
        offset: u64,
        bytes: &[u8],
        flusher: &Flusher,
    ) -> Result<(), CheckpointError> {
        let n_bytes = bytes.len() as u64;
        let left = self.missing.checked_sub(n_bytes);
        self.missing = left.expect("no more bytes than the shard has left");
        self.unflushed += n_bytes;
        let mut write = || {
            self.file.write_all_at(bytes, self.data + offset)?;
            if self.unflushed >= FLUSH_EVERY {
                self.unflushed = 0;
                flusher.hint(&self.path, &self.file)?;
            }
            Ok(())
        };
        write().map_err(|source| write_error(&self.path, source))
    }
}

fn places(plan: &ShardPlan) -> HashMap<&str, (usize, u64)> {
    let mut places = HashMap::with_capacity(plan.tensors().len());
    for (shard_idx, shard) in plan.shards().iter().enumerate() {
        let mut offset = 0;
        for tensor in &plan.tensors()[shard.tensors.clone()] {
            places.insert(tensor.name.as_str(), (shard_idx, offset));
            offset += tensor.bytes().get();
        }
    }
    places
}

fn assert_plain(name: &str) {
    let is_plain = Path::new(name).file_name().is_some_and(|n| n == name);
    assert!(is_plain, "`{name}` is not a plain file name");
}

/// Bytes after which the disk is told to begin: enough that it writes long runs, few enough that it does not idle.
const FLUSH_EVERY: u64 = 128 << 20;
