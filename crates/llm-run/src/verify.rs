//! `llm-run verify`: whether a checkpoint is sound, and still what its manifest says.

use std::process::ExitCode;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, Difference, MANIFEST, Manifest, TensorInfo};
use llm_tensor::Bytes;
use serde::Serialize;

use crate::cli::VerifyArgs;
use crate::failure::UserError;
use crate::inspect::{open, printable};
use crate::output;
use crate::rewrite::Stop;

pub(crate) fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    let checkpoint = open(&args.model)?;
    let path = checkpoint.folder().join(MANIFEST);
    if args.write_manifest {
        if path.exists() {
            let message = format!(
                "{} exists already; delete it to write another",
                path.display()
            );
            return Err(UserError(message).into());
        }
        sums(&checkpoint)?.write(&path)?;
    }
    let expected = Manifest::read(&path)?;
    let differences = match &expected {
        // What was just written needs no comparing.
        Some(_) if args.write_manifest => Vec::new(),
        Some(expected) => expected.differences(&sums(&checkpoint)?),
        None => Vec::new(),
    };
    let report = Report {
        path: checkpoint.path().display().to_string(),
        n_tensors: checkpoint.tensors().len(),
        bytes: checkpoint
            .tensors()
            .map(TensorInfo::stored_bytes)
            .sum::<Bytes>()
            .get(),
        manifest: expected.is_some().then(|| path.display().to_string()),
        differences: &differences,
    };
    output::print(&if args.json {
        serde_json::to_string(&report)? + "\n"
    } else {
        text(&report)
    })?;
    match differences.len() {
        0 => Ok(ExitCode::SUCCESS),
        n => {
            let plural = if n == 1 { "" } else { "s" };
            let message = format!("{n} difference{plural} from {}", path.display());
            Err(UserError(message).into())
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    path: String,
    n_tensors: usize,
    bytes: u64,
    /// Null where there is none: only the headers were checked.
    manifest: Option<String>,
    differences: &'a [Difference],
}

/// A line for each difference, or one that says that there are none.
fn text(report: &Report<'_>) -> String {
    let Report {
        path, n_tensors, ..
    } = report;
    let bytes = Bytes::new(report.bytes);
    match &report.manifest {
        None => format!(
            "{path}: the headers of {n_tensors} tensors, {bytes}, are sound; without a manifest their bytes were \
             not compared, --write-manifest makes one\n"
        ),
        Some(manifest) if report.differences.is_empty() => {
            format!("{path}: {n_tensors} tensors, {bytes}, are what {manifest} says\n")
        }
        Some(_) => {
            let lines = report.differences.iter().map(ToString::to_string);
            lines.map(|line| printable(&line) + "\n").collect()
        }
    }
}

/// The sums of the tensors as they are, showing progress where someone can see it.
fn sums(checkpoint: &Checkpoint) -> Result<Manifest> {
    let stop = Stop::on_signal()?;
    let total = checkpoint.tensors().map(TensorInfo::stored_bytes).sum();
    let bar = output::bar("verifying", total)?;
    let manifest = Manifest::of(checkpoint, |read| {
        bar.inc(read.get());
        stop.check()
    })?;
    bar.finish_and_clear();
    Ok(manifest)
}
