//! The binary as its users meet it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

mod activations;
mod bad_input;
mod batch;
mod bind;
mod cache;
mod chat;
mod config;
mod dialects;
mod doctor;
mod elements;
mod faults;
mod forms;
mod generation;
mod gpu;
#[path = "../../../llm-hub/tests/pull/hub.rs"]
mod hub;
mod inspect;
mod manual;
mod mapped;
mod memory;
mod models;
mod offload;
mod plan;
mod quantize;
mod serve;
mod shard;
mod signals;
mod size;
mod smollm2;
mod support;
mod verify;
mod words;

use serde_json::Value;
use support::{asset, json, run, run_with_stdin};

#[test]
fn without_arguments_a_story_is_told() {
    let output = run(&["generate", "--max-new-tokens", "20"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.starts_with("Once upon a time, ") && output.stdout.ends_with('\n'),
        "{}",
        output.stdout
    );
    for word in [
        "loaded in",
        "prompt 5 tokens at",
        "decode 19 tokens at",
        "peak memory",
    ] {
        assert!(output.stderr.contains(word), "{word} in: {}", output.stderr);
    }
}

/// Near-ties may fall either way: what follows one is another story.
const NEAR_TIE: f64 = 0.01;

#[test]
fn the_demo_model_tells_the_reference_librarys_stories() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(asset("expected.json")).unwrap()).unwrap();
    for case in expected["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let found = json(&[
            "generate",
            "demo",
            prompt,
            "--dtype",
            "f32",
            "--max-new-tokens",
            "120",
            "--json",
        ]);
        assert_eq!(found["prompt_ids"], case["input_ids"]);
        let margins = case["margins"].as_array().unwrap();
        let certain = margins
            .iter()
            .take_while(|m| m.as_f64().unwrap() >= NEAR_TIE)
            .count();
        let ids = |value: &Value| value.as_array().unwrap()[..certain].to_vec();
        assert_eq!(
            ids(&found["generated_ids"]),
            ids(&case["generated"]),
            "{prompt}"
        );
        assert_eq!(found["end"], "length");
    }
}

#[test]
fn prompts_come_from_arguments_files_standard_input_and_ids() {
    fn with<'a>(head: &[&'a str]) -> Vec<&'a str> {
        [head, &["--max-new-tokens", "8", "--json"]].concat()
    }
    let expected = json(&with(&["generate", "demo", "Once upon a time"]));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time").unwrap();
    let from_file = json(&with(&[
        "generate",
        "demo",
        "--prompt-file",
        file.to_str().unwrap(),
    ]));
    let from_ids = json(&with(&[
        "generate",
        "demo",
        "--token-ids",
        "1,456,455,261,457",
    ]));
    let piped = run_with_stdin(&with(&["generate", "demo", "-"]), "Once upon a time");
    let from_stdin: Value = serde_json::from_str(&piped.stdout).unwrap();
    for found in [from_file, from_ids, from_stdin] {
        for key in ["prompt_ids", "generated_ids", "text"] {
            assert_eq!(found[key], expected[key], "{key}");
        }
    }
}

#[test]
fn a_seed_repeats_a_choice_and_stop_strings_end_it() {
    let sampled = |seed| {
        let found = json(&[
            "generate",
            "--temperature",
            "1.3",
            "--seed",
            seed,
            "--max-new-tokens",
            "24",
            "--json",
        ]);
        assert_eq!(found["seed"].to_string(), seed);
        found["generated_ids"].clone()
    };
    assert_eq!(sampled("5"), sampled("5"));
    assert_ne!(sampled("5"), sampled("6"));

    let whole = json(&["generate", "--max-new-tokens", "40", "--json"]);
    let text = whole["text"].as_str().unwrap();
    let (before, _) = text
        .split_once("named")
        .expect("the demo's heroes have names");
    let stopped = json(&[
        "generate",
        "--max-new-tokens",
        "40",
        "--stop",
        "named",
        "--stop",
        "zebra",
        "--json",
    ]);
    assert_eq!(
        (
            stopped["text"].as_str().unwrap(),
            stopped["end"].as_str().unwrap()
        ),
        (before, "stop")
    );
}

#[test]
fn the_context_ends_what_nothing_else_does() {
    let found = json(&[
        "generate",
        "--ignore-eos",
        "--context",
        "16",
        "--max-new-tokens",
        "1000",
        "--json",
    ]);
    assert_eq!(found["end"], "context");
    // The last token's own position is never needed.
    assert_eq!(found["generated_ids"].as_array().unwrap().len(), 16 - 5 + 1);
}

