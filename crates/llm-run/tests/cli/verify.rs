//! `llm-run verify`: what was changed is found, and named.

use std::fs;
use std::path::Path;

use llm_checkpoint::{Checkpoint, NewTensor};
use llm_torch_file::{TorchFile, TorchLayout};
use serde_json::{Value, json};

use crate::support::{asset, fixture, json, program, run};

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

/// A model's folder whose weights are a zip archive of PyTorch's, and the bytes of its token table.
fn torch_model() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("models/llama");
    let checkpoint = Checkpoint::open(Path::new(&source)).unwrap();
    let plain = |tensor: &llm_checkpoint::TensorInfo| match tensor.encoding {
        llm_checkpoint::Encoding::Plain(dtype) => dtype,
        other => panic!("{other}"),
    };
    let tensors: Vec<NewTensor> = checkpoint
        .tensors()
        .map(|tensor| NewTensor {
            name: tensor.name.clone(),
            dtype: plain(tensor),
            shape: tensor.shape.clone(),
        })
        .collect();
    let path = folder.path().join("pytorch_model.bin");
    let mut file = TorchFile::create(&path, TorchLayout::Zip, &tensors).unwrap();
    let mut table = Vec::new();
    for tensor in checkpoint.tensors() {
        let bytes = checkpoint.view(&tensor.name).unwrap().unwrap();
        file.write(&bytes).unwrap();
        if tensor.name == TABLE {
            table = bytes[..64].to_vec();
        }
    }
    file.finish().unwrap();
    fs::copy(
        Path::new(&source).join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    (folder, table)
}

const TABLE: &str = "model.embed_tokens.weight";

#[test]
fn a_damaged_zip_is_told_by_its_own_checksums() {
    let (folder, table) = torch_model();
    let model = folder.path().to_str().unwrap();
    let output = run(&["verify", model]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("what their CRC-32 says"),
        "{}",
        output.stdout
    );
    let score = ["score", model, "--token-ids", "1,2", "--threads", "1"];
    assert_eq!(run(&[&score[..], &["--verify"]].concat()).code, 0);

    let path = folder.path().join("pytorch_model.bin");
    let bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(64)
        .position(|window| window == table)
        .unwrap();
    flip(&path, at + 7);
    let elsewhere = tempfile::tempdir().unwrap();
    let out = elsewhere.path().join("out");
    let out = out.to_str().unwrap();
    for args in [
        &["verify", model][..],
        &["verify", model, "--write-manifest"],
        &["shard", model, out],
        &[&score[..], &["--verify"]].concat(),
    ] {
        let output = run(args);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.code, 2, "{args:?}: {said}");
        for part in ["pytorch_model.bin", "entry `", "CRC-32", TABLE] {
            assert!(said.contains(part), "{args:?}: `{part}` in: {said}");
        }
    }
    assert!(!Path::new(out).exists() && !folder.path().join(MANIFEST).exists());
    let found = run(&["verify", model, "--json"]);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["damaged"][0]["tensors"], json!([TABLE]));
    // Nobody asked: to read everything for every run would cost too much.
    assert_eq!(run(&score).code, 0);
}

#[test]
fn a_manifest_is_looked_at_before_loading_if_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().to_str().unwrap();
    assert_eq!(run(&["shard", &fixture("models/llama"), model]).code, 0);
    assert_eq!(run(&["verify", model, "--write-manifest"]).code, 0);
    let weights = folder.path().join("model.safetensors");
    let len = fs::metadata(&weights).unwrap().len() as usize;
    let score = [
        "score",
        model,
        "--token-ids",
        "1,2",
        "--threads",
        "1",
        "--verify",
    ];
    assert_eq!(run(&score).code, 0);
    flip(&weights, len - 1);
    let output = run(&score);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("has other bytes; 1 difference from"),
        "{}",
        output.stderr
    );
    let plan = run(&["plan", model, "--verify"]);
    assert!(
        plan.code == 2 && plan.stderr.contains("llm-run verify"),
        "{}",
        plan.stderr
    );
}

#[test]
fn elements_that_are_no_finite_numbers_are_counted_and_placed() {
    let folder = tempfile::tempdir().unwrap();
    let new = |name: &str, dtype, n| NewTensor {
        name: name.to_owned(),
        dtype,
        shape: llm_tensor::Shape::new(&[n]).unwrap(),
    };
    use llm_tensor::DType::{BF16, F8E4M3, F32, F64, I32};
    // In the order in which their elements lie apart.
    let tensors = [
        new("f64", F64, 3),
        new("f32", F32, 300_000),
        new("i32", I32, 1),
        new("bf16", BF16, 2),
        new("f8", F8E4M3, 2),
    ];
    let path = folder.path().join("model.safetensors");
    let mut writer =
        llm_checkpoint::SafetensorsWriter::create(&path, &tensors, &Default::default()).unwrap();
    // Finite, though not in f32.
    for x in [1e300f64, f64::NEG_INFINITY, 0.0] {
        writer.write(&x.to_le_bytes()).unwrap();
    }
    let mut floats = vec![0f32; 300_000];
    floats[299_990..].fill(f32::NAN);
    floats[299_999] = f32::INFINITY;
    writer.write(bytemuck::cast_slice(&floats)).unwrap();
    writer.write(&[0xFF; 4]).unwrap();
    writer.write(&[0x80, 0x3F, 0xC0, 0x7F]).unwrap();
    writer.write(&[0x38, 0x7E]).unwrap();
    writer.finish().unwrap();

    let model = folder.path().to_str().unwrap();
    assert_eq!(run(&["verify", model]).code, 0);
    let output = run(&["verify", model, "--nan"]);
    assert_eq!(output.code, 2);
    let expected = "tensor `bf16` holds 1 NaN and 0 infinite elements, the first at 1\n\
        tensor `f32` holds 9 NaN and 1 infinite elements, the first at 299990\n\
        tensor `f64` holds 0 NaN and 1 infinite elements, the first at 1\n";
    assert_eq!(output.stdout, expected);
    assert!(
        output.stderr.contains("3 tensors with elements that are"),
        "{}",
        output.stderr
    );
    let found = run(&["verify", model, "--nan", "--json"]);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["not_finite"][1]["n_nan"], 9);
    let output = run(&["verify", "demo", "--nan"]);
    assert!(
        output.code == 0 && output.stdout.contains("are finite"),
        "{}",
        output.stdout
    );
    let nan = run(&[
        "verify",
        &fixture("faults/nan-weights-message/model"),
        "--nan",
    ]);
    assert!(
        nan.code == 2 && nan.stdout.contains("NaN"),
        "{}",
        nan.stdout
    );
}

#[test]
fn threads_that_a_variable_asks_for_are_bounded() {
    let folder = demo_copy();
    for name in ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"] {
        for count in ["100000", "+100000", "18446744073709551615"] {
            let output = program()
                .arg("verify")
                .arg(folder.path())
                .env_remove("RAYON_NUM_THREADS")
                .env(name, count)
                .output()
                .unwrap();
            assert!(output.status.success(), "{name}={count}: {output:?}");
        }
    }
}
