//! Inputs from the field, each in `tests/fixtures/faults/NAME` with what is right and why (`README.md`) and how that is
//! checked (`case.json`).

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::support::{Output, fixture, run};

/// Folders whose checks are known to fail: one that passes must leave the list.
const FAIL: &[&str] = &[];

#[test]
fn what_people_meet_is_answered_rightly() {
    let root = fixture("faults");
    let mut folders: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(&root).join(name).join("case.json").is_file())
        .collect();
    folders.sort_unstable();
    assert!(folders.len() >= 20, "{folders:?}");
    let mut wrong = Vec::new();
    for name in &folders {
        let folder = format!("{root}/{name}");
        let case: Value =
            serde_json::from_slice(&std::fs::read(format!("{folder}/case.json")).unwrap()).unwrap();
        let checks = case["checks"].as_array().unwrap();
        let failures: Vec<String> = checks
            .iter()
            .enumerate()
            .filter_map(|(i, check)| Some(format!("{name} #{i}: {}", failure(check, &folder)?)))
            .collect();
        match (FAIL.contains(&name.as_str()), failures.is_empty()) {
            (false, false) => wrong.extend(failures),
            (true, true) => wrong.push(format!("{name} passes: take it off the list")),
            (false, true) | (true, false) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Why a check fails, if it does. `$D` in it is the case's folder, `$T` a folder to write to.
fn failure(check: &Value, folder: &str) -> Option<String> {
    let temp = tempfile::tempdir().unwrap();
    let text = |value: &Value| {
        let value = value.as_str().unwrap().replace("$D", folder);
        value.replace("$T", temp.path().to_str().unwrap())
    };
    let texts = |key: &str| -> Vec<String> {
        let list = check[key].as_array();
        list.into_iter().flatten().map(text).collect()
    };
    let run_words = |words: &[String]| run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    match check["kind"].as_str().unwrap() {
        "logits" => {
            for words in check["before"].as_array().into_iter().flatten() {
                let words: Vec<String> = words.as_array().unwrap().iter().map(text).collect();
                let output = run_words(&words);
                if output.code != 0 {
                    let is_right = check["before_error_ok"] == true;
                    return (!is_right).then(|| said(&output));
                }
            }
            let expected = check["expected"].as_str().unwrap_or("expected.safetensors");
            let model = text(&check["model"]);
            let tolerance = check["tolerance"].as_f64().unwrap_or(1e-3) as f32;
            let expected = std::fs::read(format!("{folder}/{expected}")).unwrap();
            let out = temp.path().join("logits.safetensors");
            wrong_logits(&model, &texts("args"), &expected, &out, tolerance)
        }
        "json" => {
            let output = run_words(&texts("args"));
            if output.code != 0 {
                return Some(said(&output));
            }
            let found: Value = serde_json::from_str(&output.stdout).unwrap();
            let expected = check["equal"].as_object().unwrap();
            expected.iter().find_map(|(key, expected)| {
                (found[key] != *expected)
                    .then(|| format!("{key} is {}, expected {expected}", found[key]))
            })
        }
        "message" => {
            let output = run_words(&texts("args"));
            if check["or_ok"] == true && output.code == 0 {
                return None;
            }
            let said = format!("{}{}", output.stdout, output.stderr).to_lowercase();
            let has = |word: &String| said.contains(&word.to_lowercase());
            let any = texts("any");
            let lacks_all = !any.is_empty() && !any.iter().any(has);
            let missing = texts("all").iter().any(|word| !has(word)) || lacks_all;
            (missing || texts("none").iter().any(has)).then_some(said)
        }
        "names" => {
            let output = run_words(&texts("args"));
            if output.code != 0 {
                return (check["or_error"] != true).then(|| said(&output));
            }
            let bytes = std::fs::read(text(&check["file"])).unwrap();
            let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
            let tensors = header.tensors();
            if let Some(name) = texts("has")
                .iter()
                .find(|name| !tensors.contains_key(*name))
            {
                return Some(format!("{name} is missing"));
            }
            if let Some(name) = texts("lacks")
                .iter()
                .find(|name| tensors.contains_key(*name))
            {
                return Some(format!("{name} should not be there"));
            }
            let no_dtypes = texts("no_dtypes");
            let bad = |name: &String| {
                let dtype = serde_json::to_value(tensors[name].dtype).unwrap();
                no_dtypes.iter().any(|no| dtype == **no)
            };
            let bad = tensors.keys().find(|name| bad(name));
            bad.map(|name| format!("{name} is {:?}", tensors[name].dtype))
        }
        kind => panic!("no kind {kind} of check"),
    }
}

/// How the logits of `model` after each token differ from the expected ones, if they do by more than `tolerance`.
fn wrong_logits(
    model: &str,
    args: &[String],
    expected: &[u8],
    out: &Path,
    tolerance: f32,
) -> Option<String> {
    let expected = SafeTensors::deserialize(expected).unwrap();
    let ids = expected.tensor("input_ids").unwrap();
    let ids: Vec<String> = match ids.dtype() {
        Dtype::I64 => chunks::<8>(ids.data())
            .map(i64::from_le_bytes)
            .map(|id| id.to_string())
            .collect(),
        Dtype::I32 => chunks::<4>(ids.data())
            .map(i32::from_le_bytes)
            .map(|id| id.to_string())
            .collect(),
        dtype => panic!("ids of {dtype:?}"),
    };
    let (ids, out_path) = (ids.join(","), out.to_str().unwrap());
    let mut words = vec!["score", model, "--token-ids", &ids, "--logits", out_path];
    words.extend(["--threads", "1"]);
    words.extend(args.iter().map(String::as_str));
    let output = run(&words);
    if output.code != 0 {
        return Some(said(&output));
    }
    let found = std::fs::read(out).unwrap();
    let found = SafeTensors::deserialize(&found).unwrap();
    let (found, expected) = (
        found.tensor("logits").unwrap(),
        expected.tensor("logits").unwrap(),
    );
    if found.shape() != expected.shape() {
        return Some(format!(
            "logits {:?}, expected {:?}",
            found.shape(),
            expected.shape()
        ));
    }
    assert_eq!(expected.dtype(), Dtype::F32);
    let floats = |bytes| chunks::<4>(bytes).map(f32::from_le_bytes);
    let largest = floats(found.data())
        .zip(floats(expected.data()))
        .map(|(found, expected)| (found - expected).abs())
        // A NaN is the largest of all.
        .fold(
            0.0,
            |largest: f32, x| if x <= largest { largest } else { x },
        );
    let is_close = largest <= tolerance;
    (!is_close).then(|| format!("logits differ by {largest}"))
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn said(output: &Output) -> String {
    format!("exit code {}: {}", output.code, output.stderr.trim())
}
