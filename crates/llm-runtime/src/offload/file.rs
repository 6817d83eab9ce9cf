//! File of one unit: its bytes and their checksum come to be at once, by being given a name.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use llm_arch::Unit;
use llm_checkpoint::{Checkpoint, safetensors_header};
use llm_tensor::Bytes;
use tempfile::NamedTempFile;

use super::about::FORMAT;
use super::names;
use super::unit::{Encode, UnitTensors};
use crate::sum::Summing;
use crate::{Result, RuntimeError};

/// A unit's tensors that its checkpoint does not hold as they are computed with.
#[derive(Debug)]
pub(crate) struct UnitFile {
    /// It, opened.
    pub(crate) checkpoint: Checkpoint,
    /// Checksum that its bytes should have, as [`crate::sum`] computes it.
    pub(crate) sum: u64,
}

impl UnitFile {
    /// Opens the file of `unit` at `path`, whose name has the checksum `sum`. Its structure is compared, its bytes are not.
    ///
    /// # Errors
    /// When it cannot be opened as a checkpoint, [`RuntimeError::OffloadForeign`].
    pub(super) fn open(path: PathBuf, sum: u64, unit: &UnitTensors<'_>, key: &str) -> Result<Self> {
        let is_file = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        let foreign = || RuntimeError::OffloadForeign { path: path.clone() };
        if !is_file {
            return Err(foreign());
        }
        let checkpoint = Checkpoint::open(&path)?;
        let found = checkpoint.metadata().iter();
        let found =
            found.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        if found.collect::<BTreeMap<_, _>>() != metadata(unit.unit, key)
            || !unit.are_in(&checkpoint)
        {
            return Err(foreign());
        }
        Ok(UnitFile { checkpoint, sum })
    }
}

/// Error of a unit's file with the checksum `found`, which is not the one in its name. The file is removed, if
/// that can be done, so that the next run writes it anew.
pub(crate) fn damaged(path: &Path, expected: u64, found: u64) -> RuntimeError {
    RuntimeError::OffloadDamaged {
        path: path.to_owned(),
        expected,
        found,
        is_removed: fs::remove_file(path).is_ok(),
    }
}

/// Metadata of the header, beside the tensors.
fn metadata(unit: Unit, key: &str) -> BTreeMap<String, String> {
    let format = format!("llm-run offload {FORMAT}");
    [
        ("format", format),
        ("key", key.to_owned()),
        ("unit", names::stem(unit)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Place of a unit's new file.
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    pub(super) key: &'a str,
    /// Size of this file and those after it, to be said if there is no room.
    pub(super) missing: Bytes,
}

impl Place<'_> {
    /// Encodes the unit's tensors into a new file; `progress` is told the bytes of each piece, and its error ends it.
    /// Whatever ends it, no part of a file stays.
    ///
    /// # Errors
    /// When a tensor cannot be read or quantized, [`RuntimeError::OffloadWrite`], [`RuntimeError::OffloadFolder`],
    /// [`RuntimeError::SourceChanged`], and what `progress` answers.
    pub(super) fn write(
        &self,
        encode: &Encode<'_>,
        unit: &UnitTensors<'_>,
        progress: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<UnitFile> {
        let file = partial_file(self.folder, &names::stem(unit.unit))?;
        let (file, sum) = self.fill(file, encode, unit, progress)?;
        if let Some(path) = encode.model.checkpoint().changed_file()? {
            let path = path.to_owned();
            return Err(RuntimeError::SourceChanged { path });
        }
        let path = self.folder.join(names::file_name(unit.unit, sum));
        publish(file, &path).map_err(|source| self.failed(unit.unit, source))?;
        UnitFile::open(path, sum, unit, self.key)
    }

    /// Writes all of the file to `out`, and computes its checksum.
    pub(super) fn fill<W: Write>(
        &self,
        out: W,
        encode: &Encode<'_>,
        unit: &UnitTensors<'_>,
        progress: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<(W, u64)> {
        let failed = |source| self.failed(unit.unit, source);
        let mut out = Summed {
            out: BufWriter::new(out),
            sum: Summing::default(),
        };
        let start = self.start(unit)?;
        out.put(&start).map_err(failed)?;
        encode.each_piece(unit, &mut |bytes| {
            out.put(bytes).map_err(failed)?;
            progress(Bytes::new(bytes.len() as u64))
        })?;
        let file = out.out.into_inner();
        let file = file.map_err(|error| failed(error.into_error()))?;
        Ok((file, out.sum.finish()))
    }

    /// All that comes before the tensors, so long that these, which have the widest elements last, end at a multiple of
    /// the widest.
    fn start(&self, unit: &UnitTensors<'_>) -> Result<Vec<u8>> {
        let metadata = metadata(unit.unit, self.key);
        let (mut header, bytes) = safetensors_header(self.folder, unit.tensors(), &metadata)?;
        let odd = (bytes.get() % WIDEST) as usize;
        header.resize(
            header.len() + (WIDEST as usize - odd) % WIDEST as usize,
            b' ',
        );
        let len = (header.len() as u64).to_le_bytes();
        Ok([&len[..], &header].concat())
    }

    fn failed(&self, unit: Unit, source: io::Error) -> RuntimeError {
        RuntimeError::OffloadWrite {
            folder: self.folder.to_owned(),
            unit,
            missing: self.missing,
            source,
        }
    }
}

/// A file in `folder` that is gone when it is dropped.
///
/// # Errors
/// [`RuntimeError::OffloadFolder`].
pub(super) fn partial_file(folder: &Path, stem: &str) -> Result<NamedTempFile> {
    let (prefix, suffix) = names::partial(stem);
    let file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(suffix)
        // As for any new file: what the process's umask leaves of it.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder);
    file.map_err(|source| RuntimeError::OffloadFolder {
        folder: folder.to_owned(),
        source,
    })
}

/// Makes a file durable and gives it its name.
pub(super) fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    // Before the rename: else a crash could leave the name with a file that is not all there.
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

struct Summed<W: Write> {
    out: BufWriter<W>,
    sum: Summing,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Bytes of the widest element that there is.
const WIDEST: u64 = 8;
