//! `llm-run verify`: what was changed is found, and named.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{asset, json, run};

const MANIFEST: &str = "llm-run.manifest.json";

fn demo_copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        asset("model.safetensors"),
        folder.path().join("model.safetensors"),
    )
    .unwrap();
    folder
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_is_found_and_its_tensor_named() {
    let folder = demo_copy();
    let model = folder.path().to_str().unwrap();
    let found = json(&["verify", model, "--json"]);
    assert_eq!(
        (&found["manifest"], &found["differences"]),
        (&Value::Null, &json!([]))
    );
    let output = run(&["verify", model]);
    assert!(
        output.code == 0 && output.stdout.contains("--write-manifest"),
        "{}",
        output.stdout
    );

    let output = run(&["verify", model, "--write-manifest"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let output = run(&["verify", model]);
    assert!(
        output.code == 0 && output.stdout.contains(MANIFEST),
        "{}",
        output.stdout
    );
    let again = run(&["verify", model, "--write-manifest"]);
    assert!(
        again.code == 2 && again.stderr.contains("delete it"),
        "{}",
        again.stderr
    );

    let weights = folder.path().join("model.safetensors");
    let len = fs::metadata(&weights).unwrap().len() as usize;
    flip(&weights, len - 1);
    let output = run(&["verify", model]);
    assert_eq!(
        (output.code, output.stdout.lines().count()),
        (2, 1),
        "{}",
        output.stdout
    );
    assert!(
        output.stderr.starts_with("error: 1 difference from "),
        "{}",
        output.stderr
    );
    // The last tensor's byte in the file.
    let bytes = fs::read(&weights).unwrap();
    let (n, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let end = len - n - 8;
    let tensors = header.tensors();
    let (last, _) = tensors
        .iter()
        .find(|(_, info)| info.data_offsets.1 == end)
        .unwrap();
    assert_eq!(output.stdout, format!("tensor `{last}` has other bytes\n"));

    let output = run(&["verify", model, "--json"]);
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(output.code, 2);
    assert_eq!(
        found["differences"],
        json!([{"kind": "bytes", "tensor": last}])
    );
}

#[test]
fn a_manifest_survives_sharding_but_not_another_model() {
    let folder = demo_copy();
    let model = folder.path().to_str().unwrap();
    assert_eq!(run(&["verify", model, "--write-manifest"]).code, 0);
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("sharded");
    let sharded = path.to_str().unwrap();
    assert_eq!(
        run(&["shard", model, sharded, "--max-shard-size", "300kB"]).code,
        0
    );
    let found = json(&["verify", sharded, "--json"]);
    assert!(
        found["manifest"].is_string() && found["differences"] == json!([]),
        "{found}"
    );

    // Converted bytes are others: the manifest does not come along, and laid beside them does not fit.
    let dtype = json(&["inspect", "demo", "--json"])["by_dtype"][0]["name"].clone();
    let other = if dtype == "f32" { "bf16" } else { "f32" };
    let path = out.path().join("converted");
    let converted = path.to_str().unwrap();
    assert_eq!(run(&["shard", model, converted, "--dtype", other]).code, 0);
    assert_eq!(
        json(&["verify", converted, "--json"])["manifest"],
        Value::Null
    );
    fs::copy(folder.path().join(MANIFEST), path.join(MANIFEST)).unwrap();
    let output = run(&["verify", converted]);
    let n_tensors = found["n_tensors"].as_u64().unwrap();
    assert_eq!(
        (output.code, output.stdout.lines().count() as u64),
        (2, n_tensors)
    );
    assert!(
        output.stdout.contains(&format!("is {other} [")),
        "{}",
        output.stdout
    );
}

#[test]
fn a_damaged_manifest_or_checkpoint_is_named_on_one_line() {
    let folder = demo_copy();
    let model = folder.path().to_str().unwrap();
    fs::write(folder.path().join(MANIFEST), "{").unwrap();
    let check = |word: &str| {
        let output = run(&["verify", model]);
        assert_eq!(
            (output.code, output.stderr.lines().count()),
            (2, 1),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains(word), "{}", output.stderr);
    };
    check(MANIFEST);
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    check("model.safetensors");
}
