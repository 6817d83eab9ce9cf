//! `llm-run inspect`: the figures of a checkpoint.

use serde_json::{Value, json};

use crate::support::{asset, fixture, json, run};

#[test]
fn the_demo_models_figures() {
    let found = json(&["inspect", "demo", "--json"]);
    let file = std::fs::read(asset("model.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(found["format"], "safetensors");
    assert_eq!(found["n_tensors"], expected.len());
    let tensors = found["tensors"].as_array().unwrap();
    let (mut n_parameters, mut bytes) = (0, 0);
    for tensor in tensors {
        let view = expected.tensor(tensor["name"].as_str().unwrap()).unwrap();
        assert_eq!(tensor["shape"], json!(view.shape()));
        assert_eq!(tensor["bytes"], view.data().len());
        n_parameters += view.shape().iter().product::<usize>();
        bytes += view.data().len();
    }
    assert_eq!(tensors.len(), expected.len());
    assert_eq!(
        (&found["n_parameters"], &found["bytes"]),
        (&json!(n_parameters), &json!(bytes))
    );
    for totals in ["by_dtype", "by_file"] {
        let sum: u64 = found[totals]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(sum, bytes as u64, "{totals}");
    }
    assert_eq!(found["shared"], json!([]));
}

#[test]
fn gguf_shows_its_encodings_and_key_values() {
    let path = fixture("gguf/all-types.gguf");
    let found = json(&["inspect", &path, "--json"]);
    let of_encoding = |name: &str| {
        let groups = found["by_dtype"].as_array().unwrap();
        groups
            .iter()
            .find(|total| total["name"] == name)
            .cloned()
            .unwrap_or(Value::Null)
    };
    assert!(of_encoding("Q4_K")["bytes"].as_u64() > Some(0));
    let arrays: Vec<&Value> = found["metadata"]
        .as_object()
        .unwrap()
        .values()
        .filter(|value| value.is_object())
        .collect();
    assert!(!arrays.is_empty());
    for array in arrays {
        let shown = array["first"].as_array().unwrap().len() as u64;
        assert_eq!(shown, array["len"].as_u64().unwrap().min(8));
    }
    let text = run(&["inspect", &path]).stdout;
    for word in ["Q4_K", "gguf", "metadata", "parameters"] {
        assert!(text.contains(word), "{word} in: {text}");
    }
}

#[test]
fn tables_are_aligned_and_control_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let header = br#"{"bad\u001b[2J":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[200],"data_offsets":[1,1601]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + 1601, 0);
    std::fs::write(&path, file).unwrap();
    let output = run(&["inspect", folder.path().to_str().unwrap()]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(
        lines[0].ends_with("2 tensors · 201 parameters · 1.6 KB (1.6 KiB)"),
        "{}",
        lines[0]
    );
    let expected = [
        "",
        "tensor        dtype    shape  bytes",
        "b             float64  [200]  1,600",
        "bad\\u{1b}[2J  uint8    [1]        1",
        "",
    ];
    assert_eq!(lines[1..6], expected);
}

#[test]
fn pytorch_names_of_the_same_bytes_are_told() {
    let path = fixture("pickle/zip.bin");
    let found = json(&["inspect", &path, "--json"]);
    let shared = found["shared"].as_array().unwrap();
    assert!(
        shared
            .iter()
            .all(|names| names.as_array().unwrap().len() > 1)
    );
    assert!(!shared.is_empty(), "{found}");
}

#[test]
fn matrices_of_published_formats_are_told_with_all_their_parts() {
    let model = fixture("packed/gptq");
    let found = json(&["inspect", &model, "--json"]);
    let mut tensors = found["tensors"].as_array().unwrap().iter();
    let name = "model.layers.0.mlp.down_proj.qweight";
    let matrix = tensors.find(|tensor| tensor["name"] == name).unwrap();
    assert_eq!(matrix["scheme"], "int4/32");
    assert_eq!(matrix["shape"], serde_json::json!([64, 96]));
    assert_eq!(matrix["bytes"], 64 * 96 / 2);
    // Scales in f16, zeros of 4 bits, and the groups of the columns.
    let statistics = 3 * 64 * 2 + 3 * 64 / 2 + 96 * 4;
    assert_eq!(matrix["statistics_bytes"], statistics);
    let loaded = json(&["inspect", &model, "--dtype", "bf16", "--json"]);
    let names = loaded["by_dtype"].as_array().unwrap();
    assert_eq!(names.len(), 1, "all are decoded: {names:?}");
}

#[test]
fn what_transformers_would_leave_dense_is_told() {
    for (model, says) in [
        ("models/mixtral", true),
        ("models/qwen3-moe", true),
        ("models/llama", false),
    ] {
        for flag in ["--load-in-4bit", "--load-in-8bit"] {
            let output = run(&["inspect", &fixture(model), flag]);
            assert_eq!(output.code, 0, "{}", output.stderr);
            let line = "would stay dense: transformers has a layer's experts in one parameter";
            assert_eq!(
                output.stdout.contains(line),
                says,
                "{model}: {}",
                output.stdout
            );
        }
    }
}

#[test]
fn the_readme_has_the_table_of_formats() {
    let found = run(&["inspect", "--formats"]);
    assert_eq!(found.code, 0, "{}", found.stderr);
    let readme = fixture("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    assert!(
        readme.contains(&format!("```text\n{}```\n", found.stdout)),
        "README.md does not have\n{}",
        found.stdout
    );
}

#[test]
fn every_format_is_said_to_be_kept_decoded_or_refused() {
    let found = json(&["inspect", "--formats", "--json"]);
    let becomes = |format: &str| {
        let mut rows = found.as_array().unwrap().iter();
        let is_of = |row: &&Value| row["formats"].as_array().unwrap().contains(&json!(format));
        let row = rows.find(is_of).unwrap_or_else(|| panic!("no {format}"));
        [&row["on_cpu"], &row["on_gpu"]].map(|text| text.as_str().unwrap().to_owned())
    };
    for (format, expected) in [
        ("bf16", ["as stored"; 2]),
        ("f64", ["decoded to f32"; 2]),
        ("u8", ["refused"; 2]),
        ("nf4 double", ["as stored"; 2]),
        ("Q4_K", ["as stored"; 2]),
        ("IQ1_M", ["as stored", "decoded to bf16"]),
        ("TQ1_0", ["as stored"; 2]),
        ("4 bits, GEMM", ["as stored"; 2]),
        ("act-order", ["as stored", "decoded to bf16"]),
        ("HQQ", ["refused"; 2]),
        ("NVFP4", ["as stored"; 2]),
        ("Q8_1", ["refused"; 2]),
        ("Q8_K", ["refused"; 2]),
    ] {
        assert_eq!(becomes(format), expected, "{format}");
    }
    for args in [["inspect", "--json"], ["inspect", "--dtype"]] {
        assert_eq!(run(&args).code, 2, "{args:?}");
    }
    let both = run(&["inspect", "demo", "--formats"]);
    assert_eq!(both.code, 2, "{}", both.stdout);
}

#[test]
fn a_configuration_alone_tells_of_every_tensor() {
    let text = std::fs::read_to_string(fixture("footprints.json")).unwrap();
    let footprints: Value = serde_json::from_str(&text).unwrap();
    let footprints = footprints.as_object().unwrap();
    assert_eq!(footprints.len(), 7);
    for (name, expected) in footprints {
        let folder = fixture(&format!("configs/{}", name.replace('/', "--")));
        let found = json(&["inspect", &folder, "--json"]);
        assert_eq!(found["n_parameters"], expected["parameters"], "{name}");
        let tensors = found["tensors"].as_array().unwrap();
        assert_eq!(found["n_tensors"], tensors.len(), "{name}");
        let nf4 = json(&["inspect", &folder, "--load-in-4bit", "--json"]);
        let bytes = |report: &Value| report["bytes"].as_u64().unwrap();
        assert!(bytes(&nf4) < bytes(&found), "{name}");
    }
    let output = run(&["inspect", &fixture("configs/gpt2")]);
    assert!(output.stdout.contains("no weights"), "{}", output.stdout);
    let empty = tempfile::tempdir().unwrap();
    let output = run(&["inspect", empty.path().to_str().unwrap()]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("contains no"), "{}", output.stderr);
}
