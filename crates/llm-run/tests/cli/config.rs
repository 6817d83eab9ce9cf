//! Configurations with keys that nothing is known of.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::support::{fixture, run};

/// A copy of a model whose configuration has one key more.
fn model_with(folder: &Path, key: &str, value: Value) -> String {
    let source = fixture("models/llama");
    let source = Path::new(&source);
    let text = std::fs::read(source.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    config.insert(key.to_owned(), value);
    std::fs::write(
        folder.join("config.json"),
        Value::Object(config).to_string(),
    )
    .unwrap();
    let weights = "model.safetensors";
    std::fs::copy(source.join(weights), folder.join(weights)).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn unknown_keys_are_refused_and_passed_over_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let model = model_with(folder.path(), "rope_thetta", json!(1e6));
    let commands: [&[&str]; 5] = [
        &["score", &model, "--token-ids", "1,2,3"],
        &[
            "generate",
            &model,
            "--token-ids",
            "1,2",
            "--max-new-tokens",
            "1",
        ],
        &["plan", &model],
        &["inspect", &model, "--dtype", "f16"],
        &["quantize", &model, out, "--load-in-8bit"],
    ];
    for command in commands {
        let refused = run(command);
        assert_eq!(refused.code, 2, "{command:?}: {}", refused.stderr);
        for words in [
            "`rope_thetta`: 1000000.0",
            "`rope_theta`?",
            "--allow-unknown-config",
        ] {
            assert!(
                refused.stderr.contains(words),
                "{command:?}: {}",
                refused.stderr
            );
        }
        let passed = run(&[command, &["--allow-unknown-config"]].concat());
        assert_eq!(passed.code, 0, "{command:?}: {}", passed.stderr);
        let note = "passed over a key of the configuration: `rope_thetta`: 1000000.0";
        assert_eq!(
            passed.stderr.matches(note).count(),
            1,
            "{command:?}: {}",
            passed.stderr
        );
    }
}

#[test]
fn a_plan_of_a_configuration_alone_passes_over_keys_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_with(folder.path(), "frobnicate", json!(true));
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let refused = run(&["plan", &model]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--allow-unknown-config"),
        "{}",
        refused.stderr
    );
    let passed = run(&["plan", &model, "--allow-unknown-config"]);
    assert_eq!(passed.code, 0, "{}", passed.stderr);
    assert!(
        passed.stderr.contains("`frobnicate`: true"),
        "{}",
        passed.stderr
    );
}

#[test]
fn a_number_that_is_none_is_named_where_it_matters() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_with(folder.path(), "rms_norm_eps", json!("EPS"));
    let path = folder.path().join("config.json");
    for (text, words) in [
        ("NaN", "`rms_norm_eps` is NaN"),
        ("-Infinity", "`rms_norm_eps` is -Infinity"),
        ("1e999", "`rms_norm_eps` is Infinity"),
        ("Infinit", "line 1 column"),
    ] {
        let config = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, config.replace("\"EPS\"", text)).unwrap();
        let refused = run(&["score", &model, "--token-ids", "1,2,3"]);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        std::fs::write(&path, config).unwrap();
    }
}
