//! Plans of checkpoints that cannot be run, by the names and sizes of their tensors.

use std::collections::BTreeMap;
use std::path::Path;

use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_tensor::{DType, Shape};
use serde_json::{Value, json};

use super::{plan, plan_json};
use crate::support::run;

/// Writes a checkpoint of zeros.
fn write(folder: &Path, tensors: &[(String, DType, Vec<u64>)], config: Option<&Value>) {
    std::fs::create_dir_all(folder).unwrap();
    if let Some(config) = config {
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, dims)| NewTensor {
            name: name.clone(),
            dtype: *dtype,
            shape: Shape::new(dims).unwrap(),
        })
        .collect();
    let n_bytes: u64 = tensors
        .iter()
        .map(|t| t.shape.n_elements() * t.dtype.size() as u64)
        .sum();
    let path = folder.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    writer.write(&vec![0; n_bytes as usize]).unwrap();
    writer.finish().unwrap();
}

const LAYER: u64 = 2 * 128 * 64 * 2;
const TABLE: u64 = 256 * 64 * 2;
const NORM: u64 = 64 * 2;

/// Four layers with a table, a norm and a head.
fn dense() -> Vec<(String, DType, Vec<u64>)> {
    let tensor = |name: &str, dims: &[u64]| (name.to_owned(), DType::BF16, dims.to_vec());
    let mut tensors = vec![tensor("model.embed_tokens.weight", &[256, 64])];
    for i in 0..4 {
        for name in ["self_attn.q_proj", "mlp.up_proj"] {
            let name = format!("model.layers.{i}.{name}.weight");
            tensors.push(tensor(&name, &[128, 64]));
        }
    }
    tensors.push(tensor("model.norm.weight", &[64]));
    tensors.push(tensor("lm_head.weight", &[256, 64]));
    tensors
}

/// The same, its layers in the form that GPTQ and AWQ have.
fn packed() -> Vec<(String, DType, Vec<u64>)> {
    let mut tensors = dense();
    tensors.retain(|(name, ..)| !name.contains(".layers."));
    for i in 0..4 {
        for name in ["self_attn.q_proj", "mlp.up_proj"] {
            let parts = [
                ("qweight", DType::I32, vec![8, 128]),
                ("qzeros", DType::I32, vec![1, 16]),
                ("scales", DType::F16, vec![1, 128]),
            ];
            tensors.extend(parts.map(|(part, dtype, dims)| {
                (format!("model.layers.{i}.{name}.{part}"), dtype, dims)
            }));
        }
    }
    tensors
}

fn config(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256, "intermediate_size": 128, "max_position_embeddings": 512
    });
    let more = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    config
}

#[test]
fn what_cannot_be_run_is_planned_by_its_headers() {
    struct Case {
        name: &'static str,
        tensors: Vec<(String, DType, Vec<u64>)>,
        config: Option<Value>,
        reason: &'static str,
        /// Of 512 positions.
        kv_cache: Option<u64>,
    }
    let quantized =
        |method: &str| json!({"quantization_config": {"quant_method": method, "bits": 4}});
    let of_layer = 2 * 2 * 16 * 2 * 512;
    let case = |name, tensors, config, reason, kv_cache| Case {
        name,
        tensors,
        config,
        reason,
        kv_cache,
    };
    let cases = [
        case(
            "family",
            dense(),
            Some(config("newfamily", json!({}))),
            "unknown model family `newfamily`",
            Some(4 * of_layer),
        ),
        case(
            "other-cache",
            dense(),
            Some(config("newfamily", json!({"kv_lora_rank": 512}))),
            "unknown model family `newfamily`",
            None,
        ),
        case(
            "more-layers",
            dense(),
            Some(config("newfamily", json!({"num_hidden_layers": 6}))),
            "unknown model family `newfamily`",
            Some(6 * of_layer),
        ),
        case(
            "gptq",
            packed(),
            Some(config("llama", quantized("gptq"))),
            "q_proj.qweight",
            Some(4 * of_layer),
        ),
        case(
            "three-bits",
            packed(),
            Some(config(
                "llama",
                json!({"quantization_config": {"quant_method": "gptq", "bits": 3}}),
            )),
            "`bits` is 3",
            Some(4 * of_layer),
        ),
        case(
            "hqq",
            packed(),
            Some(config("llama", quantized("hqq"))),
            "`hqq`",
            Some(4 * of_layer),
        ),
        case(
            "unsaid",
            packed(),
            Some(config("llama", json!({}))),
            "does not hold the llama model",
            Some(4 * of_layer),
        ),
        case("no-config", dense(), None, "config.json", None),
    ];
    let folder = tempfile::tempdir().unwrap();
    for Case {
        name,
        tensors,
        config,
        reason,
        kv_cache,
    } in cases
    {
        let model = folder.path().join(name);
        write(&model, &tensors, config.as_ref());
        let model = model.to_str().unwrap();
        let args = [model, "--max-memory", "cpu=1GB", "--context", "512"];
        let found = plan_json(&args);
        assert_eq!(found["can_be_run"], false, "{name}");
        assert_eq!(found["fits"], true, "{name}");
        let said = found["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{name}: {said}");
        let size = |(_, dtype, dims): &(String, DType, Vec<u64>)| {
            dims.iter().product::<u64>() * dtype.size() as u64
        };
        let weights: u64 = tensors.iter().map(size).sum();
        assert_eq!(found["weights"], weights, "{name}");
        assert_eq!(found["kv_cache"], json!(kv_cache), "{name}");
        let parts = found["parts"].as_array().unwrap();
        let of_parts: u64 = parts.iter().map(|p| p["weights"].as_u64().unwrap()).sum();
        assert_eq!(of_parts, weights, "{name}");
        let n_layers = parts
            .iter()
            .filter(|p| p["module"] == "model.layers")
            .count();
        assert_eq!(n_layers, 4, "{name}");

        let output = plan(&args);
        assert_eq!(output.code, 0, "{name}: {}", output.stderr);
        let mut lines = output.stdout.lines();
        let first = lines.next().unwrap();
        assert!(
            first.starts_with(&format!("{name} cannot be run by this version: ")),
            "{first}"
        );
        assert!(first.contains(reason), "{first}");
        let second = lines.next().unwrap();
        assert!(
            second.contains("would fit by the sizes of its tensors: "),
            "{second}"
        );
        assert!(
            output.stdout.contains("\nmodel.layers 0 to 3 "),
            "{}",
            output.stdout
        );

        // What runs says the reason, and where to look.
        let output = run(&["generate", model, "--token-ids", "1"]);
        assert_eq!(output.code, 2, "{name}");
        assert!(output.stderr.contains(reason), "{name}: {}", output.stderr);
        let hint = "`llm-run plan` and `llm-run inspect` show what it takes";
        assert!(output.stderr.contains(hint), "{name}: {}", output.stderr);
    }
}

