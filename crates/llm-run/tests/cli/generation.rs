//! What `generation_config.json` and the flags for it make of an answer.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{fixture, json, run, run_with_stdin};

/// A model of the fixtures with a `generation_config.json` of its own.
struct Model(tempfile::TempDir);

impl Model {
    fn new(name: &str, generation_config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = fixture(&format!("models/{name}"));
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(Path::new(&source).join(name), folder.path().join(name)).unwrap();
        }
        let model = Model(folder);
        model.write("generation_config.json", generation_config);
        model
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn ids(&self, prompt: &str, flags: &[&str]) -> Value {
        let args = ["generate", self.path(), "--token-ids", prompt, "--json"];
        json(&[&args[..], flags].concat())["generated_ids"].clone()
    }
}

fn joined(ids: &Value) -> String {
    let ids = ids.as_array().unwrap().iter();
    ids.map(Value::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn answers_are_those_of_transformers_under_the_same_configuration() {
    let text = std::fs::read(fixture("generation/answers.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() > 150);
    let mut wrong = Vec::new();
    for case in &cases {
        let name = case["model"].as_str().unwrap();
        let model = Model::new(name, &case["config"].to_string());
        let found = model.ids(&joined(&case["prompt"]), &["--threads", "1"]);
        if found != case["ids"] {
            let (config, expected) = (&case["config"], &case["ids"]);
            wrong.push(format!("{name} {config}: {found}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn flags_do_what_the_files_keys_do() {
    struct Case<'a> {
        model: &'a str,
        config: Value,
        flags: &'a [&'a str],
    }
    let cases = [
        Case {
            model: "llama",
            config: json!({"eos_token_id": [50, 41, 42, 29, 16], "min_new_tokens": 9}),
            flags: &["--min-new-tokens", "9"],
        },
        Case {
            model: "llama",
            config: json!({"no_repeat_ngram_size": 1}),
            flags: &["--no-repeat-ngram-size", "1"],
        },
        Case {
            model: "gpt2",
            config: json!({"suppress_tokens": [5, 9, 60]}),
            flags: &["--suppress-tokens", "5,9,60"],
        },
        Case {
            model: "gpt2",
            config: json!({"sequence_bias": [[[5], -3.5], [[9], 2.0]]}),
            flags: &["--logit-bias", "5=-3.5", "--logit-bias", "9=2"],
        },
        Case {
            model: "gpt2",
            config: json!({"sequence_bias": [[[5], -3.5], [[9], 2.0]]}),
            flags: &["--logit-bias", "5=-3.5,9=2"],
        },
        Case {
            model: "t5-flan-style",
            config: json!({"num_beams": 4, "length_penalty": 0.5, "early_stopping": true}),
            flags: &[
                "--num-beams",
                "4",
                "--length-penalty",
                "0.5",
                "--early-stopping",
                "true",
            ],
        },
        Case {
            model: "llama",
            config: json!({"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never"}),
            flags: &[
                "--num-beams",
                "3",
                "--length-penalty",
                "-1",
                "--early-stopping",
                "never",
            ],
        },
        Case {
            model: "llama",
            config: json!({"repetition_penalty": 1.9}),
            flags: &["--repetition-penalty", "1.9"],
        },
    ];
    for Case {
        model,
        config,
        flags,
    } in cases
    {
        // The same ends of text, and nothing else, for the flags.
        let ends = json!({"eos_token_id": config.get("eos_token_id")});
        let (by_file, by_flags) = (config.to_string(), ends.to_string());
        let (by_file, by_flags) = (Model::new(model, &by_file), Model::new(model, &by_flags));
        let short = ["--max-new-tokens", "14"];
        let expected = by_file.ids("5,9,20", &short);
        let found = by_flags.ids("5,9,20", &[&short, flags].concat());
        assert_eq!(found, expected, "{flags:?}");
        // Flags are stronger than the file.
        let neutral = [
            "--num-beams",
            "1",
            "--min-new-tokens",
            "0",
            "--no-repeat-ngram-size",
            "0",
        ];
        let neutral = [&short[..], &neutral, &["--repetition-penalty", "1"]].concat();
        if config.get("sequence_bias").is_none() && config.get("suppress_tokens").is_none() {
            let (found, plain) = (
                by_file.ids("5,9,20", &neutral),
                by_flags.ids("5,9,20", &short),
            );
            assert_eq!(found, plain, "{flags:?}");
        }
    }
}

#[test]
fn presence_and_frequency_hold_generated_tokens_back() {
    let model = Model::new("llama", "{}");
    let n_different = |flags: &[&str]| {
        let ids = model.ids("1,17", &[&["-n", "40"], flags].concat());
        let ids = ids.as_array().unwrap().clone();
        let mut different: Vec<u64> = ids.iter().map(|id| id.as_u64().unwrap()).collect();
        different.sort_unstable();
        different.dedup();
        (ids.len(), different.len())
    };
    // So much that nothing comes twice; in the other direction the first comes again and again.
    assert_eq!(n_different(&["--presence-penalty", "100"]), (40, 40));
    assert_eq!(n_different(&["--frequency-penalty", "100"]), (40, 40));
    assert_eq!(n_different(&["--presence-penalty", "-100"]), (40, 1));
    assert_eq!(n_different(&["--frequency-penalty", "-100"]), (40, 1));
}

#[test]
fn a_file_that_samples_and_names_no_top_k_means_fifty() {
    let model = fixture("faults/top-k-default/model");
    let lines = "{\"token_ids\": [1, 5, 9], \"max_new_tokens\": 1}\n".repeat(600);
    let n_different = |flags: &[&str]| {
        let args = ["generate", &model, "--prompts", "-", "--batch", "32"];
        let output = run_with_stdin(&[&args[..], flags].concat(), &lines);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let id = |line| serde_json::from_str::<Value>(line).unwrap()["generated_ids"][0].as_u64();
        let mut ids: Vec<_> = output.stdout.lines().map(id).collect();
        assert_eq!(ids.len(), 600);
        ids.sort_unstable();
        ids.dedup();
        ids.len()
    };
    let n = n_different(&["--seed", "1"]);
    assert!((40..=50).contains(&n), "{n} of the fifty most probable");
    assert!(n_different(&["--top-k", "0", "--seed", "1"]) > 50);
    assert!(n_different(&["--top-k", "3"]) <= 3);
    assert_eq!(n_different(&["--greedy"]), 1);
}

#[test]
fn what_a_file_says_wrongly_is_the_users_to_mend() {
    let cases = [
        (r#"{"repetition_penalty": 0}"#, "`repetition_penalty` is 0"),
        (r#"{"top_p": 5, "do_sample": false}"#, "`top_p` is 5"),
        (r#"{"temperature": -1}"#, "`temperature` is -1"),
        (
            r#"{"bad_words_ids": [[131]]}"#,
            "`bad_words_ids` has token id 131",
        ),
        (
            r#"{"sequence_bias": [[[5, 4000], 1.0]]}"#,
            "`sequence_bias` has token id 4000",
        ),
        (
            r#"{"forced_eos_token_id": 131}"#,
            "`forced_eos_token_id` has token id 131",
        ),
        (r#"{"max_length": 3}"#, "give --max-new-tokens"),
        ("{", "EOF"),
    ];
    for (config, words) in cases {
        let model = Model::new("llama", config);
        let output = run(&["generate", model.path(), "--token-ids", "1,2,3"]);
        assert_eq!((output.code, &output.stdout[..]), (2, ""), "{config}");
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        for word in [words, "generation_config.json"] {
            assert!(output.stderr.contains(word), "{config}: {}", output.stderr);
        }
        // What does not generate does not ask.
        let scored = run(&["score", model.path(), "--token-ids", "1,2,3"]);
        assert_eq!(scored.code, 0, "{config}: {}", scored.stderr);
    }
}

#[test]
fn what_is_not_done_is_said_in_a_line() {
    let model = Model::new(
        "llama",
        r#"{"guidance_scale": 2.0, "use_cache": false, "stop_strings": "x"}"#,
    );
    let output = run(&["generate", model.path(), "--token-ids", "1,2", "-n", "2"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let said: Vec<&str> = output.stderr.lines().collect();
    assert!(
        said[0].ends_with(
            "generation_config.json: `guidance_scale` is not supported and was not applied"
        ),
        "{said:?}"
    );
    assert!(
        said[1].ends_with("`stop_strings` was not applied: there is no tokenizer"),
        "{said:?}"
    );
    assert_eq!(said.len(), 3, "and the closing line: {said:?}");
}

#[test]
fn an_old_config_holds_the_keys_where_there_is_no_file_of_their_own() {
    let model = Model::new("llama", "{}");
    let plain = model.ids("1,17,33", &["-n", "6"]);
    let config = std::fs::read(Path::new(model.path()).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["suppress_tokens"] = json!([plain[0]]);
    config["max_length"] = json!(7);
    model.write("config.json", &config.to_string());
    assert_eq!(
        model.ids("1,17,33", &["-n", "6"]),
        plain,
        "the other file says nothing"
    );
    std::fs::remove_file(Path::new(model.path()).join("generation_config.json")).unwrap();
    let found = model.ids("1,17,33", &[]);
    assert_eq!(found.as_array().unwrap().len(), 4, "up to 7 tokens");
    assert_ne!(found[0], plain[0]);
}

#[test]
fn stop_strings_and_the_time_end_answers() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(crate::support::asset(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    let write = |text: &str| {
        std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
    };
    write(r#"{"stop_strings": ["named", "zebra"]}"#);
    for beams in ["1", "3"] {
        let args = ["generate", path, "Once upon a time", "-n", "60", "--json"];
        let found = json(&[&args[..], &["--num-beams", beams]].concat());
        assert_eq!(found["end"], "stop", "{found}");
        assert!(!found["text"].as_str().unwrap().contains("named"));
    }
    write(r#"{"max_time": 0.0}"#);
    let args = [
        "generate",
        path,
        "Once upon a time",
        "--ignore-eos",
        "--json",
    ];
    let found = json(&args);
    assert_eq!(
        (
            found["end"].as_str(),
            found["generated_ids"].as_array().unwrap().len()
        ),
        (Some("time"), 1)
    );
}

#[test]
fn beams_draw_where_a_temperature_is_given() {
    let model = Model::new("llama", "{}");
    let draw = |seed| {
        model.ids(
            "1,17,33",
            &[
                "--num-beams",
                "3",
                "--temperature",
                "2",
                "-n",
                "8",
                "--seed",
                seed,
            ],
        )
    };
    assert_eq!(draw("1"), draw("1"));
    let different = ["2", "3", "4"].map(draw);
    assert!(different.iter().any(|ids| *ids != draw("1")));
}

#[test]
fn a_search_that_the_context_ends_is_whole() {
    let model = Model::new("llama", "{}");
    let args = [
        "generate",
        model.path(),
        "--token-ids",
        "1,17,33",
        "--json",
        "-c",
        "10",
        "-n",
        "50",
    ];
    let found = json(&[&args[..], &["--num-beams", "3"]].concat());
    assert_eq!(found["end"], "context");
    assert_eq!(found["generated_ids"].as_array().unwrap().len(), 8);
}

#[test]
fn flags_that_cannot_be_are_refused() {
    let cases: [(&[&str], &str); 9] = [
        (&["--num-beams", "0"], "--num-beams"),
        (&["--logit-bias", "x=1"], "42=-1.5"),
        (&["--logit-bias", "5"], "42=-1.5"),
        (&["--logit-bias", "5=NaN"], "42=-1.5"),
        (&["--logit-bias", "2000=1"], "--logit-bias: token id 2000"),
        (
            &["--suppress-tokens", "2000"],
            "--suppress-tokens: token id 2000",
        ),
        (&["--presence-penalty", "inf"], "--presence-penalty"),
        (
            &["--min-new-tokens", "9", "-n", "5"],
            "--min-new-tokens 9 is more than",
        ),
        (&["--top-k", "-1"], "--top-k"),
    ];
    for (flags, words) in cases {
        let output = run(&[&["generate", "demo", "Once"], flags].concat());
        assert_eq!(
            (output.code, &output.stdout[..]),
            (2, ""),
            "{flags:?}: {}",
            output.stderr
        );
        assert!(
            output.stderr.contains(words),
            "{flags:?}: {}",
            output.stderr
        );
    }
}
