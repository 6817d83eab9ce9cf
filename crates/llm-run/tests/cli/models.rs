//! Models by name, from a hub of the test's own.

use std::fs;
use std::path::Path;

use serde_json::Value;

mod look;

use crate::hub::{Fault, Hub, HubFile, Rule};
use crate::support::{Output, asset, fixture, program};

/// The bundled model as a hub has it, and a GGUF of it.
fn files() -> Vec<HubFile> {
    let mut files = vec![
        HubFile::small("README.md", b"# Not needed"),
        HubFile::large(
            "story-F16.gguf",
            &fs::read(fixture("demo/demo.gguf")).unwrap(),
        ),
    ];
    for entry in fs::read_dir(asset("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".safetensors") || name.ends_with(".json") {
            files.push(HubFile {
                is_large: name.ends_with(".safetensors"),
                ..HubFile::small(name, &fs::read(&path).unwrap())
            });
        }
    }
    files
}

fn run(hub: &Hub, home: &Path, args: &[&str]) -> Output {
    let mut program = program();
    program.env("HF_ENDPOINT", hub.url()).env("HF_HOME", home);
    for variable in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"] {
        program.env_remove(variable);
    }
    let output = program.args(args).output().unwrap();
    Output {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_model_runs_by_its_name_as_by_its_folder() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(files(), vec![Rule::once("/model.", Fault::Cut(100))]);
    let run = |args: &[&str]| run(&hub, home.path(), args);
    let of = |model: &str| {
        let output = run(&[
            "generate",
            model,
            "Once upon a time",
            "--max-new-tokens",
            "8",
            "--json",
        ]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let json: Value = serde_json::from_str(&output.stdout).unwrap();
        json["generated_ids"].clone()
    };
    let folder = asset("");
    assert_eq!(of("org/name"), of(folder.to_str().unwrap()));
    let gguf = fixture("demo/demo.gguf");
    assert_eq!(of("org/name:f16"), of(&gguf));

    let pulled = run(&["pull", "org/name"]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    let plan = |model: &str| {
        // What is free changes from one moment to the next.
        let budgets = ["--max-memory", "cpu=1GB,disk=1GB"];
        let plan = run(&[&["plan", model, "--json"], &budgets[..]].concat()).stdout;
        let mut plan: Value = serde_json::from_str(&plan).unwrap();
        plan["model"].take();
        plan
    };
    assert_eq!(plan("org/name"), plan(pulled.stdout.trim()));

    let list: Value = serde_json::from_str(&run(&["list", "--json"]).stdout).unwrap();
    assert_eq!(list["models"][0]["model"], "org/name");
    assert_eq!(list["models"][0]["incomplete_bytes"], 0);
    assert!(run(&["list"]).stdout.contains("1 model, "));
    let removed = run(&["remove", "org/name"]);
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    assert!(run(&["list"]).stdout.contains("holds no models"));
    let removed = run(&["remove", "org/name"]);
    assert_eq!(removed.code, 2);
    assert!(
        removed.stderr.contains("see `llm-run list`"),
        "{}",
        removed.stderr
    );
}

#[test]
fn refusals_have_a_hint_and_exit_code_2() {
    let gated = "X-Error-Code: GatedRepo\r\n";
    let no_repo = "X-Error-Code: RepoNotFound\r\n";
    for (rule, args, code, words) in [
        (
            Rule::always("/model.", Fault::Status(401, gated, "")),
            &["pull", "org/name"][..],
            2,
            "set HF_TOKEN",
        ),
        (
            Rule::always("/api/", Fault::Status(401, no_repo, "")),
            &["generate", "org/nmae", "x"],
            2,
            "there is no model at org/nmae: the hub has no org/nmae",
        ),
        (
            Rule::once("none", Fault::NoRanges),
            &["generate", "org/name:Q9_Z", "x"],
            2,
            "no file is or has `Q9_Z`; there are",
        ),
        (
            Rule::once("none", Fault::NoRanges),
            &["pull", "../name"],
            2,
            "is no name on a hub",
        ),
        (
            Rule::once("none", Fault::NoRanges),
            &["remove", "org/name@v1"],
            2,
            "give org/name alone",
        ),
        (
            Rule::once("/model.", Fault::Corrupt),
            &["pull", "org/name"],
            1,
            "nothing of it is kept",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let hub = Hub::start(files(), vec![rule]);
        let output = run(&hub, home.path(), args);
        assert_eq!(output.code, code, "{}", output.stderr);
        assert!(output.stderr.contains(words), "{}", output.stderr);
        assert_eq!(output.stdout, "");
    }
}
