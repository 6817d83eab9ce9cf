//! `llm-run verify`: whether a checkpoint is sound, and still what its manifest says.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, Checksums, Damage, Difference, MANIFEST, Manifest, NotFinite};
use llm_tensor::Bytes;
use serde::Serialize;

use crate::checksum::{damaged, refuse_damage, stored_bytes, sums};
use crate::cli::VerifyArgs;
use crate::failure::refuse;
use crate::output::words::{counted, printable};
use crate::signals::Stop;
use crate::{open, output};

pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let checkpoint = open::checkpoint(&args.model, None)?;
    let path = checkpoint.folder().join(MANIFEST);
    let stop = Stop::on_signal()?;
    let checksums = Checksums::of(&checkpoint)?;
    let damaged = damaged(&checksums, &stop)?;
    if args.write_manifest {
        if path.exists() {
            return refuse(format!(
                "{} exists already; delete it to write another",
                path.display()
            ));
        }
        // Sums of damaged bytes would make the damage valid.
        refuse_damage(&damaged)?;
        sums(&checkpoint, &stop)?.write(&path)?;
    }
    let expected = Manifest::read(&path)?;
    let differences = match &expected {
        // What was just written needs no comparing.
        Some(_) if args.write_manifest => Vec::new(),
        Some(expected) => expected.differences(&sums(&checkpoint, &stop)?),
        None => Vec::new(),
    };
    let report = VerifyReport {
        path: checkpoint.path().display().to_string(),
        n_tensors: checkpoint.tensors().len(),
        bytes: stored_bytes(&checkpoint).get(),
        manifest: expected.is_some().then(|| path.display().to_string()),
        differences: &differences,
        n_checksums: checksums.n_entries(),
        damaged: &damaged,
        not_finite: match args.nan {
            true => Some(not_finite(&checkpoint, &stop)?),
            false => None,
        },
    };
    output::print(&if args.json {
        output::json(&report)?
    } else {
        text(&report)
    })?;
    match report.faults(&path) {
        faults if faults.is_empty() => Ok(ExitCode::SUCCESS),
        faults => refuse(faults.join(", ")),
    }
}

/// Object that `--json` prints.
#[derive(Serialize)]
struct VerifyReport<'a> {
    path: String,
    n_tensors: usize,
    bytes: u64,
    /// Null where there is none.
    manifest: Option<String>,
    differences: &'a [Difference],
    /// Entries of files that were held against the CRC-32 that the files have of them.
    n_checksums: usize,
    damaged: &'a [Damage],
    /// Null where nobody asked.
    not_finite: Option<Vec<NotFinite>>,
}

impl VerifyReport<'_> {
    /// Faults, in the words of an error.
    fn faults(&self, manifest: &Path) -> Vec<String> {
        let manifest = manifest.display();
        let n_not_finite = self.not_finite.as_ref().map_or(0, Vec::len);
        [
            (
                self.differences.len(),
                "difference",
                format!(" from {manifest}"),
            ),
            (self.damaged.len(), "damaged part", String::new()),
            (
                n_not_finite,
                "tensor",
                " with elements that are no finite numbers".to_owned(),
            ),
        ]
        .into_iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, what, rest)| counted(n, what) + &rest)
        .collect()
    }
}

/// A line for everything that is not as it should be, or one that says what was checked.
fn text(report: &VerifyReport<'_>) -> String {
    let VerifyReport {
        path,
        n_tensors,
        n_checksums,
        ..
    } = report;
    let bytes = Bytes::new(report.bytes);
    let not_finite = report.not_finite.iter().flatten();
    let lines: Vec<String> = (report.damaged.iter().map(ToString::to_string))
        .chain(report.differences.iter().map(ToString::to_string))
        .chain(not_finite.map(ToString::to_string))
        .map(|line| printable(&line) + "\n")
        .collect();
    if !lines.is_empty() {
        return lines.concat();
    }
    let mut text = match &report.manifest {
        Some(manifest) => format!("{path}: {n_tensors} tensors, {bytes}, are what {manifest} says"),
        None if *n_checksums > 0 => format!(
            "{path}: the headers of {n_tensors} tensors, {bytes}, are sound, and {n_checksums} parts of its files are \
             what their CRC-32 says"
        ),
        None => format!(
            "{path}: the headers of {n_tensors} tensors, {bytes}, are sound; without a manifest their bytes were \
             not compared, --write-manifest makes one"
        ),
    };
    if report.not_finite.is_some() {
        text += "; all floating-point elements are finite";
    }
    text + "\n"
}

fn not_finite(checkpoint: &Checkpoint, stop: &Stop) -> Result<Vec<NotFinite>> {
    let bar = output::bar("looking for NaN", stored_bytes(checkpoint))?;
    let found = checkpoint.not_finite(|read| {
        bar.inc(read.get());
        stop.check()
    })?;
    bar.finish_and_clear();
    Ok(found)
}
