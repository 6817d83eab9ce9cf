//! `llm-run doctor`: what it finds is told, and kept for plans.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Output, program, run};

/// Runs `llm-run doctor --quick` with a cache folder of its own.
fn doctor(caches: &Path, args: &[&str]) -> Output {
    let output = program()
        .args(["doctor", "--quick"])
        .args(args)
        .env("HOME", caches)
        .env("XDG_CACHE_HOME", caches)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Output {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

#[test]
fn what_is_printed_is_kept() {
    let caches = tempfile::tempdir().unwrap();
    let output = doctor(caches.path(), &["--json"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    let kept = caches.path().join("llm-run/doctor.json");
    assert_eq!(fs::read_to_string(&kept).unwrap(), output.stdout);
    let says = format!("kept for plans in {}", kept.display());
    assert!(output.stderr.contains(&says), "{}", output.stderr);
    // Nothing is left of the file that was read.
    assert_eq!(names(caches.path()), ["llm-run"]);
    assert_eq!(names(&caches.path().join("llm-run")), ["doctor.json"]);

    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    let number = |path: &str| found.pointer(path).and_then(Value::as_f64).expect(path);
    for positive in [
        "/machine/n_usable",
        "/bandwidth/ram_bytes_per_second",
        "/bandwidth/disk_bytes_per_second",
        "/ram/usable_bytes",
        "/ram/margin_bytes",
        "/disk/usable_bytes",
        "/disk/margin_bytes",
        "/disk/bytes_read",
    ] {
        assert!(number(positive) > 0.0, "{positive} in {found}");
    }
    assert!(number("/machine/n_usable") <= number("/machine/n_online"));
    assert!(number("/ram/free_bytes") <= number("/ram/available_bytes"));
    assert!(number("/ram/available_bytes") <= number("/ram/total_bytes"));
    let free = number("/ram/usable_bytes") + number("/ram/margin_bytes");
    assert_eq!(free, number("/ram/free_bytes"));
    // What plans count with, and nobody measured.
    for assumed in ["gpu", "pcie"] {
        assert!(number(&format!("/assumed/{assumed}_bytes_per_second")) > 0.0);
    }
    assert_eq!(found["assumed"]["disk_bytes_per_second"], Value::Null);
    assert!(found["suggestions"].is_array(), "{found}");
    let folder = found["bandwidth"]["disk_folder"].as_str().unwrap();
    assert_eq!(Path::new(folder), caches.path().join("llm-run"));
    assert!(found["no_gpu_reason"].as_str().unwrap().contains("driver"));
}

#[test]
fn a_table_says_the_same_to_people() {
    let (caches, offload) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = offload.path().to_str().unwrap();
    let output = doctor(caches.path(), &["--offload-folder", folder]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    for row in [
        "processors ",
        "SIMD ",
        "RAM ",
        "RAM limit ",
        "RAM for a model ",
        "RAM bandwidth ",
        "disk for offloading ",
        "disk bandwidth ",
        "GPUs ",
        "plans for GPUs ",
    ] {
        let is_there = output.stdout.lines().any(|line| line.starts_with(row));
        assert!(is_there, "{row} in: {}", output.stdout);
    }
    assert!(output.stdout.contains(folder), "{}", output.stdout);
    for figure in ["RAM bandwidth", "disk bandwidth"] {
        let line = output.stdout.lines().find(|line| line.starts_with(figure));
        assert!(line.unwrap().contains("measured"), "{}", output.stdout);
    }
    assert!(
        output.stdout.contains(" to it, assumed"),
        "{}",
        output.stdout
    );
    assert_eq!(names(offload.path()), [""; 0]);
}

#[test]
fn what_cannot_be_kept_is_printed_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // The cache folder would lie inside a file: neither the measured file nor the result can be written there.
    let output = doctor(&file, &[]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    for says in ["not measured in", "plans assume 1.00 GB/s", "\nsuggestion "] {
        assert!(output.stdout.contains(says), "{}", output.stdout);
    }
    assert!(
        output.stderr.contains("not kept for plans"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_folder_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let output = run(&["doctor", "--offload-folder", missing.to_str().unwrap()]);
    assert_eq!(output.code, 2);
    assert_eq!(output.stdout, "");
    assert_eq!(
        output.stderr,
        format!(
            "error: {} is no folder; make it, or name another\n",
            missing.display()
        )
    );
}
