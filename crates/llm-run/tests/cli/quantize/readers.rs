//! Who reads what is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llm_checkpoint::Checkpoint;
use safetensors::SafeTensors;
use serde_json::{Map, Value};

use crate::support::{Output, fixture, json, logits, run};

/// The flags for the encodings of `saved.json`.
fn flags(encoding: &str) -> &'static [&'static str] {
    match encoding {
        "int8" => &["--load-in-8bit"],
        "nf4" => &["--load-in-4bit"],
        "nf4 double" => &["--load-in-4bit", "--double-quant"],
        other => panic!("no encoding {other}"),
    }
}

fn quantize(model: &str, out: &Path, flags: &[&str]) -> Output {
    let out = out.to_str().unwrap();
    let output = run(&[&["quantize", model, out][..], flags].concat());
    assert_eq!(output.code, 0, "{model} {flags:?}: {}", output.stderr);
    output
}

fn config(folder: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

/// The tensors of a checkpoint in one file, in the words of `saved.json`.
fn listed(folder: &Path, encoding: &str) -> BTreeMap<String, String> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (name, tensor) in header.tensors() {
        let parts = name.split('.').map(|part| match part.parse::<usize>() {
            Ok(_) => "{}",
            Err(_) => part,
        });
        let name = parts.collect::<Vec<_>>().join(".");
        let shape = match encoding == "nf4 double" && name.contains("quant_state") {
            true => "state".to_owned(),
            false => format!("{:?}", tensor.shape),
        };
        let what = format!("{:?} {shape}", tensor.dtype);
        *counts.entry((name, what)).or_default() += 1;
    }
    let line = |((name, what), n)| (name, format!("{what} x{n}"));
    counts.into_iter().map(line).collect()
}

/// What transformers saves is what it loads: other tensors, types or shapes than these it refuses, or computes nothing
/// with.
#[test]
fn every_family_is_written_as_transformers_saves_it() {
    let saved = fs::read(fixture("saved/saved.json")).unwrap();
    let saved: Value = serde_json::from_slice(&saved).unwrap();
    for (model, encodings) in saved["tensors"].as_object().unwrap() {
        for (encoding, expected) in encodings.as_object().unwrap() {
            let source = fixture(&format!("models/{model}"));
            let out = tempfile::tempdir().unwrap();
            let out = out.path().join("out");
            quantize(&source, &out, flags(encoding));
            let found = listed(&out, encoding);
            let expected: BTreeMap<String, String> =
                serde_json::from_value(expected.clone()).unwrap();
            let differ = |(name, what): &(&String, &String)| found.get(*name) != Some(what);
            let first = expected.iter().find(differ);
            assert_eq!(
                first,
                None,
                "{model} {encoding}: {:?}",
                first.map(|(name, _)| found.get(name))
            );
            assert_eq!(found.len(), expected.len(), "{model} {encoding}");

            let mut config = config(&out);
            let quantization = config.remove("quantization_config").unwrap();
            assert_eq!(
                quantization, saved["quantization_config"][encoding],
                "{model}"
            );
            assert_eq!(
                config,
                self::config(Path::new(&source)),
                "{model} {encoding}"
            );
        }
    }
}

