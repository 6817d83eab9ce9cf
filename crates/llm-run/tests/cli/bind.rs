//! Checkpoints that are not quite what their configurations say, from opening to generating.

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Output, fixture, json, run, run_with_stdin};

const IDS: [&str; 2] = ["--token-ids", "5,9,20,33,1"];

fn model(name: &str) -> String {
    fixture(&format!("faults/{name}/model"))
}

fn generated(model: &str, more: &[&str]) -> Value {
    let args = ["generate", model, "--max-new-tokens", "6", "--json"];
    let args = [&args[..], &["--ignore-eos"], &IDS, more].concat();
    json(&args)["generated_ids"].clone()
}

fn notes(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines.filter(|line| line.starts_with("note: ")).collect()
}

/// The names of a file's tensors.
fn names(path: &str) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

#[test]
fn what_was_decided_is_said_once_and_beside_the_results() {
    let cases = [
        ("extra-tensors-value-head", "`v_head.summary.weight`"),
        ("tied-config-own-head", "the stored head is used"),
        ("tied-only-head-stored", "used for both"),
        ("t5-resaved", "the stored head is used"),
    ];
    for (name, expected) in cases {
        let model = model(name);
        let args = ["generate", &model, "--max-new-tokens", "2", "--json"];
        for args in [&[&args[..], &IDS].concat()[..], &["plan", &model, "--json"]] {
            let output = run(args);
            assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
            let notes = notes(&output);
            assert!(
                notes.len() == 1 && notes[0].contains(expected),
                "{args:?}: {}",
                output.stderr
            );
            serde_json::from_str::<Value>(&output.stdout).unwrap();
        }
    }
}

#[test]
fn a_head_of_its_own_is_kept_by_what_is_written() {
    for name in ["tied-config-own-head", "t5-resaved"] {
        let (model, out) = (model(name), tempfile::tempdir().unwrap());
        let out = |folder: &str| out.path().join(folder).to_str().unwrap().to_owned();
        let (quantized, sharded) = (out("quantized"), out("sharded"));
        for args in [
            &["quantize", &model, &quantized, "--load-in-8bit"][..],
            &["shard", &model, &sharded],
        ] {
            let output = run(args);
            assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
        }
        for folder in [&quantized, &sharded] {
            let written = names(&format!("{folder}/model.safetensors"));
            assert!(
                written.contains(&"lm_head.weight".to_owned()),
                "{written:?}"
            );
        }
        assert_eq!(generated(&sharded, &[]), generated(&model, &[]), "{name}");
        let in_8_bits = generated(&model, &["--load-in-8bit"]);
        assert_eq!(generated(&quantized, &[]), in_8_bits, "{name}");
    }
    // A plan counts it: a table more than where it is the table.
    let weights = |name: &str| {
        let plan = json(&["plan", &model(name), "--json"]);
        plan["totals"]["weights"].as_u64().unwrap()
    };
    let (own, tied) = (
        weights("tied-config-own-head"),
        weights("tied-only-head-stored"),
    );
    assert_eq!(own, tied + 96 * 32 * 4);
}

#[test]
fn experts_in_one_tensor_go_wherever_others_go() {
    let (model, temp) = (model("moe-fused-experts"), tempfile::tempdir().unwrap());
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let offload = path("offload");
    let on_disk = [
        "--device-map",
        r#"{"": "disk"}"#,
        "--offload-folder",
        &offload,
    ];
    for kept in [
        &[][..],
        &["--dtype", "bf16"],
        &["--load-in-4bit"],
        &["--load-in-8bit"],
    ] {
        let expected = generated(&model, kept);
        let found = generated(&model, &[kept, &on_disk].concat());
        assert_eq!(found, expected, "{kept:?}");
    }
    let quantized = path("quantized");
    let output = run(&["quantize", &model, &quantized, "--load-in-4bit"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = run(&["inspect", &model, "--load-in-4bit"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = run(&[&["generate", &quantized, "--max-new-tokens", "2"][..], &IDS].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
}

#[test]
fn a_nan_is_traced_wherever_the_weights_rest() {
    let (model, temp) = (model("nan-weights-message"), tempfile::tempdir().unwrap());
    let offload = temp.path().to_str().unwrap();
    let on_disk = [
        "--device-map",
        r#"{"": "disk"}"#,
        "--offload-folder",
        offload,
    ];
    for kept in [&[][..], &["--dtype", "f16"], &on_disk] {
        let args = ["generate", &model, "--max-new-tokens", "1"];
        let output = run(&[&args[..], &IDS, kept].concat());
        let said = &output.stderr;
        assert_eq!(output.code, 2, "{said}");
        let is_traced = said.contains("holds NaN") && said.contains("model.safetensors");
        assert!(is_traced && !said.contains("--dtype"), "{said}");
        let output = run(&[&["score", &model][..], &IDS, kept].concat());
        assert!(output.stderr.contains("holds NaN"), "{}", output.stderr);
    }
}

/// A copy of a model of the fixtures with a NaN in the vector of token 100.
fn with_a_bad_token(name: &str, table: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = |file: &str| fixture(&format!("models/{name}/{file}"));
    std::fs::copy(from("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(from("model.safetensors")).unwrap();
    let (n_header, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let info = header.info(table).unwrap();
    let at = 8 + n_header + info.data_offsets.0 + 100 * info.shape[1] * 4;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

#[test]
fn one_prompts_nan_is_that_lines_error() {
    for (name, table) in [
        ("llama", "model.embed_tokens.weight"),
        ("t5-v1-style", "shared.weight"),
    ] {
        let model = with_a_bad_token(name, table);
        let model = model.path().to_str().unwrap();
        let prompts = [
            json!({"token_ids": [3, 1, 4]}),
            json!({"token_ids": [3, 100, 4]}),
            json!({"token_ids": [9, 2]}),
            json!({"token_ids": [5, 5, 5, 5]}),
        ];
        let lines: Vec<String> = prompts.iter().map(Value::to_string).collect();
        for batch in ["1", "3"] {
            let args = ["generate", model, "--prompts", "-", "--batch", batch];
            let args = [&args[..], &["--max-new-tokens", "3", "--ignore-eos"]].concat();
            let output = run_with_stdin(&args, &lines.join("\n"));
            assert_eq!(output.code, 2, "{}", output.stderr);
            let results = output.stdout.lines();
            let results: Vec<Value> = results.map(|r| serde_json::from_str(r).unwrap()).collect();
            assert_eq!(results.len(), 4, "{name}: {}", output.stdout);
            for result in results {
                let error = result["error"].as_str();
                match result["line"].as_u64().unwrap() {
                    2 => assert!(
                        error.is_some_and(|e| e.contains(table) && e.contains("NaN")),
                        "{result}"
                    ),
                    _ => assert!(error.is_none(), "{result}"),
                }
            }
        }
    }
}
