//! SmolLM2-135M-Instruct against what the reference library makes of it in float32.
//!
//! `cargo xtask fetch-model smollm2` brings the model. Without it these tests say that they are skipped, unless
//! `LLM_RUN_REQUIRE_MODELS` is set, as the project's CI does.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{json, run};

/// The model and what is expected of it; nothing where it was not fetched.
fn smollm2() -> Option<(PathBuf, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let model = root.join("models/smollm2");
    if !model.is_dir() {
        let is_required = std::env::var_os("LLM_RUN_REQUIRE_MODELS").is_some();
        assert!(
            !is_required,
            "{} is missing; run cargo xtask fetch-model smollm2",
            model.display()
        );
        println!("skipped: run cargo xtask fetch-model smollm2");
        return None;
    }
    let expected = std::fs::read(root.join("tests/fixtures/smollm2.json")).unwrap();
    Some((model, serde_json::from_slice(&expected).unwrap()))
}

/// From here on rounding may choose another token.
const NEAR_TIE: f64 = 0.01;
/// The same where keys and values are rounded to bf16.
const NEAR_TIE_BF16: f64 = 0.05;

#[test]
fn prompts_and_chats_continue_as_the_reference_library_does() {
    let Some((model, expected)) = smollm2() else {
        return;
    };
    for case in expected["cases"].as_array().unwrap() {
        let mut args = vec!["generate", model.to_str().unwrap()];
        match case["prompt"].as_str() {
            Some(prompt) => args.push(prompt),
            None => {
                let messages = case["chat"].as_array().unwrap();
                for message in messages {
                    let content = message["content"].as_str().unwrap();
                    match message["role"].as_str().unwrap() {
                        "system" => args.extend(["--system", content]),
                        "user" => args.extend(["--chat", content]),
                        role => panic!("a case of one question, not of {role}"),
                    }
                }
            }
        }
        args.extend([
            "--dtype",
            "f32",
            "--max-new-tokens",
            "64",
            "--ignore-eos",
            "--json",
        ]);
        let found = json(&args);
        // Byte-level BPE is reversible: equal ids are equal renderings.
        assert_eq!(found["prompt_ids"], case["input_ids"], "{case}");
        let margins = case["margins"].as_array().unwrap();
        let certain = margins
            .iter()
            .take_while(|m| m.as_f64().unwrap() >= NEAR_TIE)
            .count();
        let ids = |value: &Value| value.as_array().unwrap()[..certain].to_vec();
        assert_eq!(
            ids(&found["generated_ids"]),
            ids(&case["generated"]),
            "{case}"
        );
        if certain == margins.len() && case["chat"].is_null() {
            assert_eq!(found["text"], case["text"]);
        }
    }
}

/// As the file has it, in 4 bits: the ids of the decoded weights in float32, but that keys and values are in bf16.
#[test]
fn blocks_as_stored_continue_as_decoded_weights_do() {
    let Some((model, expected)) = smollm2() else {
        return;
    };
    for case in expected["cases"].as_array().unwrap() {
        let ids = case["input_ids"].as_array().unwrap();
        let ids: Vec<String> = ids.iter().map(Value::to_string).collect();
        let found = json(&[
            "generate",
            model.to_str().unwrap(),
            "--token-ids",
            &ids.join(","),
            "--max-new-tokens",
            "64",
            "--greedy",
            "--ignore-eos",
            "--json",
        ]);
        let margins = case["margins"].as_array().unwrap();
        let certain = margins
            .iter()
            .take_while(|m| m.as_f64().unwrap() >= NEAR_TIE_BF16)
            .count();
        let ids = |value: &Value| value.as_array().unwrap()[..certain].to_vec();
        assert_eq!(ids(&found["generated_ids"]), ids(&case["generated"]));
        // The file, the keys and values, and what any run takes.
        let resident = found["memory"]["peak_resident_bytes"].as_u64().unwrap();
        assert!(
            resident <= 98_400_000 + 5_000_000 + 60_000_000,
            "{resident}"
        );
    }
}

#[test]
fn perplexity_is_the_reference_librarys() {
    let Some((model, expected)) = smollm2() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("text.txt");
    std::fs::write(&file, expected["score"]["text"].as_str().unwrap()).unwrap();
    let (model, file) = (model.to_str().unwrap(), file.to_str().unwrap());
    let perplexity = expected["score"]["perplexity"].as_f64().unwrap();
    for (dtype, tolerance) in [("f32", 1e-4), ("auto", 0.005)] {
        let found = json(&["score", model, "--text", file, "--dtype", dtype, "--json"]);
        assert_eq!(found["token_ids"], expected["score"]["input_ids"]);
        let error = found["perplexity"].as_f64().unwrap() / perplexity - 1.0;
        assert!(
            error.abs() <= tolerance,
            "{dtype}: perplexity is off by {error:+.2e}"
        );
    }
}

/// The readme's way: fetched, quantized, run.
#[test]
fn the_fetched_model_is_quantized_and_runs_as_it_does_quantized_at_load() {
    let Some((model, _)) = smollm2() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("nf4");
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let written = run(&["quantize", model, out, "--load-in-4bit"]);
    assert_eq!(written.code, 0, "{}", written.stderr);
    let inspected = json(&["inspect", out, "--json"]);
    assert_eq!(inspected["transformers"]["loads"], true);
    let speak = |model: &str, flags: &[&str]| {
        let chat = [
            "--chat",
            "What is the capital of France?",
            "--max-new-tokens",
            "8",
            "--greedy",
        ];
        let found = json(&[&["generate", model, "--json"][..], &chat, flags].concat());
        (
            found["prompt_ids"].clone(),
            found["generated_ids"].clone(),
            found["text"].clone(),
        )
    };
    let at_load = speak(model, &["--load-in-4bit", "--dtype", "bf16"]);
    assert_eq!(speak(out, &[]), at_load);
}
