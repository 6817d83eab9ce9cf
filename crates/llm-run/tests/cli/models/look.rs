//! Plans of models that nobody has downloaded.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{files, run};
use crate::hub::{Fault, Hub, HubFile, Rule};
use crate::support::{self, asset, fixture, json};

/// The files of a folder, or a file, as a hub has them.
fn files_of(path: &str) -> Vec<HubFile> {
    let path = Path::new(path);
    let paths = match path.is_dir() {
        true => fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect(),
        false => vec![path.to_owned()],
    };
    let files = paths.iter().map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        HubFile {
            is_large: !name.ends_with(".json"),
            ..HubFile::small(name, &fs::read(path).unwrap())
        }
    });
    files.collect()
}

/// What a command says of a model on a hub; bytes of weights that it was sent.
fn of_hub(command: &[&str], files: Vec<HubFile>) -> (Value, usize) {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(files, Vec::new());
    let words = [&[command[0], "org/name", "--json"], &command[1..]].concat();
    let output = run(&hub, home.path(), &words);
    assert!(output.code == 0, "{command:?}: {}", output.stderr);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    let sent = hub.requests().into_iter().map(|request| {
        let is_weights = !request.path.ends_with(".json") && request.path.contains("/resolve/");
        assert!(!is_weights || request.range.is_some(), "{}", request.path);
        request
            .range
            .filter(|_| is_weights)
            .map_or(0, |(begin, end)| end - begin)
    });
    let sent = sent.sum();
    (serde_json::from_str(&output.stdout).unwrap(), sent)
}

/// The same as of a folder, but for what the two are called, and for what is to be downloaded.
fn expect_same(command: &[&str], path: &str) -> (Value, usize) {
    let (mut found, sent) = of_hub(command, files_of(path));
    let words = [&[command[0], path, "--json"], &command[1..]].concat();
    let mut expected = json(&words);
    let to_download = found["to_download"].clone();
    for own in ["model", "path", "to_download"] {
        for said in [&mut found, &mut expected] {
            said.as_object_mut().unwrap().remove(own);
        }
    }
    assert_eq!(found, expected, "{command:?} {path}");
    (to_download, sent)
}

#[test]
fn a_plan_before_the_download_is_the_plan_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join("shards");
    let shards = shards.to_str().unwrap();
    let demo = asset("");
    let demo = demo.to_str().unwrap();
    let cut = support::run(&["shard", demo, shards, "--max-shard-size", "500KB"]);
    assert_eq!(cut.code, 0, "{}", cut.stderr);
    for path in [
        demo,
        shards,
        &fixture("demo/demo.gguf"),
        // Their configurations are read from tensors.
        &fixture("quantized/llama-nf4-double"),
        &fixture("packed/gptq-order-v2"),
        // No table for a head of its own, and one that is equal.
        &fixture("models/llama3-rope-tied"),
        // Read by headers alone.
        &fixture("faults/index-extra-entry/model"),
    ] {
        let n_bytes: usize = files_of(path).iter().map(|file| file.bytes.len()).sum();
        let (to_download, sent) = expect_same(&["plan", "--max-memory", "cpu=1GB,disk=1GB"], path);
        // What a model does not need is not counted.
        let bytes = to_download["bytes"].as_u64().unwrap() as usize;
        assert!(
            bytes <= n_bytes && to_download["missing"] == bytes,
            "{path}"
        );
        assert!(sent <= bytes / 4 || bytes < 1 << 20, "{path}: {sent} bytes");
    }
}

#[test]
fn what_is_in_a_file_is_seen_before_the_download() {
    for path in [
        asset("").to_str().unwrap(),
        &fixture("demo/demo.gguf"),
        &fixture("pickle/sharded"),
        &fixture("quantized/llama-int8"),
    ] {
        let (_, sent) = expect_same(&["inspect"], path);
        assert!(sent < 600_000, "{path}: {sent} bytes");
    }
}

#[test]
fn a_plan_tells_what_is_to_be_downloaded_and_goes_on_where_it_can() {
    let home = tempfile::tempdir().unwrap();
    let rules = vec![
        Rule::once("/api/", Fault::Status(429, "Retry-After: 0\r\n", "")),
        Rule::once("/model.", Fault::Cut(100)),
        Rule::once("/model.", Fault::Status(503, "", "")),
    ];
    let hub = Hub::start(files(), rules);
    let plan = run(&hub, home.path(), &["plan", "org/name"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    let line = plan.stdout.lines().last().unwrap();
    assert!(
        line.starts_with("to download: ") && line.contains(" files; "),
        "{line}"
    );
    assert!(plan.stdout.contains("org/name fits"), "{}", plan.stdout);
    assert!(plan.stderr.contains("trying again"), "{}", plan.stderr);

    // What is in the cache already is not to be downloaded.
    let gguf = run(&hub, home.path(), &["pull", "org/name:F16"]);
    assert_eq!(gguf.code, 0, "{}", gguf.stderr);
    let plan = run(&hub, home.path(), &["plan", "org/name:F16", "--json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(
        (&plan["to_download"], &plan["model"]),
        (&Value::Null, &"org/name".into())
    );
}

#[test]
fn a_plan_of_what_cannot_be_seen_says_why() {
    let no_repo = "X-Error-Code: RepoNotFound\r\n";
    for (rule, code, words) in [
        (
            Rule::always("/api/", Fault::Status(404, no_repo, "")),
            2,
            "there is no model at org/name: the hub has no org/name",
        ),
        (
            Rule::always("/model.", Fault::NoRanges),
            1,
            "the hub sends no parts of files",
        ),
        (
            Rule::always("/model.", Fault::OtherRange),
            1,
            "which was not asked for",
        ),
        (
            Rule::always(
                "/model.",
                Fault::Commit("1123456789abcdef0123456789abcdef01234567"),
            ),
            1,
            "the repository changed meanwhile",
        ),
        (
            Rule::always("/config.", Fault::Corrupt),
            1,
            "nothing of it is kept",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::start(files(), vec![rule]);
        let output = run(&hub, home.path(), &["plan", "org/name"]);
        assert_eq!(output.code, code, "{}", output.stderr);
        assert!(output.stderr.contains(words), "{}", output.stderr);
        assert_eq!(output.stdout, "");
    }
}
