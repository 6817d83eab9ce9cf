//! A GGUF written as a checkpoint with a config.json.

use std::fs;
use std::path::Path;

use llm_checkpoint::{Checkpoint, TensorInfo};
use llm_runtime::BoundModel;

use crate::support::{fixture, run};

fn quantize(model: &str, out: &Path, flags: &[&str]) {
    let out = out.to_str().unwrap();
    // Falcon too, to compare more.
    let output = run(&[&["quantize", model, out, "--all-linear"][..], flags].concat());
    assert_eq!(output.code, 0, "{model} {flags:?}: {}", output.stderr);
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
    names.sort_unstable();
    assert!(names.len() >= 13, "{names:?}");
    let pair = |name: String| {
        let (gguf, model) = (
            format!("{folder}/{name}.gguf"),
            fixture(&format!("models/{name}")),
        );
        (name, gguf, model)
    };
    names.into_iter().map(pair).collect()
}

/// Names, order of rows, order of the matrix, gains: all as in the checkpoint that the GGUF was made of.
#[test]
fn a_gguf_becomes_what_the_checkpoint_that_it_was_made_of_becomes() {
    for (name, gguf, model) in pairs() {
        for flags in [
            &["--load-in-8bit"][..],
            &["--load-in-4bit", "--double-quant"],
            // GPT-2's matrices that stay dense lie the other way round.
            &[
                "--load-in-4bit",
                "--skip-modules",
                "c_attn,c_proj,q_proj,query_key_value,qkv_proj,lm_head,embed_out",
            ],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (of_gguf, of_model) = (folder.path().join("gguf"), folder.path().join("model"));
            quantize(&gguf, &of_gguf, flags);
            quantize(&model, &of_model, flags);
            let (found, expected) = (
                BoundModel::open(&of_gguf).unwrap(),
                BoundModel::open(&of_model).unwrap(),
            );
            let (mut found_spec, mut expected_spec) =
                (found.spec().clone(), expected.spec().clone());
            // Both say nothing of these, which are counted from the model's size.
            for spec in [&mut found_spec, &mut expected_spec] {
                if name.starts_with("gemma") {
                    spec.decoder.layers.clear();
                }
                // A GGUF has the factors of a long rope in f32.
                if let llm_arch::Positions::Rotary(kinds) = &mut spec.decoder.positions {
                    for kind in kinds {
                        if let llm_arch::RopeScaling::LongRope { short, long, .. } =
                            &mut kind.scaling
                        {
                            let factors = short.iter_mut().chain(long);
                            factors.for_each(|x| *x = f64::from(*x as f32));
                        }
                    }
                }
            }
            assert_eq!(found_spec, expected_spec, "{name}");
            let (found, expected) = (found.checkpoint(), expected.checkpoint());
            assert_eq!(found.tensors().len(), expected.tensors().len(), "{name}");
            for tensor in expected.tensors() {
                let own = found.get(&tensor.name);
                let own = own.unwrap_or_else(|| panic!("{name}: no {}", tensor.name));
                let about = format!("{name} {flags:?}: {}", tensor.name);
                assert_eq!(
                    (&own.shape, own.encoding),
                    (&tensor.shape, tensor.encoding),
                    "{about}"
                );
                if name.starts_with("gemma") && tensor.name.ends_with("norm.weight") {
                    // One was added to these, in f32.
                    let pairs = values(found, own).into_iter().zip(values(expected, tensor));
                    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(largest <= f32::EPSILON, "{about}: {largest}");
                    continue;
                }
                let bytes =
                    |checkpoint: &Checkpoint| checkpoint.view(&tensor.name).unwrap().unwrap();
                assert!(bytes(found)[..] == bytes(expected)[..], "{about}");
            }
        }
    }
}

/// Scales of rows are the same whatever the rows' order, and so is all that comes of them.
#[test]
fn what_is_written_computes_as_the_gguf_quantized_at_load() {
    for (name, gguf, _) in pairs() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        quantize(&gguf, &out, &["--load-in-8bit"]);
        let logits = |model: &str, flags: &[&str]| {
            let path = folder.path().join("logits.safetensors");
            let args = [
                "score",
                model,
                "--token-ids",
                "40,41,42,43,44,45,46,47,48",
                "--logits",
            ];
            let output = run(&[&args[..], &[path.to_str().unwrap()], flags].concat());
            assert_eq!(output.code, 0, "{name}: {}", output.stderr);
            fs::read(path).unwrap()
        };
        let (found, expected) = (
            logits(out.to_str().unwrap(), &[]),
            logits(&gguf, &["--load-in-8bit"]),
        );
        assert!(found == expected, "{name}");
    }
}
