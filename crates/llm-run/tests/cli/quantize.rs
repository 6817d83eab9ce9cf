//! `llm-run quantize`, and loading in 8 and 4 bits.

mod cpu_offload;
mod flaws;
mod of_gguf;
mod readers;

use std::fs;
use std::path::Path;

use llm_checkpoint::Checkpoint;
use serde_json::Value;

use crate::support::{fixture, json, run};

/// What the reference libraries saved of a dense checkpoint, and the checkpoint itself.
const CASES: [&str; 6] = [
    "bloom-int8-threshold-skip",
    "gpt2-int8",
    "llama-int8",
    "llama-nf4-double",
    "phi3-fp4",
    "t5-nf4",
];

/// A tensor's bytes, those of a state without the blanks behind it.
fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let bytes = checkpoint.view(name).unwrap().unwrap().to_vec();
    if name.contains("quant_state") {
        return bytes.trim_ascii_end().to_vec();
    }
    bytes
}

#[test]
fn what_is_written_is_what_the_libraries_write() {
    for case in CASES {
        let saved = fixture(&format!("quantized/{case}"));
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out");
        let args = [
            "quantize",
            &format!("{saved}/dense"),
            out.to_str().unwrap(),
            "--quant-config",
            &format!("{saved}/config.json"),
            "--max-shard-size",
            "300KB",
        ];
        let output = run(&args);
        assert_eq!(output.code, 0, "{case}: {}", output.stderr);
        let config = |folder: &Path| -> Value {
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        assert_eq!(config(&out), config(Path::new(&saved)), "{case}");

        let found = Checkpoint::open(&out).unwrap();
        let expected =
            Checkpoint::open(Path::new(&saved).join("model.safetensors").as_path()).unwrap();
        assert!(found.files().len() > 1, "{case}");
        assert_eq!(found.tensors().len(), expected.tensors().len(), "{case}");
        let (mut n_codes, mut n_off) = (0, 0);
        for tensor in expected.tensors() {
            let name = &tensor.name;
            let found_tensor = found.get(name).unwrap_or_else(|| panic!("{case}: {name}"));
            assert_eq!(found_tensor.encoding, tensor.encoding, "{case}: {name}");
            let (found, expected) = (bytes(&found, name), bytes(&expected, name));
            let is_nested = case.ends_with("double")
                && (name.contains("absmax") || name.contains("quant_state"));
            if is_nested {
                nearly_equal(name, &found, &expected, &mut n_off);
                if name.ends_with(".absmax") {
                    n_codes += found.len();
                }
            } else {
                assert!(found == expected, "{case}: {name} differs");
            }
        }
        assert!(
            n_off * 200 <= n_codes,
            "{case}: {n_off} of {n_codes} codes of scales"
        );
    }
}

/// The scales' own codes and offset depend on the order in which a mean is summed, and the references look the codes up
/// by 16 bits of a scale; `n_off` counts codes that differ.
fn nearly_equal(name: &str, found: &[u8], expected: &[u8], n_off: &mut usize) {
    if name.ends_with("nested_absmax") {
        let floats = |bytes: &[u8]| -> Vec<f32> {
            let words = bytes.as_chunks::<4>().0;
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        };
        for (found, expected) in floats(found).into_iter().zip(floats(expected)) {
            assert!(
                (found - expected).abs() <= 1e-6 * expected,
                "{name}: {found} {expected}"
            );
        }
    } else if name.ends_with(".absmax") {
        for (&found, &expected) in found.iter().zip(expected) {
            assert!(found.abs_diff(expected) <= 2, "{name}: {found} {expected}");
            *n_off += usize::from(found != expected);
        }
    } else {
        let offset = |json: &[u8]| {
            let mut state: Value = serde_json::from_slice(json).unwrap();
            let offset = state["nested_offset"].take().as_f64().unwrap();
            (state, offset)
        };
        let ((found, a), (expected, b)) = (offset(found), offset(expected));
        assert_eq!(found, expected, "{name}");
        assert!((a - b).abs() <= 1e-6 * b, "{name}: {a} {b}");
    }
}

#[test]
fn a_quantized_checkpoint_runs_as_the_dense_one_quantized_at_load() {
    for (case, flags) in [
        ("llama-int8", &["--load-in-8bit"][..]),
        ("phi3-fp4", &["--load-in-4bit", "--quant-type", "fp4"]),
        ("llama-nf4-double", &["--load-in-4bit", "--double-quant"]),
        ("t5-nf4", &["--load-in-4bit"]),
    ] {
        let dense = fixture(&format!("quantized/{case}/dense"));
        let out = tempfile::tempdir().unwrap();
        let out = out.path().join("out").display().to_string();
        let written = run(&[&["quantize", &dense, &out][..], flags].concat());
        assert_eq!(written.code, 0, "{case}: {}", written.stderr);
        let generate = [
            "--token-ids",
            "5,6,7,8",
            "--max-new-tokens",
            "12",
            "--greedy",
            "--json",
        ];
        let ids = |model: &str, flags: &[&str]| {
            json(&[&["generate", model][..], &generate, flags].concat())["generated_ids"].clone()
        };
        assert_eq!(ids(&out, &[]), ids(&dense, flags), "{case}");
    }
}

/// Experts that lie in stacks, in every form of them, are written one by one: as they are, or quantized.
#[test]
fn experts_of_stacks_are_written_to_be_read() {
    for name in [
        "gpt-oss",
        "granite4",
        "granitemoe",
        "granitemoeshared",
        "lfm2-moe",
        "qwen3-5-moe",
        "qwen3-next",
    ] {
        let dense = fixture(&format!("models/{name}"));
        let generate = ["--token-ids", "5,6,7,8", "-n", "12", "--greedy", "--json"];
        let ids = |model: &str, flags: &[&str]| {
            json(&[&["generate", model][..], &generate, flags].concat())["generated_ids"].clone()
        };
        let folder = tempfile::tempdir().unwrap();
        let written = |to: &str, flags: &[&str]| {
            let out = folder.path().join(to).display().to_string();
            let args = [&["quantize", &dense, &out, "--load-in-8bit"][..], flags].concat();
            let written = run(&args);
            assert_eq!(written.code, 0, "{name}: {}", written.stderr);
            ids(&out, &[])
        };
        let all = written("all", &["--all-linear"]);
        assert_eq!(all, ids(&dense, &["--load-in-8bit"]), "{name}");
        let n = |ids: Value| ids.as_array().unwrap().len();
        assert_eq!(n(written("some", &[])), 12, "{name}");
    }
}

/// What is never quantized is told to transformers, which would else expect it so; its own list would have had the head.
#[test]
fn matrices_that_stay_dense_are_listed() {
    for (name, kept) in [
        ("deepseek-v3", "kv_b_proj"),
        ("deepseek-v3-plain", "kv_b_proj"),
        ("hunyuan-moe", "wg"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out").display().to_string();
        let dense = fixture(&format!("models/{name}"));
        let written = run(&["quantize", &dense, &out, "--load-in-4bit"]);
        assert_eq!(written.code, 0, "{name}: {}", written.stderr);
        assert!(
            written.stderr.contains(&format!("{kept} is not quantized")),
            "{name}"
        );
        let config = fs::read(Path::new(&out).join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        let skipped = &config["quantization_config"]["llm_int8_skip_modules"];
        assert_eq!(*skipped, serde_json::json!(["lm_head", kept]), "{name}");
    }
}

#[test]
fn every_setting_loads_and_speaks() {
    for flags in [
        &["--load-in-8bit"][..],
        &["--load-in-8bit", "--threshold", "0"],
        &["--load-in-8bit", "--skip-modules", "lm_head,down_proj"],
        &["--load-in-4bit", "--blocksize", "128"],
        &["--load-in-4bit", "--quant-type", "fp4", "--double-quant"],
        &[
            "--load-in-4bit",
            "--compute-dtype",
            "bf16",
            "--skip-modules",
            "mlp",
        ],
    ] {
        let args = [
            "generate",
            "demo",
            "Once upon a time",
            "--max-new-tokens",
            "8",
            "--json",
        ];
        let found = json(&[&args[..], flags].concat());
        assert_eq!(
            found["generated_ids"].as_array().unwrap().len(),
            8,
            "{flags:?}"
        );
    }
}

#[test]
fn inspect_shows_schemes_and_statistics() {
    let folder = fixture("quantized/gpt2-int8");
    let text = run(&["inspect", &folder]).stdout;
    let line = |text: &str, name: &str| -> Vec<String> {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("{name} in: {text}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    let weight = "transformer.h.0.attn.c_attn.weight";
    let expected = [weight, "int8", "int8", "[384,", "128]", "49,152", "1,537"];
    assert_eq!(line(&text, weight), expected);
    assert_eq!(
        line(&text, "transformer.h.0.attn.c_attn.bias")[1],
        "float16"
    );
    assert!(!text.contains(".SCB"), "{text}");

    // The same parameters before and after; the same bytes as will be allocated.
    let dense = json(&["inspect", &format!("{folder}/dense"), "--json"]);
    let saved = json(&["inspect", &folder, "--json"]);
    let loaded = json(&[
        "inspect",
        &format!("{folder}/dense"),
        "--load-in-8bit",
        "--json",
    ]);
    for report in [&saved, &loaded] {
        assert_eq!(report["n_parameters"], dense["n_parameters"]);
    }
    // Without the byte that says how each matrix lies.
    let statistics = |report: &Value| report["statistics_bytes"].as_u64().unwrap();
    assert_eq!(statistics(&saved), statistics(&loaded) + 8);

    let folder = fixture("quantized/llama-nf4-double");
    let text = run(&["inspect", &folder]).stdout;
    let weight = "model.layers.0.mlp.down_proj.weight";
    let found = line(&text, weight);
    assert_eq!(found[1..6], ["uint8", "nf4", "double", "[128,", "256]"]);
    assert_eq!(found[6], "16,384");
}
