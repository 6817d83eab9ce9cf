//! What users get wrong: one clear line, exit code 2.

use std::path::Path;

use crate::support::{asset, fixture, program, run};

struct Case<'a> {
    args: &'a [&'a str],
    /// What the message names.
    words: &'a [&'a str],
}

fn check(Case { args, words }: Case<'_>) {
    let output = run(args);
    assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
    assert_eq!(output.stdout, "", "{args:?}");
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{args:?} does not name {word}: {}",
            output.stderr
        );
    }
}

/// As `check`, for what our own code says: it fits one line.
fn check_line(case: Case<'_>) {
    let lines = run(case.args).stderr.lines().count();
    assert_eq!(lines, 1, "{:?}", case.args);
    check(case);
}

#[test]
fn options() {
    check(Case {
        args: &["generate", "--frobnicate"],
        words: &["--frobnicate"],
    });
    check(Case {
        args: &["generate", "--dtype", "int3"],
        words: &["int3", "bf16"],
    });
    check(Case {
        args: &["generate", "--temperature", "-1"],
        words: &["temperature"],
    });
    check(Case {
        args: &["generate", "--top-p", "0"],
        words: &["--top-p", "above 0"],
    });
    check(Case {
        args: &["generate", "--greedy", "--temperature", "1"],
        words: &["--greedy", "--temperature"],
    });
    check(Case {
        args: &["generate", "--threads", "0"],
        words: &["--threads"],
    });
    check(Case {
        args: &["generate", "--stop", ""],
        words: &["--stop"],
    });
    check(Case {
        args: &["generate", "--system", "x"],
        words: &["--chat"],
    });
    check(Case {
        args: &["score", "demo"],
        words: &["--token-ids", "--text FILE"],
    });
    check_line(Case {
        args: &["generate", "--context", "100000"],
        words: &["--context", "512"],
    });
    check_line(Case {
        args: &[
            "score",
            "demo",
            "--token-ids",
            "1",
            "--decoder-token-ids",
            "0",
        ],
        words: &["--decoder-token-ids", "llama"],
    });
}

#[test]
fn prompts() {
    let long = "1,".repeat(600) + "1";
    check_line(Case {
        args: &["generate", "demo", "--token-ids", &long],
        words: &["601", "context of 512"],
    });
    check_line(Case {
        args: &["generate", "demo", "--token-ids", "1,1024"],
        words: &["1024", "out of range"],
    });
    check_line(Case {
        args: &["generate", "demo", ""],
        words: &["prompt is empty"],
    });
    check_line(Case {
        args: &["generate", "demo", "-"],
        words: &["prompt is empty"],
    });
    check_line(Case {
        args: &["generate", "demo"],
        words: &["no prompt", "--prompt-file"],
    });
    check_line(Case {
        args: &["generate", "demo", "--prompt-file", "/nowhere.txt"],
        words: &["/nowhere.txt"],
    });
    check_line(Case {
        args: &["generate", "demo", "hello", "--chat"],
        words: &["chat template"],
    });
    check_line(Case {
        args: &["chat", "demo"],
        words: &["chat template"],
    });
}

