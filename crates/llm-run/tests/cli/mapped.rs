//! Files that change while weights are computed with where they lie in them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::support::{asset, program};

#[test]
fn a_file_that_is_shortened_ends_the_run_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(asset(file), folder.path().join(file)).unwrap();
    }
    let mut child = program()
        .arg("generate")
        .arg(folder.path())
        .args(["--prompts", "-", "--max-new-tokens", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(lines, "\"Once upon a time\"").unwrap();
    let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
    assert_eq!(answer["generated_ids"].as_array().unwrap().len(), 4);
    let weights = folder.path().join("model.safetensors");
    let file = fs::File::options().write(true).open(&weights).unwrap();
    file.set_len(40_000).unwrap();
    writeln!(lines, "\"Once upon a time\"").unwrap();
    assert!(answers.next().is_none());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{:?}", output.status);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("model.safetensors was shortened while"),
        "{error}"
    );
}
