//! Models that were split into several files, each a GGUF file of its own.

use std::path::{Path, PathBuf};

use super::by_layer::is_one;
use crate::error::{CheckpointError, HeaderFlaw};
use crate::find;
use crate::metadata::{Metadata, Value};
use crate::part_name::PartName;
use crate::source::SourceFile;
use crate::tensor::Contents;

/// All files of the model of which `file` is a part, itself among them; nothing when it is not split.
///
/// # Errors
/// When they are not all there, or the name of `file` does not say what theirs are.
pub(crate) fn all_parts(
    file: &SourceFile,
    metadata: &Metadata,
) -> Result<Option<Vec<PathBuf>>, CheckpointError> {
    let number = |key| metadata.get(key).and_then(Value::as_u64);
    let Some(n_parts) = number(COUNT).filter(|n| *n > 1) else {
        return Ok(None);
    };
    let number = number(NO).unwrap_or(0).saturating_add(1);
    let path = file.path();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = PartName::parse(&name, SUFFIX)
        .filter(|part| part.number == number && part.set.n_parts() == n_parts);
    let (Some(part), Some(_)) = (part, file.state()) else {
        return Err(file.header_error(HeaderFlaw::PartName { number, n_parts }));
    };
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let present = find::present(folder, part.set, SUFFIX)?;
    find::complete(folder, part.set, &present).map(Some)
}

/// Checks that a file's metadata are those of this part of `n_parts`; `idx` counts from 0.
///
/// # Errors
/// [`HeaderFlaw::Part`].
pub(crate) fn check_part(
    file: &SourceFile,
    metadata: &Metadata,
    idx: usize,
    n_parts: usize,
) -> Result<(), CheckpointError> {
    for (key, expected) in [(NO, idx as u64), (COUNT, n_parts as u64)] {
        let found = metadata.get(key).and_then(Value::as_u64);
        if found != Some(expected) {
            let found = found.map_or_else(|| "not there".to_owned(), |found| found.to_string());
            return Err(file.header_error(HeaderFlaw::Part {
                key,
                expected,
                found,
            }));
        }
    }
    Ok(())
}

/// Checks that the parts hold as many tensors in all as the first one, `file`, says.
///
/// # Errors
/// [`HeaderFlaw::PartsTensors`].
pub(crate) fn check_whole(file: &SourceFile, contents: &Contents) -> Result<(), CheckpointError> {
    let expected = contents.metadata.get(TENSORS).and_then(Value::as_u64);
    let tensors = contents.tensors.iter();
    let found = tensors.filter(|tensor| !is_one(&tensor.name)).count() as u64;
    match expected {
        Some(expected) if expected != found => {
            Err(file.header_error(HeaderFlaw::PartsTensors { expected, found }))
        }
        _ => Ok(()),
    }
}

const SUFFIX: &str = ".gguf";

/// The part's number, counted from 0.
const NO: &str = "split.no";
/// Number of parts.
const COUNT: &str = "split.count";
/// Number of tensors in all parts.
const TENSORS: &str = "split.tensors.count";

#[cfg(test)]
mod tests;