#[test]
fn a_model_folder_without_a_tokenizer_does_for_ids() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(asset(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    let expected = json(&[
        "generate",
        "demo",
        "--token-ids",
        "1,456",
        "--max-new-tokens",
        "6",
        "--json",
    ]);
    let found = json(&[
        "generate",
        path,
        "--token-ids",
        "1,456",
        "--max-new-tokens",
        "6",
        "--json",
    ]);
    assert_eq!(found["generated_ids"], expected["generated_ids"]);
    assert_eq!(found["text"], Value::Null);
    let plain = run(&[
        "generate",
        path,
        "--token-ids",
        "1,456",
        "--max-new-tokens",
        "6",
    ]);
    let ids: Vec<Value> = plain
        .stdout
        .trim()
        .split(',')
        .map(|id| id.parse::<u32>().unwrap().into())
        .collect();
    assert_eq!(Value::from(ids), expected["generated_ids"]);
}

#[test]
fn score_sums_up_and_writes_logits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let path = out.to_str().unwrap();
    let args = [
        "score",
        "demo",
        "--token-ids",
        "1,456,455,261,457",
        "--dtype",
        "f32",
        "--logits",
        path,
        "--json",
    ];
    let found = json(&args);
    let log_probabilities = found["log_probabilities"].as_array().unwrap();
    assert_eq!(
        (log_probabilities.len(), &log_probabilities[0]),
        (5, &Value::Null)
    );
    let sum: f64 = log_probabilities.iter().filter_map(Value::as_f64).sum();
    let mean_nll = found["mean_nll"].as_f64().unwrap();
    assert!((mean_nll + sum / 4.0).abs() < 1e-9);
    assert!((found["perplexity"].as_f64().unwrap() - mean_nll.exp()).abs() < 1e-9);

    let bytes = std::fs::read(&out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = file.tensor("logits").unwrap();
    assert_eq!(
        (logits.shape(), logits.dtype()),
        (&[5, 1024][..], safetensors::Dtype::F32)
    );
    // The logits after the first token give the second one's probability.
    let row: Vec<f64> = logits.data()[..4096]
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b).into())
        .collect();
    let log_sum = row.iter().map(|l| l.exp()).sum::<f64>().ln();
    assert!((row[456] - log_sum - log_probabilities[1].as_f64().unwrap()).abs() < 1e-5);
}

#[test]
fn a_text_longer_than_the_context_is_scored_in_windows() {
    let ids = "1,456,455,261,457,14,261";
    let found = json(&[
        "score",
        "demo",
        "--token-ids",
        ids,
        "--context",
        "4",
        "--json",
    ]);
    let log_probabilities = found["log_probabilities"].as_array().unwrap();
    let unscored: Vec<usize> = (0..7).filter(|&i| log_probabilities[i].is_null()).collect();
    assert_eq!(unscored, [0, 4], "the first of each window");
    let second = json(&["score", "demo", "--token-ids", "457,14,261", "--json"]);
    assert_eq!(
        log_probabilities[5..],
        second["log_probabilities"].as_array().unwrap()[1..]
    );
}

#[test]
fn an_encoder_decoder_is_scored_by_its_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let (model, out) = (
        support::fixture("models/t5-flan-style"),
        out.to_str().unwrap(),
    );
    let expected =
        std::fs::read(std::path::Path::new(&model).join("expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    let ids = |name: &str| -> String {
        let ids = expected.tensor(name).unwrap().data().as_chunks().0.iter();
        ids.map(|id| i64::from_le_bytes(*id).to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let (encoder, decoder) = (ids("input_ids"), ids("decoder_input_ids"));
    let args = [
        "--token-ids",
        &encoder,
        "--decoder-token-ids",
        &decoder,
        "--logits",
        out,
        "--json",
    ];
    json(&[&["score", &model][..], &args].concat());

    let found = std::fs::read(out).unwrap();
    let found = safetensors::SafeTensors::deserialize(&found).unwrap();
    let logits = |file: &safetensors::SafeTensors<'_>| -> Vec<f32> {
        file.tensor("logits")
            .unwrap()
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    let (found, expected) = (logits(&found), logits(&expected));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let error = norm(&mut found.iter().zip(&expected).map(|(f, e)| f - e))
        / norm(&mut expected.iter().copied());
    assert!(
        found.len() == expected.len() && error <= 2e-4,
        "off by {error:.1e}"
    );

    let missing = run(&["score", &model, "--token-ids", "5,6"]);
    assert!(
        missing.code == 2 && missing.stderr.contains("--decoder-token-ids"),
        "{}",
        missing.stderr
    );
}
