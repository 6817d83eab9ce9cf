//! Running the binary.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(args: &[&str]) -> Output {
    run_with_stdin(args, "")
}

/// The program, which no GPU of the machine is shown: what it computes is to be the same everywhere.
pub(crate) fn program() -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_llm-run"));
    program.env("CUDA_VISIBLE_DEVICES", "");
    // A name that is no path is not looked for on the network.
    program.env("HF_HUB_OFFLINE", "1");
    program
}

pub(crate) fn run_with_stdin(args: &[&str], stdin: &str) -> Output {
    let mut child = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails at once does not read its input: that is no error here.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a command that succeeds prints as one JSON object.
pub(crate) fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    serde_json::from_str(&output.stdout).unwrap()
}

/// A file of the bundled model.
pub(crate) fn asset(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("assets/demo")
        .join(name)
}

/// A file or folder of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> String {
    format!("{}/../../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Signals that ask a program to stop, and the exit codes then. Under `nohup` a program is to ignore a hangup, as
/// its caller does.
pub(crate) fn signals() -> Vec<(&'static str, i32)> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    let mut signals = vec![("INT", 130), ("TERM", 143)];
    if ignored & 1 == 0 {
        signals.push(("HUP", 129));
    }
    signals
}

/// Waits for `is_so`, which comes soon.
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never comes");
        sleep(Duration::from_millis(1));
    }
}

/// What `score` writes of a model's logits after some tokens.
pub(crate) fn logits(model: &str, flags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let ids = "40,41,42,43,44,45,46,47,48";
    let args = ["score", model, "--token-ids", ids, "--logits"];
    let output = run(&[&args[..], &[path.to_str().unwrap()], flags].concat());
    assert_eq!(output.code, 0, "{model}: {}", output.stderr);
    std::fs::read(path).unwrap()
}
