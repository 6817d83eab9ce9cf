//! What cannot be quantized, or is flawed, and what is said of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llm_checkpoint::{Checkpoint, NewTensor, SafetensorsWriter};
use llm_tensor::{DType, Shape, f32_to_le_bytes};

use crate::support::{fixture, run};

/// A folder with a llama of one layer whose matrices are `value`.
fn one_layer(value: f32, dtype: DType) -> tempfile::TempDir {
    let config = r#"{
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 16, "tie_word_embeddings": true
    }"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    let skeleton = llm_arch::from_config(&serde_json::from_str(config).unwrap()).unwrap();
    let new = |slot: &llm_arch::Slot| NewTensor {
        name: slot.name.clone(),
        dtype,
        shape: Shape::new(&slot.shape.iter().map(|&d| d as u64).collect::<Vec<_>>()).unwrap(),
    };
    let tensors: Vec<_> = skeleton.slots.iter().map(new).collect();
    let path = folder.path().join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    for slot in &skeleton.slots {
        let mut elements = vec![0.5; slot.n_elements() as usize];
        if slot.name.ends_with("up_proj.weight") {
            elements[77] = value;
        }
        let mut bytes = vec![0; elements.len() * dtype.size()];
        f32_to_le_bytes(&elements, dtype, &mut bytes).unwrap();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    folder
}

#[test]
fn weights_that_no_code_stands_for_are_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for (value, dtype, flag, words) in [
        (f32::NAN, DType::BF16, "--load-in-4bit", "holds NaN"),
        (f32::INFINITY, DType::F32, "--load-in-4bit", "holds inf"),
        (
            f32::NEG_INFINITY,
            DType::F16,
            "--load-in-8bit",
            "holds -inf",
        ),
        (f32::NAN, DType::F32, "--load-in-8bit", "holds NaN"),
        (1e5, DType::BF16, "--load-in-8bit", "65504"),
    ] {
        let folder = one_layer(value, dtype);
        let folder = folder.path().to_str().unwrap();
        let output = run(&["generate", folder, "--token-ids", "1", flag]);
        assert_eq!(output.code, 2, "{}", output.stderr);
        for word in [name, words] {
            assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
        }
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
}