#[test]
fn models() {
    check_line(Case {
        args: &["generate", "/nowhere", "x"],
        words: &["/nowhere", "demo"],
    });
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    check_line(Case {
        args: &["generate", path, "x"],
        words: &[path, ".safetensors", ".gguf"],
    });

    let folder = Folder::new();
    folder.without("config.json");
    folder.check(&["config.json"]);

    let folder = Folder::new();
    folder.without("tokenizer.json");
    folder.check(&["tokenizer.json", "--token-ids"]);

    let folder = Folder::new();
    folder.replace("config.json", "\"llama\"", "\"mamba\"");
    folder.check(&["config.json", "`mamba`", "llama"]);

    let folder = Folder::new();
    folder.replace("config.json", "\"mlp_bias\"", "\"mlp_bais\"");
    folder.check(&["config.json", "`mlp_bais`"]);

    // A wider MLP and a layer more: everything that does not fit, at once.
    let folder = Folder::new();
    folder.replace(
        "config.json",
        "\"intermediate_size\": 384",
        "\"intermediate_size\": 385",
    );
    folder.replace(
        "config.json",
        "\"num_hidden_layers\": 5",
        "\"num_hidden_layers\": 6",
    );
    folder.check(&[
        "9 missing: `model.layers.5.",
        "15 of another shape: ",
        "`model.layers.0.mlp.gate_proj.weight` is [384, 128], expected [385, 128]",
    ]);

    let folder = Folder::new();
    folder.replace(
        "config.json",
        "\"num_hidden_layers\": 5",
        "\"num_hidden_layers\": 4",
    );
    // A layer more than the configuration has is no part of the model, and said.
    let path = folder.path().to_str().unwrap();
    let output = run(&["generate", path, "x", "--max-new-tokens", "1"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let note = output.stderr.lines().next().unwrap();
    for word in ["note: left out", "9 tensors", "`model.layers.4."] {
        assert!(note.contains(word), "{note}");
    }
}

#[test]
fn checkpoints() {
    let folder = Folder::new();
    let weights = std::fs::read(asset("model.safetensors")).unwrap();
    let cuts = [
        (5, "5 bytes are too few"),
        (100, "only 92 are left"),
        (20_000, "tensor `model."),
    ];
    for (n, word) in cuts {
        folder.write("model.safetensors", &weights[..n]);
        folder.check(&["model.safetensors", word]);
    }
    // A header that claims to be 2⁶² bytes long.
    let mut lying = weights.clone();
    lying[..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    folder.write("model.safetensors", &lying);
    folder.check(&["model.safetensors", "header"]);
}

/// A copy of the bundled model that can be spoilt.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            std::fs::copy(asset(name), folder.path().join(name)).unwrap();
        }
        Folder(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn without(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path().join(name), bytes).unwrap();
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap();
        assert!(text.contains(from));
        self.write(name, text.replace(from, to).as_bytes());
    }

    fn check(&self, words: &[&str]) {
        check_line(Case {
            args: &["generate", self.path().to_str().unwrap(), "x"],
            words,
        });
    }
}

#[test]
fn output_that_nobody_takes_is_an_error_that_names_it() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = program();
    let output = command
        .args(["generate", "demo", "Once", "--max-new-tokens", "2"])
        .stdout(full.unwrap())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(
        stderr,
        "error: cannot write to standard output: No space left on device (os error 28)\n"
    );
}

/// A model's folder whose `name` is `text`.
#[cfg(unix)]
fn with_file(name: &str, text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("faults/llama-tokenizer/model");
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(dir.path().join(name), text).unwrap();
    dir
}

#[cfg(unix)]
#[test]
fn pipes_in_the_place_of_a_tokenizers_files() {
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ] {
        let dir = with_file(name, "");
        let path = dir.path().join(name);
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        check_line(Case {
            args: &["generate", dir.path().to_str().unwrap(), "a"],
            words: &[path.to_str().unwrap(), "a pipe, not a file"],
        });
    }
}

#[cfg(unix)]
#[test]
fn a_tokenizer_that_the_library_gives_up_on() {
    let contradiction = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE",
        "vocab": {"aaaa": 0, "bbbb": 1}, "merges": [["aaaa", "bbbb"]]}}"#;
    let dir = with_file("tokenizer.json", contradiction);
    check_line(Case {
        args: &["generate", dir.path().to_str().unwrap(), "a"],
        words: &["tokenizer.json", "the tokenizers library gives up"],
    });
}

#[cfg(unix)]
#[test]
fn what_a_download_left_in_the_place_of_a_text_file() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    let page = "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n";
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        for (text, what) in [(pointer, "a Git LFS pointer"), (page, "an HTML page")] {
            let dir = with_file(name, text);
            check_line(Case {
                args: &["generate", dir.path().to_str().unwrap(), "a"],
                words: &[dir.path().join(name).to_str().unwrap(), what],
            });
        }
    }
}

#[test]
fn names_on_a_hub_and_addresses() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    let out = out.to_str().unwrap();
    let name = "some-owner/Some-7B-v0.1";
    let commands: [&[&str]; 8] = [
        &["generate", name, "a"],
        &["chat", name],
        &["score", name, "--token-ids", "1,2"],
        &["plan", name],
        &["inspect", name],
        &["verify", name],
        &["shard", name, out, "--dtype", "f16"],
        &["quantize", name, out, "--load-in-8bit"],
    ];
    for args in commands {
        let words = &["there is no model at", "HF_HUB_OFFLINE is set"];
        check_line(Case { args, words });
    }
    check_line(Case {
        args: &["plan", "https://example.org/some-owner/Some-7B"],
        words: &["https://example.org", "its name on a hub"],
    });
    for path in ["tests/none", "/no/such", "./a/b", "no/model.gguf", "a/b/c"] {
        let said = run(&["inspect", path]);
        assert_eq!(said.code, 2, "{}", said.stderr);
        assert!(!said.stderr.contains("hub"), "{}", said.stderr);
    }
}
