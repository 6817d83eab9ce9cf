//! A GGUF written as a checkpoint with a config.json.

use std::fs;
use std::path::Path;

use llm_arch::{ModelSpec, Positions, RopeScaling};
use llm_checkpoint::{Checkpoint, TensorInfo};
use llm_runtime::BoundModel;
use serde_json::{Value, json as value};

use crate::support::{Output, fixture, json, logits, run};

/// Writes with a command and its flags.
fn write(command: &[&str], model: &str, out: &Path) -> Output {
    let out = out.to_str().unwrap();
    let args = [&command[..1], &[model, out], &command[1..]].concat();
    let output = run(&args);
    assert_eq!(output.code, 0, "{args:?}: {}", output.stderr);
    output
}

fn values(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Vec<f32> {
    let bytes = checkpoint.view(&tensor.name).unwrap().unwrap();
    let words = bytes.as_chunks::<4>().0;
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// The files of the fixtures with what they were made of.
fn pairs() -> Vec<(String, String, String)> {
    let folder = fixture("gguf-models");
    let names = fs::read_dir(&folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let name = |file: String| file.strip_suffix(".gguf").map(str::to_owned);
    let mut names: Vec<_> = names.filter_map(name).collect();
    // Those whose matrices lie otherwise in one there.
    names.retain(|name| !UNWRITTEN.contains(&name.as_str()));
    names.sort_unstable();
    assert!(names.len() >= 41, "{names:?}");
    let pair = |name: String| {
        let (gguf, model) = (
            format!("{folder}/{name}.gguf"),
            fixture(&format!("models/{name}")),
        );
        (name, gguf, model)
    };
    names.into_iter().map(pair).collect()
}

const UNWRITTEN: [&str; 18] = [
    "deepseek-v2-groups",
    "falcon-h1-biases",
    "falcon-h1-norm",
    "gemma3n",
    "gemma4-moe",
    "glm",
    "glm-moe-dsa-sparse",
    "glm4-moe-lite",
    "gpt-oss",
    "granite4",
    "granitemoe",
    "granitemoeshared",
    "kimi-linear",
    "llama4",
    "llama4-mixed",
    "qwen3-5",
    "qwen3-5-moe",
    "qwen3-next",
];

#[test]
fn a_gguf_that_no_checkpoint_would_be_like_is_refused_with_the_reason() {
    for name in UNWRITTEN {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let gguf = format!("{}/{name}.gguf", fixture("gguf-models"));
        let output = run(&["shard", "--to-hf", &gguf, out.to_str().unwrap()]);
        assert_ne!(output.code, 0, "{name}");
        assert!(output.stderr.contains(" there"), "{}", output.stderr);
        assert!(!out.exists(), "{name}");
    }
}

/// That `found` holds what `expected` does, but for what one was added to and taken from again, in f32.
fn assert_same_tensors(found: &Checkpoint, expected: &Checkpoint, about: &str) {
    assert_eq!(found.tensors().len(), expected.tensors().len(), "{about}");
    for tensor in expected.tensors() {
        let own = found.get(&tensor.name);
        let own = own.unwrap_or_else(|| panic!("{about}: no {}", tensor.name));
        let about = format!("{about}: {}", tensor.name);
        let kind = |tensor: &TensorInfo| (tensor.shape.clone(), tensor.encoding);
        assert_eq!(kind(own), kind(tensor), "{about}");
        let is_gain = tensor.name.ends_with("norm.weight");
        let most = match about.as_str() {
            // Both ways of a logarithm round.
            name if name.ends_with("A_log") => Some(4.0 * f32::EPSILON),
            name if is_gain && (name.starts_with("gemma") || name.starts_with("nemotron")) => {
                Some(f32::EPSILON)
            }
            _ => None,
        };
        if let Some(most) = most {
            let pairs = values(found, own).into_iter().zip(values(expected, tensor));
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(largest <= most, "{about}: {largest}");
            continue;
        }
        let bytes = |checkpoint: &Checkpoint| checkpoint.view(&tensor.name).unwrap().unwrap();
        assert!(bytes(found)[..] == bytes(expected)[..], "{about}");
    }
}

/// A GGUF has the factors of a long rope, and the magnitude of a stretched one, in f32.
fn round_factors(spec: &mut ModelSpec) {
    let Positions::Rotary(kinds) = &mut spec.decoder.positions else {
        return;
    };
    for rotary in kinds {
        // HunYuan's is a power of what its configuration has.
        rotary.base = f64::from(rotary.base as f32);
        if let RopeScaling::Yarn { magnitude, .. } = &mut rotary.scaling {
            *magnitude = f64::from(*magnitude as f32);
        }
        if let RopeScaling::LongRope {
            short,
            long,
            magnitude,
            ..
        } = &mut rotary.scaling
        {
            let factors = short.iter_mut().chain(long).chain([magnitude]);
            factors.for_each(|factor| *factor = f64::from(*factor as f32));
        }
    }
}

/// Names, order of rows, order of the matrix, gains: all as in the checkpoint that the GGUF was made of.
#[test]
fn a_gguf_becomes_the_checkpoint_that_it_was_made_of() {
    for (name, gguf, model) in pairs() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        write(
            &["shard", "--to-hf", "--max-shard-size", "200KB"],
            &gguf,
            &out,
        );
        let expected = BoundModel::open(Path::new(&model)).unwrap();
        let found = BoundModel::open(&out).unwrap();
        let (mut found_spec, mut expected_spec) = (found.spec().clone(), expected.spec().clone());
        for spec in [&mut found_spec, &mut expected_spec] {
            let is_untold = ["gemma", "cohere2", "smollm3", "starcoder2"];
            if is_untold.iter().any(|start| name.starts_with(start)) {
                // A GGUF does not say what scores are scaled by, or which layers slide and turn.
                spec.decoder.layers.clear();
            }
            round_factors(spec);
        }
        assert_eq!(found_spec, expected_spec, "{name}");
        let found = found.checkpoint();
        assert!(found.files().len() > 1, "{name}");
        assert_same_tensors(found, expected.checkpoint(), &name);
    }
}

#[test]
fn a_gguf_is_quantized_as_the_checkpoint_that_it_was_made_of() {
    for (name, gguf, model) in pairs() {
        for flags in [
            &["--load-in-8bit"][..],
            &["--load-in-4bit", "--double-quant"],
            // GPT-2's matrices that stay dense lie the other way round.
            &[
                "--load-in-4bit",
                "--skip-modules",
                "c_attn,q_proj,query_key_value,lm_head",
            ],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (of_gguf, of_model) = (folder.path().join("gguf"), folder.path().join("model"));
            // Falcon too, to compare more.
            let command = [&["quantize", "--all-linear"][..], flags].concat();
            let output = write(&command, &gguf, &of_gguf);
            let is_falcon = name.starts_with("falcon");
            assert_eq!(
                output.stderr.contains("FalconLinear"),
                is_falcon,
                "{}",
                output.stderr
            );
            write(&command, &model, &of_model);
            let (found, expected) = (Checkpoint::open(&of_gguf), Checkpoint::open(&of_model));
            let about = format!("{name} {flags:?}");
            assert_same_tensors(&found.unwrap(), &expected.unwrap(), &about);
        }
    }
}

/// Scales of rows are the same whatever the rows' order, and so is all that comes of them.
#[test]
fn what_is_written_computes_as_the_gguf_quantized_at_load() {
    for (name, gguf, _) in pairs() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        write(&["quantize", "--load-in-8bit", "--all-linear"], &gguf, &out);
        let found = logits(out.to_str().unwrap(), &[]);
        assert!(found == logits(&gguf, &["--load-in-8bit"]), "{name}");
    }
}

/// Blocks of 4 bits, a tokenizer, special tokens: a folder comes of it that stands alone.
#[test]
fn a_gguf_with_its_tokenizer_becomes_a_folder_that_reads_and_writes_text() {
    let gguf = fixture("demo/demo.gguf");
    let folder = tempfile::tempdir().unwrap();
    for command in [
        &["quantize", "--load-in-8bit"][..],
        &["quantize", "--load-in-4bit"],
        &["shard", "--to-hf"],
        &["shard", "--to-hf", "--dtype", "f16"],
    ] {
        let out = folder.path().join("out");
        let output = write(&[command, &["--force"]].concat(), &gguf, &out);
        assert!(!output.stderr.contains("note:"), "{}", output.stderr);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(out.join(name)).unwrap()).unwrap()
        };
        let dtype = if command.contains(&"f16") {
            "float16"
        } else {
            "bfloat16"
        };
        let (config, generation) = (read("config.json"), read("generation_config.json"));
        assert_eq!(config["dtype"], dtype);
        assert_eq!(
            config["quantization_config"].is_null(),
            command[0] == "shard"
        );
        for (key, id) in [("bos_token_id", 1), ("eos_token_id", 2)] {
            assert_eq!(
                (&config[key], &generation[key]),
                (&value!(id), &value!(id)),
                "{key}"
            );
        }
        let text = "Once upon a time, there was a";
        let speak = |model: &str, flags: &[&str]| {
            let args = [
                "generate",
                model,
                text,
                "--max-new-tokens",
                "16",
                "--greedy",
                "--json",
            ];
            let found = json(&[&args[..], flags].concat());
            (
                found["prompt_ids"].clone(),
                found["generated_ids"].clone(),
                found["text"].clone(),
            )
        };
        let mut flags = match command[0] {
            "quantize" => command[1..].to_vec(),
            _ => Vec::new(),
        };
        flags.extend(["--dtype", dtype]);
        assert_eq!(
            speak(out.to_str().unwrap(), &[]),
            speak(&gguf, &flags),
            "{command:?}"
        );
    }
}

#[test]
fn what_a_gguf_lacks_is_said() {
    let gguf = fixture("gguf-models/qwen2.gguf");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = write(&["quantize", "--load-in-4bit"], &gguf, &out);
    assert!(output.stderr.contains("no tokenizer"), "{}", output.stderr);
    let not_gguf = fixture("models/qwen2");
    let output = run(&[
        "shard",
        &not_gguf,
        folder.path().join("x").to_str().unwrap(),
        "--to-hf",
    ]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("is no GGUF"), "{}", output.stderr);
}
