//! Budgets that hold, and signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{INT8, NF4_DOUBLE, Place, write_model};
use crate::support::{json, program, signals, wait_until};

#[test]
fn what_ram_has_no_room_for_is_streamed_within_the_budget() {
    let (model, place) = (tempfile::tempdir().unwrap(), Place::new());
    write_model(model.path(), 6);
    let model = model.path().to_str().unwrap();
    let folder = place.folder();
    let folder = folder.to_str().unwrap();
    for kept in [&["--dtype", "bf16"][..], INT8, NF4_DOUBLE, &[]] {
        let plan = |budget: &str| {
            let args = ["plan", model, "--context", "12", "--offload-folder", folder];
            json(&[&args[..], &["--max-memory", budget, "--json"], kept].concat())
        };
        let in_ram = plan("cpu=1TB");
        let cpu = &in_ram["memories"]["cpu"];
        let weights = in_ram["totals"]["weights"].as_u64().unwrap();
        // About half of them, the staging places being taken off the other half.
        let budget = cpu["needed"].as_u64().unwrap() - weights / 4;
        let given = format!("cpu={budget}");
        let planned = plan(&given);
        assert_eq!(planned["fits"], true, "{}", planned["verdict"]);
        let planned = &planned["memories"]["cpu"];
        let resident = planned["weights"].as_u64().unwrap();
        println!("{kept:?}: {resident} of {weights} bytes of weights rest in RAM");
        assert!(resident > weights / 4 && resident < weights * 3 / 4);

        let args = [
            "generate",
            model,
            "--token-ids",
            "5,17,3",
            "--max-new-tokens",
            "9",
        ];
        let args = [&args[..], &["--context", "12", "--json"], kept].concat();
        let expected = json(&args);
        let flags = ["--max-memory", &given, "--offload-folder", folder];
        let found = json(&[&args[..], &flags].concat());
        assert_eq!(
            found["generated_ids"], expected["generated_ids"],
            "{kept:?}"
        );
        let memory = &found["memory"];
        let peak = memory["peak_resident_bytes"].as_u64().unwrap();
        println!("{kept:?}: {peak} bytes were resident, of {budget}");
        assert!(peak <= budget);
        let staging = &memory["allocated"]["staging"];
        assert_eq!(staging, &planned["staging"], "{kept:?}");
        assert!(staging.as_u64().unwrap() > 0, "{kept:?}");
    }
}

#[test]
fn a_signal_ends_a_streamed_answer_at_once() {
    let (model, place) = (tempfile::tempdir().unwrap(), Place::new());
    write_model(model.path(), 2);
    let size = fs::metadata(model.path().join("model.safetensors")).unwrap();
    let size = size.len();
    let model = model.path().to_str().unwrap();
    let args = [
        "generate",
        model,
        "--token-ids",
        "5,17,3",
        "--ignore-eos",
        "--json",
    ];
    let long = [&args[..], &["--max-new-tokens", "2000"]].concat();
    for (signal, code) in signals() {
        let mut child = program()
            .args(place.args(&long, "disk"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What is streamed is said when all is loaded.
        let mut said = BufReader::new(child.stderr.take().unwrap());
        said.read_line(&mut String::new()).unwrap();
        // Less than one pass is read ahead: after four there are tokens.
        let loaded = n_read(child.id());
        wait_until(|| n_read(child.id()) > loaded + 4 * size);
        let (kill, id) = (format!("kill -{signal} $0"), child.id().to_string());
        let sent = Command::new("sh").args(["-c", &kill, &id]).status();
        assert!(sent.unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{signal}");

        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(found["end"], "interrupted");
        let ids = found["generated_ids"].as_array().unwrap();
        assert!(!ids.is_empty() && ids.len() < 2000, "{} tokens", ids.len());
        let n = ids.len().min(20);
        let resident = json(&[&args[..], &["--max-new-tokens", &n.to_string()]].concat());
        assert_eq!(ids[..n], resident["generated_ids"].as_array().unwrap()[..]);
    }
}

/// Bytes that a process has read of files.
fn n_read(process: u32) -> u64 {
    let counts = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let read = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.unwrap().parse().unwrap()
}
