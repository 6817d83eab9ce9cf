//! The part of `peers.py` for GPUs, as far as it goes without one: its arguments, and the table of records that were kept.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::path::Path;
use std::process::{Command, Output};

/// Output of `peers.py gpu`; nothing on a machine without Python.
fn peers(args: &[&str]) -> Option<Output> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new("python3");
    python.arg(folder.join("peers.py")).arg("gpu").args(args);
    // No GPU that there may be is measured.
    let ran = python.env("CUDA_VISIBLE_DEVICES", "").output();
    if ran.is_err() {
        eprintln!("skipped: there is no python3");
    }
    ran.ok()
}

#[test]
fn records_that_were_kept_are_printed_as_a_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu");
    let sample = folder.join("sample.jsonl");
    let Some(output) = peers(&["--table", sample.to_str().unwrap()]) else {
        return;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let expected = std::fs::read_to_string(folder.join("sample.md")).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_built() {
    let cases: [(&[&str], &str); 6] = [
        (&[], "this machine has no GPU"),
        (&["--device", "cpu"], "`cpu` is no GPU; write cuda:0"),
        (&["--device", "cuda:x"], "`cuda:x` is no GPU"),
        (&["--gpu-memory", "8"], "--gpu-memory and --ram go together"),
        (&["--tokens", "0"], "--tokens and --prompt are at least 1"),
        (&["--model", "no/such"], "it has no config.json"),
    ];
    for (args, expected) in cases {
        let Some(output) = peers(args) else {
            return;
        };
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}
