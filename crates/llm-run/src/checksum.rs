//! Checksums of a checkpoint: those that its files have of themselves, and those of its manifest.

use anyhow::Result;
use llm_checkpoint::{Checkpoint, Checksums, Damage, MANIFEST, Manifest, TensorInfo};
use llm_tensor::Bytes;

use crate::failure::refuse;
use crate::output;
use crate::output::words::counted;
use crate::signals::Stop;

/// Checks the checksums that there are, as `llm-run verify` does, before a checkpoint is used.
///
/// # Errors
/// When something is damaged, or differs from the manifest.
pub(crate) fn check(checkpoint: &Checkpoint) -> Result<()> {
    // Nothing is written: an interrupt may end the process where it is.
    let stop = Stop::default();
    check_damage(checkpoint, &stop)?;
    let path = checkpoint.folder().join(MANIFEST);
    let Some(expected) = Manifest::read(&path)? else {
        return Ok(());
    };
    let differences = expected.differences(&sums(checkpoint, &stop)?);
    match differences.first() {
        None => Ok(()),
        Some(first) => refuse(format!(
            "{}: {first}; {} from {}",
            checkpoint.path().display(),
            counted(differences.len(), "difference"),
            path.display()
        )),
    }
}

/// Checks the checksums that files have of themselves.
///
/// # Errors
/// When something is damaged.
pub(crate) fn check_damage(checkpoint: &Checkpoint, stop: &Stop) -> Result<()> {
    refuse_damage(&damaged(&Checksums::of(checkpoint)?, stop)?)
}

pub(crate) fn refuse_damage(damaged: &[Damage]) -> Result<()> {
    let Some(first) = damaged.first() else {
        return Ok(());
    };
    let more = match damaged.len() - 1 {
        0 => String::new(),
        n => format!(", and {n} more entries are damaged"),
    };
    refuse(format!("{first}{more}; download the file again"))
}

pub(crate) fn stored_bytes(checkpoint: &Checkpoint) -> Bytes {
    checkpoint.tensors().map(TensorInfo::stored_bytes).sum()
}

pub(crate) fn damaged(checksums: &Checksums<'_>, stop: &Stop) -> Result<Vec<Damage>> {
    let bar = output::bar("verifying", checksums.bytes())?;
    let damaged = checksums.check(|read| {
        bar.inc(read.get());
        stop.check()
    })?;
    bar.finish_and_clear();
    Ok(damaged)
}

/// The sums of the tensors as they are, showing progress where someone can see it.
pub(crate) fn sums(checkpoint: &Checkpoint, stop: &Stop) -> Result<Manifest> {
    let bar = output::bar("verifying", stored_bytes(checkpoint))?;
    let manifest = Manifest::of(checkpoint, |read| {
        bar.inc(read.get());
        stop.check()
    })?;
    bar.finish_and_clear();
    Ok(manifest)
}
