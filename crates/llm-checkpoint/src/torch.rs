//! PyTorch's own files, as `torch.save` writes them: a zip archive, or before version 1.6 a row of pickles.
//!
//! In both a pickle describes the tensors, as a program for a stack machine; the elements lie beside it in storages,
//! which tensors may share. [`pickle`] interprets the program without its functions: the few names that describe
//! tensors become data, any other name is an error.
//!
//! *Source*: the writer, `torch/serialization.py`, and `torch/_utils.py` for the names.

use self::pickle::Pickle;
use self::state_dict::Storages;
use crate::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw};
use crate::metadata::Metadata;
use crate::source::SourceFile;
use crate::tensor::Contents;

mod flaw;
mod globals;
mod legacy;
mod pickle;
mod rebuild;
mod state_dict;
#[cfg(test)]
pub(crate) mod testing;
mod zip;

pub use flaw::{PickleFlaw, ZipFlaw};
pub(crate) use zip::Stored;

/// Reads and validates the headers of `file`, which becomes number `file_idx` of the checkpoint.
pub(crate) fn read_header(file: &SourceFile, file_idx: usize) -> Result<Contents, CheckpointError> {
    let (pickle, storages) = match kind(file)? {
        Some(Kind::Zip) => read_zip(file)?,
        Some(Kind::Legacy) => legacy::read(file)?,
        None => return Err(file.header_error(HeaderFlaw::NotTorch)),
    };
    Ok(Contents {
        tensors: state_dict::tensors(file, file_idx, &pickle, &storages)?,
        metadata: Metadata::new(),
    })
}

/// True if `file` begins as PyTorch's files do.
pub(crate) fn is_torch(file: &SourceFile) -> Result<bool, CheckpointError> {
    Ok(kind(file)?.is_some())
}

/// The entries of a zip archive that have checksums; none of a file in the older format, which has no checksums.
pub(crate) fn stored(file: &SourceFile) -> Result<Vec<Stored>, CheckpointError> {
    match kind(file)? {
        Some(Kind::Zip) => Ok(zip::Archive::open(file)?.stored()),
        Some(Kind::Legacy) | None => Ok(Vec::new()),
    }
}

enum Kind {
    Zip,
    Legacy,
}

fn kind(file: &SourceFile) -> Result<Option<Kind>, CheckpointError> {
    let mut front = [0; legacy::FRONT];
    let len = file.len().min(front.len() as u64) as usize;
    file.read_at(0, &mut front[..len])?;
    let front = &front[..len];
    Ok(if front.starts_with(zip::ENTRY) {
        Some(Kind::Zip)
    } else {
        legacy::is_legacy(front).then_some(Kind::Legacy)
    })
}

/// The pickle of a zip archive, and where the storages lie that it names.
fn read_zip(file: &SourceFile) -> Result<(Pickle, Storages), CheckpointError> {
    let archive = zip::Archive::open(file)?;
    let prefix = archive.prefix().map_err(|flaw| file.header_error(flaw))?;
    let entry = |name: &str| {
        archive
            .entry(&format!("{prefix}/{name}"))
            .map_err(|flaw| file.header_error(flaw))
    };
    if let Some(range) = entry("byteorder")? {
        let order = Cursor::over(file, range.clone()).bytes(range.end - range.start)?;
        if order != b"little" {
            return Err(file.header_error(HeaderFlaw::ByteOrder));
        }
    }
    let pickle = match entry("data.pkl")? {
        Some(range) => pickle::read(&mut Cursor::over(file, range))?,
        None => return Err(file.header_error(ZipFlaw::NoPickle { found: 0 }.into())),
    };
    let mut storages = Storages::new();
    for storage in &pickle.storages {
        let range = entry(&format!("data/{}", storage.key))?;
        if let Some(range) = &range {
            storage
                .check_length(range.end - range.start)
                .map_err(|flaw| file.header_error(flaw))?;
        }
        storages.push(range);
    }
    Ok((pickle, storages))
}

#[cfg(test)]
mod tests;