/// A quantized checkpoint of which one tensor is changed or left out.
fn altered(case: &str, change: impl Fn(&str, &mut Vec<u8>) -> bool) -> tempfile::TempDir {
    let saved = fixture(&format!("quantized/{case}"));
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| fs::copy(format!("{saved}/{name}"), folder.path().join(name));
    copy("config.json").unwrap();
    let source = Checkpoint::open(Path::new(&format!("{saved}/model.safetensors"))).unwrap();
    let mut tensors = Vec::new();
    for tensor in source.tensors() {
        let mut bytes = source.view(&tensor.name).unwrap().unwrap().to_vec();
        let before = bytes.len();
        if !change(&tensor.name, &mut bytes) {
            continue;
        }
        let llm_checkpoint::Encoding::Plain(dtype) = tensor.encoding else {
            unreachable!("safetensors has no blocks")
        };
        let shape = match bytes.len() == before {
            true => tensor.shape.clone(),
            false => Shape::new(&[(bytes.len() / dtype.size()) as u64]).unwrap(),
        };
        let name = tensor.name.clone();
        tensors.push((NewTensor { name, dtype, shape }, bytes));
    }
    let new: Vec<_> = tensors.iter().map(|(new, _)| new.clone()).collect();
    let path = folder.path().join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &new, &BTreeMap::new()).unwrap();
    for (_, bytes) in &tensors {
        writer.write(bytes).unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// Rows of it are looked up in whatever encoding they are: codes answer as the numbers that they stand for.
#[test]
fn a_quantized_table_of_tokens_answers_as_its_values() {
    let table = "model.embed_tokens.weight";
    let dense = fixture("quantized/llama-int8");
    let source = Checkpoint::open(Path::new(&format!("{dense}/model.safetensors"))).unwrap();
    let shape = source.get(table).unwrap().shape.clone();
    let codes: Vec<i8> = (0..shape.n_elements())
        .map(|i| (i * 89 % 251) as u8 as i8)
        .collect();
    // A code's value is 1/64 of it, exactly.
    let scales = vec![127.0 / 64.0; shape[0] as usize];
    let values: Vec<f32> = codes.iter().map(|&code| f32::from(code) / 64.0).collect();
    let as_bytes = |values: &[f32], dtype: DType| {
        let mut bytes = vec![0; values.len() * dtype.size()];
        f32_to_le_bytes(values, dtype, &mut bytes).unwrap();
        bytes
    };
    let new = |name: &str, dtype, dims: &[u64]| {
        let (name, shape) = (name.to_owned(), Shape::new(dims).unwrap());
        NewTensor { name, dtype, shape }
    };
    let of_values = vec![(
        new(table, DType::F16, &shape),
        as_bytes(&values, DType::F16),
    )];
    let of_codes = vec![
        (
            new(table, DType::I8, &shape),
            codes.iter().map(|&code| code as u8).collect(),
        ),
        (
            new("model.embed_tokens.SCB", DType::F32, &shape[..1]),
            as_bytes(&scales, DType::F32),
        ),
    ];
    let answers = [of_values, of_codes].map(|own| {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.json");
        fs::copy(format!("{dense}/config.json"), config).unwrap();
        let tensors = source.tensors().filter(|tensor| tensor.name != table);
        let kept = tensors.map(|tensor| {
            let llm_checkpoint::Encoding::Plain(dtype) = tensor.encoding else {
                unreachable!("safetensors has no blocks")
            };
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            let bytes = source.view(&tensor.name).unwrap().unwrap().to_vec();
            (NewTensor { name, dtype, shape }, bytes)
        });
        let (new, bytes): (Vec<_>, Vec<_>) = kept.chain(own).unzip();
        let path = folder.path().join("model.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &new, &BTreeMap::new()).unwrap();
        bytes.iter().for_each(|bytes| writer.write(bytes).unwrap());
        writer.finish().unwrap();
        let model = folder.path().to_str().unwrap();
        assert_eq!(run(&["plan", model]).code, 0);
        let output = run(&[
            "generate",
            model,
            "--token-ids",
            "1,200,31",
            "--max-new-tokens",
            "12",
        ]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout
    });
    assert_eq!(answers[0], answers[1]);
    assert!(!answers[0].is_empty());
}

#[test]
fn flawed_quantized_checkpoints_are_refused_by_name() {
    let int8 = "model.layers.1.mlp.up_proj";
    let state = "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4";
    type Change = Box<dyn Fn(&str, &mut Vec<u8>) -> bool>;
    let without = |part: String| -> Change { Box::new(move |name, _| name != part) };
    let with = |part: String, bytes: Vec<u8>| -> Change {
        Box::new(move |name, old| {
            if name == part {
                old.clone_from(&bytes);
            }
            true
        })
    };
    let double = "llama-nf4-double";
    let cases: Vec<(&str, Change, Vec<String>)> = vec![
        (
            "llama-int8",
            with(format!("{int8}.weight_format"), vec![1]),
            vec![format!("{int8}.weight_format"), "col32".to_owned()],
        ),
        (
            "llama-int8",
            without(format!("{int8}.SCB")),
            vec![format!("{int8}.SCB"), "found none".to_owned()],
        ),
        (
            "llama-int8",
            with(format!("{int8}.SCB"), vec![0; 12]),
            vec![format!("{int8}.SCB"), "[3]".to_owned()],
        ),
        (
            double,
            without("model.layers.0.mlp.up_proj.weight.nested_absmax".to_owned()),
            vec!["up_proj.weight.nested_absmax".to_owned(), "found none".to_owned()],
        ),
        (
            double,
            with("model.layers.0.mlp.up_proj.weight.absmax".to_owned(), vec![0; 7]),
            vec!["up_proj.weight.absmax".to_owned(), "[7]".to_owned()],
        ),
        (
            double,
            with(state.to_owned(), b"{\"quant_type\": \"nf5\"}".to_vec()),
            vec![state.to_owned(), "nf5".to_owned()],
        ),
        (
            double,
            with(
                state.to_owned(),
                br#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [256, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.1}"#.to_vec(),
            ),
            vec![state.to_owned(), "[256, 64]".to_owned()],
        ),
        (
            double,
            without(state.to_owned()),
            vec!["model.layers.0.mlp.up_proj.weight".to_owned()],
        ),
    ];
    for (case, change, words) in cases {
        let folder = altered(case, change);
        let output = run(&[
            "generate",
            folder.path().to_str().unwrap(),
            "--token-ids",
            "1",
        ]);
        assert_eq!(output.code, 2, "{words:?}: {}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        for word in words {
            assert!(output.stderr.contains(&word), "{word}: {}", output.stderr);
        }
    }
}

#[test]
fn wishes_that_cannot_be_met_are_explained() {
    let quantized = fixture("quantized/llama-int8");
    let dense = fixture("quantized/llama-int8/dense");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (both, gptq, none, out) = (path("both"), path("gptq"), path("none"), path("out"));
    fs::write(&both, r#"{"load_in_8bit": true, "load_in_4bit": true}"#).unwrap();
    fs::write(&gptq, r#"{"quant_method": "gptq", "bits": 4}"#).unwrap();
    fs::write(&none, r#"{"load_in_8bit": false}"#).unwrap();
    let generate = |flags: &[&'static str]| -> Vec<String> {
        let args = ["generate", "demo", "x"].iter().chain(flags);
        args.map(|arg| (*arg).to_owned()).collect()
    };
    let with_file = |file: &str| [generate(&["--quant-config"]), vec![file.to_owned()]].concat();
    let words = |words: &[&'static str]| words.to_vec();
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
    for (args, words) in [
        (
            generate(&["--load-in-8bit", "--load-in-4bit"]),
            words(&["--load-in-4bit"]),
        ),
        (generate(&["--double-quant"]), words(&["--load-in-4bit"])),
        (
            generate(&["--load-in-8bit", "--double-quant"]),
            words(&["--double-quant", "--load-in-8bit"]),
        ),
        (
            generate(&["--load-in-4bit", "--threshold", "3"]),
            words(&["--threshold", "--load-in-4bit"]),
        ),
        (
            generate(&["--load-in-4bit", "--blocksize", "63"]),
            words(&["power of two"]),
        ),
        (
            generate(&["--load-in-8bit", "--threshold", "-1"]),
            words(&["at least 0"]),
        ),
        (
            generate(&["--load-in-4bit", "--quant-type", "nf5"]),
            words(&["nf5", "fp4"]),
        ),
        (
            generate(&["--skip-modules", "mlp"]),
            words(&["nothing is quantized"]),
        ),
        (with_file(&both), words(&["load_in_8bit", "load_in_4bit"])),
        (with_file(&gptq), words(&["gptq", "bitsandbytes"])),
        (with_file(&none), words(&["neither"])),
        (
            args(&["generate", &quantized, "--token-ids", "1", "--load-in-8bit"]),
            words(&["already, as int8"]),
        ),
        (
            args(&["quantize", &dense, &out]),
            words(&["--load-in-8bit"]),
        ),
        (
            args(&["quantize", &quantized, &out, "--load-in-4bit"]),
            words(&["already, as int8"]),
        ),
        (
            args(&["quantize", &dense, &dense, "--load-in-4bit"]),
            words(&["another folder"]),
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = run(&args);
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        for word in words {
            assert!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
        }
        assert!(!Path::new(&out).exists(), "{args:?}");
    }
}
