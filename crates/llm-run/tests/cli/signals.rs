//! Programs that are asked to stop.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::chat::talkative;
use crate::support::{program, signals, wait_until};

fn start(args: &[&str]) -> Child {
    program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn send(signal: &str, child: &Child) {
    let (kill, id) = (format!("kill -{signal} $0"), child.id().to_string());
    let sent = Command::new("sh").args(["-c", &kill, &id]).status();
    assert!(sent.unwrap().success());
}

/// The exit code and what was said.
fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().expect("an exit of its own"), said)
}

#[test]
fn prompts_that_do_not_come_are_waited_for_no_longer() {
    for (signal, code) in signals() {
        let mut child = start(&["generate", "--prompts", "-", "-n", "2"]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"\"Once\"\n").unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let found: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(found["line"], 1);
        send(signal, &child);
        let (found, said) = ended(child);
        assert_eq!(found, code, "{signal}: {said}");
        assert!(said.contains("1 prompt ·"), "{signal}: {said}");
    }
}

#[test]
fn a_chat_that_nobody_types_into_ends() {
    let folder = talkative();
    for (signal, code) in &signals()[1..] {
        let mut child = start(&["chat", folder.path().to_str().unwrap(), "-n", "2"]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"Once\n").unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        send(signal, &child);
        assert_eq!(ended(child).0, *code, "{signal}");
    }
}

#[test]
fn an_interrupt_ends_an_answer_and_not_the_chat() {
    let folder = talkative();
    let mut child = start(&["chat", folder.path().to_str().unwrap()]);
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for _ in 0..3 {
        input.write_all(b"Once upon a time\n").unwrap();
        output.read_exact(&mut [0; 20]).unwrap();
        send("INT", &child);
        // Its end, wherever that is.
        output.read_line(&mut line).unwrap();
    }
    drop(input);
    let (code, said) = ended(child);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches("decode ").count(), 3, "{said}");
}

/// A checkpoint of zeros that takes no room on disk and a while to copy.
fn write_zeros(path: &Path) {
    let n = 600u64 << 20;
    let header = format!(
        r#"{{"x":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{n}]}}}}"#,
        n / 4
    );
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + n).unwrap();
}

#[test]
fn a_checkpoint_that_is_being_written_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("in.safetensors");
    write_zeros(&model);
    for (signal, code) in signals() {
        let out = folder.path().join(signal);
        let args = ["shard", model.to_str().unwrap(), out.to_str().unwrap()];
        let child = start(&args);
        let entries = || out.read_dir().map_or(0, Iterator::count);
        wait_until(|| entries() > 0);
        send(signal, &child);
        let (found, said) = ended(child);
        assert_eq!(found, code, "{signal}: {said}");
        assert_eq!(entries(), 0, "{signal}: {:?}", out.read_dir());
    }
}

#[test]
fn a_hangup_that_the_caller_has_ignored_is_ignored() {
    let mut child = Command::new("nohup")
        .args([
            env!("CARGO_BIN_EXE_llm-run"),
            "generate",
            "--prompts",
            "-",
            "-n",
            "2",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    input.write_all(b"\"Once\"\n").unwrap();
    output.read_line(&mut line).unwrap();
    send("HUP", &child);
    sleep(Duration::from_millis(200));
    input.write_all(b"\"The\"\n").unwrap();
    drop(input);
    output.read_to_string(&mut line).unwrap();
    assert_eq!(line.lines().count(), 2, "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
