//! What a newcomer types in a first hour, mistakes included, and what the program says: `tests/transcripts`.
//!
//! `TRYCMD=overwrite cargo test -p llm-run --test transcripts` writes down what it says now. Read every line of it.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::fs;
use std::path::Path;

use hub::{Hub, HubFile};

#[path = "../../llm-hub/tests/pull/hub.rs"]
mod hub;

#[test]
fn the_program_says_what_the_transcripts_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    furnish(&root, place.path());
    // The commands are typed there. This process has no other test whose folder it could be.
    std::env::set_current_dir(place.path()).unwrap();
    let cases = |hub: &str, home: &str, cases: &str| {
        let cache = place.path().join("cache");
        trycmd::TestCases::new()
            .register_bin("llm-run", trycmd::cargo::cargo_bin!("llm-run"))
            // What a newcomer sees has no GPU in it.
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("HF_HUB_OFFLINE", if hub == NO_HUB { "1" } else { "0" })
            .env("HF_ENDPOINT", hub)
            .env("HF_HOME", home)
            .env("XDG_CACHE_HOME", cache.to_str().unwrap())
            .case(root.join(cases).to_str().unwrap());
    };
    // Where the cache is said to be: a path that is the same everywhere.
    cases(NO_HUB, "/nowhere/huggingface", "tests/transcripts/*.md");
    let hub = Hub::start(story(&root), Vec::new());
    cases(&hub.url(), "huggingface", "tests/transcripts/hub/*.md");
}

/// An address that nobody has.
const NO_HUB: &str = "http://hub.invalid";

/// The bundled model as a hub has it, with a template to talk by.
fn story(root: &Path) -> Vec<HubFile> {
    let folder = root.join("crates/llm-run/assets/demo");
    let file = |name: &str| HubFile {
        is_large: name.ends_with(".safetensors"),
        ..HubFile::small(name, &fs::read(folder.join(name)).unwrap())
    };
    let names = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let mut files: Vec<_> = names.into_iter().map(file).collect();
    files.push(HubFile::small(
        "chat_template.jinja",
        b"{{ messages[-1].content }}",
    ));
    files
}

/// Puts into a folder what the transcripts speak of.
fn furnish(root: &Path, place: &Path) {
    let fixtures = root.join("tests/fixtures");
    let models = place.join("models");
    // Folders are copied: some commands write into them.
    for (from, to) in [
        (root.join("crates/llm-run/assets/demo"), "story"),
        (fixtures.join("models/llama"), "llama"),
        (fixtures.join("models/qwen3-moe"), "qwen3-moe"),
        (fixtures.join("quantized/llama-nf4-double"), "llama-nf4"),
        (
            fixtures.join("configs/bigscience--bloomz-7b1-mt"),
            "bloomz-7b1-mt",
        ),
        (fixtures.join("faults/lora-folder/model"), "adapter"),
        (fixtures.join("faults/nan-weights-message/model"), "nan"),
        (fixtures.join("faults/template-python-strings/t0"), "chatty"),
    ] {
        copy(&from, &models.join(to));
    }
    copy(&models.join("llama"), &models.join("untidy"));
    fs::copy(fixtures.join("demo/demo.gguf"), models.join("story.gguf")).unwrap();

    let write = |path: &str, contents: &[u8]| {
        let path = place.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    };
    let weights = fs::read(models.join("llama/model.safetensors")).unwrap();
    let config = fs::read(models.join("llama/config.json")).unwrap();
    write("models/cut-off/config.json", &config);
    write(
        "models/cut-off/model.safetensors",
        &weights[..weights.len() / 2],
    );
    write("models/pointer/config.json", &config);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    write("models/pointer/model.safetensors", pointer);
    write("models/page/config.json", &config);
    let page = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n";
    write("models/page/model.safetensors", page);
    write("models/empty-file/config.json", &config);
    write("models/empty-file/model.safetensors", b"");
    write("models/no-config/model.safetensors", &weights);
    write("models/notes/notes.txt", b"Buy milk.\n");
    write("prompts.jsonl", b"\"Once upon a time\"\n{\"prompt\": \"The little dog\", \"id\": \"dog\", \"max_new_tokens\": 5}\n");
    write("mixed.jsonl", b"\"Once upon a time\"\n{\"promt\": \"The little dog\"}\nThe little dog\n{\"token_ids\": [1, 5000]}\n");
    write("story.txt", b"Once upon a time there was a little dog.\n");
    write("map.json", b"{\"\": \"cuda:7\"}\n");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}