#[test]
fn what_transformers_does_not_quantize_is_written_so_on_request_and_both_are_told() {
    struct Case {
        model: &'static str,
        /// A matrix that transformers does not quantize.
        matrix: &'static str,
        words: &'static str,
    }
    for Case {
        model,
        matrix,
        words,
    } in [
        Case {
            model: "qwen3-moe-mixed",
            matrix: "model.layers.2.mlp.experts.5.down_proj",
            words: "experts in one parameter",
        },
        Case {
            model: "mixtral",
            matrix: "model.layers.0.block_sparse_moe.experts.0.w1",
            words: "experts in one parameter",
        },
        Case {
            model: "falcon-40b-style",
            matrix: "transformer.h.1.mlp.dense_h_to_4h",
            words: "FalconLinear",
        },
    ] {
        for encoding in ["int8", "nf4 double"] {
            let source = fixture(&format!("models/{model}"));
            let folder = tempfile::tempdir().unwrap();
            let (plain, all) = (folder.path().join("plain"), folder.path().join("all"));
            let is_quantized = |out: &Path| {
                let checkpoint = Checkpoint::open(out).unwrap();
                let scales = [format!("{matrix}.SCB"), format!("{matrix}.weight.absmax")];
                scales.iter().any(|name| checkpoint.get(name).is_some())
            };
            let inspect = |out: &Path| json(&["inspect", out.to_str().unwrap(), "--json"]);

            let output = quantize(&source, &plain, flags(encoding));
            for word in [words, "stay dense", "--all-linear"] {
                assert!(output.stderr.contains(word), "{model}: {}", output.stderr);
            }
            assert!(!is_quantized(&plain), "{model}");
            let found = inspect(&plain);
            let expected = match model.starts_with("falcon") {
                // Nothing is quantized, and there is nothing to tell.
                true => Value::Null,
                false => Value::Bool(true),
            };
            assert_eq!(found["transformers"]["loads"], expected, "{model}");
            let is_marked = |report: &Value| !report["metadata"]["llm_run.quantized"].is_null();
            assert!(!is_marked(&found), "{model}");

            let output = quantize(
                &source,
                &all,
                &[flags(encoding), &["--all-linear"]].concat(),
            );
            assert!(
                output.stderr.contains("transformers does not"),
                "{}",
                output.stderr
            );
            assert!(output.stderr.contains(words), "{model}: {}", output.stderr);
            assert!(is_quantized(&all), "{model}");
            let found = inspect(&all);
            assert_eq!(found["transformers"]["loads"], false, "{model}");
            assert!(is_marked(&found), "{model}");
            let text = run(&["inspect", all.to_str().unwrap()]).stdout;
            let line = text
                .lines()
                .find(|line| line.starts_with("loads in transformers: no"));
            assert!(line.is_some_and(|line| line.contains(words)), "{text}");

            // In memory everything is quantized, be it written or not.
            let generate = [
                "--token-ids",
                "5,6,7,8",
                "--max-new-tokens",
                "12",
                "--greedy",
                "--json",
            ];
            let ids = |model: &str, flags: &[&str]| {
                json(&[&["generate", model][..], &generate, flags].concat())["generated_ids"]
                    .clone()
            };
            let expected = ids(&source, flags(encoding));
            assert_eq!(ids(all.to_str().unwrap(), &[]), expected, "{model}");
            assert!(ids(plain.to_str().unwrap(), &[]).is_array(), "{model}");
        }
    }
}

/// There the list of what is not quantized stands instead of the defaults, and a head that is the table of tokens would be
/// computed with codes that nobody made.
#[test]
fn a_head_that_is_the_table_of_tokens_is_on_the_list_of_what_is_not_quantized() {
    for (model, skipped, expected) in [
        (
            "llama3-rope-tied",
            "down_proj",
            &["down_proj", "lm_head"][..],
        ),
        ("gpt2", "c_fc,lm_head", &["c_fc", "lm_head"]),
        // Tied in transformers, whatever is stored.
        ("t5-flan-style", "q", &["q", "lm_head"]),
        ("llama", "down_proj", &["down_proj"]),
        ("gpt-neox", "dense", &["dense"]),
    ] {
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let flags = ["--load-in-4bit", "--skip-modules", skipped];
        let output = quantize(&fixture(&format!("models/{model}")), &out, &flags);
        let found = &config(&out)["quantization_config"]["llm_int8_skip_modules"];
        assert_eq!(*found, serde_json::json!(expected), "{model}");
        let is_said = output.stderr.contains("lm_head is not quantized");
        assert_eq!(
            is_said,
            expected.len() > skipped.split(',').count(),
            "{model}"
        );
        let head = format!(
            "{}.weight.absmax",
            if model == "gpt-neox" {
                "embed_out"
            } else {
                "lm_head"
            }
        );
        let is_quantized = Checkpoint::open(&out).unwrap().get(&head).is_some();
        assert_eq!(is_quantized, !expected.contains(&"lm_head"), "{model}");
        let found = json(&["inspect", out.to_str().unwrap(), "--json"]);
        assert_eq!(found["transformers"]["loads"], true, "{model}");
    }
}

/// What is beside the text half is not read, and with its configuration transformers would make it up.
#[test]
fn a_text_half_is_written_as_a_model_of_its_own() {
    let source = fixture("faults/gemma3-multimodal/model");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = quantize(&source, &out, &["--load-in-8bit"]);
    assert!(
        output.stderr.contains("model of its own: gemma3_text"),
        "{}",
        output.stderr
    );
    let config = config(&out);
    assert_eq!(config["model_type"], "gemma3_text");
    for key in ["vision_config", "text_config", "architectures"] {
        assert!(!config.contains_key(key), "{key}");
    }
    let checkpoint = Checkpoint::open(&out).unwrap();
    let name = "model.layers.0.mlp.down_proj.SCB";
    assert!(checkpoint.get(name).is_some(), "{name}");
    let out = out.to_str().unwrap();
    assert!(logits(out, &[]) == logits(&source, &["--load-in-8bit"]));
    let inspected = json(&["inspect", out, "--json"]);
    assert_eq!(inspected["transformers"]["loads"], true);
}
