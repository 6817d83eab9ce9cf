//! One model in every format: the same tokens.

use std::fs;
use std::path::{Path, PathBuf};

use llm_checkpoint::{Checkpoint, Encoding, NewTensor};
use llm_torch_file::{TorchFile, TorchLayout};
use serde_json::Value;

use crate::support::{asset, fixture, json, run};

/// A folder with all of the bundled model but its weights.
fn without_weights() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(asset(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn story(model: &Path) -> Value {
    let model = model.to_str().unwrap();
    json(&[
        "generate",
        model,
        "Once upon a time",
        "--max-new-tokens",
        "40",
        "--json",
    ])
}

fn check(model: &Path) {
    let (expected, found) = (story(Path::new("demo")), story(model));
    for key in ["prompt_ids", "generated_ids", "text"] {
        assert_eq!(found[key], expected[key], "{key} of {}", model.display());
    }
}

#[test]
fn pytorch_files_of_both_layouts() {
    let source = Checkpoint::open(&asset("model.safetensors")).unwrap();
    let new_tensor = |tensor: &llm_checkpoint::TensorInfo| {
        let Encoding::Plain(dtype) = tensor.encoding else {
            panic!("plain elements")
        };
        NewTensor {
            name: tensor.name.clone(),
            dtype,
            shape: tensor.shape.clone(),
        }
    };
    let tensors: Vec<_> = source.tensors().map(new_tensor).collect();
    for layout in [TorchLayout::Zip, TorchLayout::Legacy] {
        let folder = without_weights();
        let path = folder.path().join("pytorch_model.bin");
        let mut file = TorchFile::create(&path, layout, &tensors).unwrap();
        for tensor in source.tensors() {
            file.write(&source.view(&tensor.name).unwrap().unwrap())
                .unwrap();
        }
        file.finish().unwrap();
        check(folder.path());
    }
}

#[test]
fn shards() {
    let folder = without_weights();
    fs::copy(
        asset("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    let out: PathBuf = folder.path().with_extension("sharded");
    let args = [
        "shard",
        folder.path().to_str().unwrap(),
        out.to_str().unwrap(),
        "--max-shard-size",
        "500KB",
    ];
    assert_eq!(run(&args).code, 0);
    assert!(out.join("model.safetensors.index.json").exists());
    check(&out);
    fs::remove_dir_all(out).unwrap();
}

#[test]
fn gguf() {
    check(Path::new(&fixture("demo/demo.gguf")));
}
