//! The checksums that zip archives have of their entries, and with them PyTorch's files of every storage.

use std::path::PathBuf;

use crc32fast::Hasher;
use llm_tensor::Bytes;
use rayon::prelude::*;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::format::Format;
use crate::notice::listed;
use crate::torch;

/// An entry of a PyTorch file whose bytes are not those that were written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error(
    "{path}: entry `{entry}` is damaged: its CRC-32 is {found:08x}, the archive says {expected:08x}{}",
    held(tensors)
)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The entry's name in the archive: a storage, or what describes them.
    pub entry: String,
    /// Tensors whose elements lie in it, sorted.
    pub tensors: Vec<String>,
    /// Archive's checksum.
    pub expected: u32,
    /// Checksum of the bytes.
    pub found: u32,
}

/// Entries of a checkpoint's files that have checksums.
#[derive(Debug)]
pub struct Checksums<'c> {
    checkpoint: &'c Checkpoint,
    entries: Vec<(usize, torch::Stored)>,
}

impl<'c> Checksums<'c> {
    /// Those of `checkpoint`; none unless its files are PyTorch's zip archives.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], and what is wrong with a directory that has been changed since it was opened.
    pub fn of(checkpoint: &'c Checkpoint) -> Result<Self, CheckpointError> {
        let mut entries = Vec::new();
        if checkpoint.format() == Format::Torch {
            for (file_idx, file) in checkpoint.sources().iter().enumerate() {
                let stored = torch::stored(file)?;
                entries.extend(stored.into_iter().map(|stored| (file_idx, stored)));
            }
        }
        // The largest first: none is left to one thread alone in the end.
        entries.sort_by_key(|(_, e)| std::cmp::Reverse(e.range.end - e.range.start));
        Ok(Checksums {
            checkpoint,
            entries,
        })
    }

    /// Number of these entries.
    pub fn n_entries(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of these entries.
    pub fn bytes(&self) -> Bytes {
        let sizes = self
            .entries
            .iter()
            .map(|(_, e)| e.range.end - e.range.start);
        Bytes::new(sizes.sum())
    }

    /// Reads every entry whole, in pieces of 1 MiB and one for each thread of Rayon's, and says which are damaged, sorted.
    ///
    /// `progress` is told the length of each piece; its error ends the reading.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], and what `progress` answers.
    pub fn check<E: From<CheckpointError> + Send>(
        &self,
        progress: impl Fn(Bytes) -> Result<(), E> + Sync,
    ) -> Result<Vec<Damage>, E> {
        let damaged = self.entries.par_iter().with_max_len(1).map_init(
            Vec::new,
            |piece, (file_idx, entry)| {
                let found = self.sum(*file_idx, entry, piece, &progress)?;
                Ok((found != entry.crc32).then(|| self.damage(*file_idx, entry, found)))
            },
        );
        let damaged: Vec<Option<Damage>> = damaged.collect::<Result<_, E>>()?;
        let mut damaged: Vec<Damage> = damaged.into_iter().flatten().collect();
        damaged.sort_by(|a, b| (&a.path, &a.entry).cmp(&(&b.path, &b.entry)));
        Ok(damaged)
    }

    fn sum<E: From<CheckpointError>>(
        &self,
        file_idx: usize,
        entry: &torch::Stored,
        piece: &mut Vec<u8>,
        progress: impl Fn(Bytes) -> Result<(), E>,
    ) -> Result<u32, E> {
        let mut hasher = Hasher::new();
        for start in entry.range.clone().step_by(PIECE) {
            let n = entry.range.end.min(start + PIECE as u64) - start;
            piece.resize(n as usize, 0);
            self.checkpoint.sources()[file_idx].read_at(start, piece)?;
            hasher.update(piece);
            progress(Bytes::new(n))?;
        }
        Ok(hasher.finalize())
    }

    fn damage(&self, file_idx: usize, entry: &torch::Stored, found: u32) -> Damage {
        let lies_in = |range: &std::ops::Range<u64>| {
            entry.range.start <= range.start && range.end <= entry.range.end
        };
        let tensors = self.checkpoint.tensors();
        let tensors = tensors
            .filter(|tensor| tensor.file_idx == file_idx && lies_in(&tensor.bytes))
            .filter(|tensor| !tensor.bytes.is_empty());
        Damage {
            path: self.checkpoint.sources()[file_idx].path().to_owned(),
            entry: entry.name.clone(),
            tensors: tensors.map(|tensor| tensor.name.clone()).collect(),
            expected: entry.crc32,
            found,
        }
    }
}

/// Bytes that a thread checksums at a time.
const PIECE: usize = 1 << 20;

fn held(tensors: &[String]) -> String {
    match tensors {
        [] => String::new(),
        _ => format!("; it holds {}", listed(tensors)),
    }
}