#[test]
fn parts_go_where_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("x");
    write(&model, &dense(), Some(&config("newfamily", json!({}))));
    let model = model.to_str().unwrap();
    let program = (24 << 20) + 11 * 2048;
    let kv_cache: u64 = 2 * 2 * 16 * 2 * 512;
    // A GPU that holds the table and a layer beside its context; RAM for two more and places for the rest, and not
    // for the norm as well.
    let gpu = (600 << 20) + TABLE + LAYER + kv_cache;
    let ram = program + 3 * kv_cache + 2 * LAYER + 2 * TABLE;
    let svg = folder.path().join("x.svg");
    let budgets = format!("0={gpu}B,cpu={ram}B,disk=0");
    let args = [
        model,
        "--max-memory",
        &budgets,
        "--svg",
        svg.to_str().unwrap(),
    ];
    let found = plan_json(&args);
    let homes: Vec<_> = found["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["home"].as_str().unwrap())
        .collect();
    assert_eq!(homes, ["0", "0", "cpu", "cpu", "disk", "disk", "disk"]);
    assert_eq!(found["needed"]["0"], gpu);
    assert_eq!(found["needed"]["cpu"], ram);
    assert_eq!(found["read_in_place"], LAYER + TABLE + NORM);
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("weights read in place"), "{picture}");
    let text = plan(&args).stdout;
    for line in [
        "model.embed_tokens   GPU 0 ",
        "model.layers 0       GPU 0 ",
        "model.layers 1 to 2  RAM ",
        "model.layers 3       disk ",
        "lm_head, model.norm  disk ",
        "hypothetical: this machine has no GPU 0",
    ] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}: {text}");
    }

    let nowhere = plan(&[model, "--max-memory", "cpu=1MB"]);
    assert_eq!(nowhere.code, 2);
    let says = "would not fit by the sizes of its tensors: RAM would have to hold";
    assert!(nowhere.stdout.contains(says), "{}", nowhere.stdout);
    let unused = plan(&[
        model,
        "--max-memory",
        "cpu=1GB",
        "--load-in-4bit",
        "--dtype",
        "f16",
    ]);
    let says = "of no use here: quantization, --dtype\n";
    assert!(unused.stdout.contains(says), "{}", unused.stdout);
    let too_long = plan(&[model, "--context", "513"]);
    assert_eq!(too_long.code, 2);
    assert!(
        too_long.stderr.contains("512 positions"),
        "{}",
        too_long.stderr
    );
}

/// Numbers that no model has are no reason to fail.
#[test]
fn hostile_numbers_are_counted_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("x");
    let mut tensors = dense();
    for number in [
        "18446744073709551615",
        "18446744073709551616",
        "-1",
        "00",
        "",
    ] {
        tensors.push((format!("model.layers.{number}.x"), DType::BF16, vec![4]));
    }
    let huge = json!({
        "num_hidden_layers": 16_000_000, "num_key_value_heads": 16_000_000, "head_dim": 16_000_000,
        "max_position_embeddings": 16_000_000
    });
    write(&model, &tensors, Some(&config("newfamily", huge)));
    let model = model.to_str().unwrap();
    let args = [
        model,
        "--batch",
        "16000000",
        "--context",
        "16000000",
        "--max-memory",
        "cpu=1GB",
    ];
    for more in [&[][..], &["-v"], &["--json"]] {
        let output = plan(&[&args[..], more].concat());
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert_eq!(output.stderr, "");
    }
}

/// What is damaged, or lacks tensors of a family that is known, is an error as before.
#[test]
fn what_is_wrong_stays_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (Some(config("llama", json!({}))), "missing"),
        (Some(json!([])), "JSON object"),
    ];
    for (config, reason) in cases {
        let model = folder.path().join("x");
        write(&model, &dense(), config.as_ref());
        let output = plan(&[model.to_str().unwrap(), "--max-memory", "cpu=1GB"]);
        assert_eq!(output.code, 2, "{}", output.stdout);
        assert!(output.stderr.contains(reason), "{}", output.stderr);
    }
    let alone = folder.path().join("alone");
    std::fs::create_dir(&alone).unwrap();
    let config = config("newfamily", json!({})).to_string();
    std::fs::write(alone.join("config.json"), config).unwrap();
    let output = plan(&[alone.to_str().unwrap()]);
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("`newfamily`"), "{}", output.stderr);
}
