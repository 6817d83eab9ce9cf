//! `llm_int8_enable_fp32_cpu_offload`: unquantized on the CPU, in 32 bits.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{self, fixture, logits};

const FLAG: &str = "--llm-int8-enable-fp32-cpu-offload";

/// All of a model is on the CPU here.
#[test]
fn logits_are_those_of_f32() {
    let model = fixture("models/llama");
    let in_f32 = logits(&model, &["--dtype", "f32"]);
    for quant in ["--load-in-8bit", "--load-in-4bit"] {
        let quantized = logits(&model, &["--dtype", "f32", quant]);
        assert_ne!(quantized, in_f32, "{quant}");
        let kept = logits(&model, &["--dtype", "f32", quant, FLAG]);
        assert_eq!(kept, in_f32, "{quant}");
    }
}

#[test]
fn settings_of_bitsandbytes_ask_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("quant.json");
    let text = json!({"load_in_8bit": true, "llm_int8_enable_fp32_cpu_offload": true});
    std::fs::write(&settings, text.to_string()).unwrap();
    let flags = [
        "--dtype",
        "f32",
        "--quant-config",
        settings.to_str().unwrap(),
    ];
    let model = fixture("models/llama");
    assert_eq!(logits(&model, &flags), logits(&model, &["--dtype", "f32"]));
}

/// Four bytes an element on the CPU, one on the GPU.
#[test]
fn a_plan_counts_four_bytes_an_element() {
    let model = fixture("configs/bigscience--bloomz-7b1-mt");
    let plan = |flags: &[&str]| {
        let args = ["plan", &model, "--load-in-8bit", "--max-memory"];
        let flags = [&args[..], &["0=5GB,cpu=40GB"], flags, &["--json"]].concat();
        support::json(&flags)
    };
    // A layer's matrices are 12 times 4096 squared; its vectors stay in 16 bits.
    let elements = 12 * 4096 * 4096_u64;
    let vectors = |bytes: u64| bytes % elements;
    let layers = |plan: &Value| -> Vec<(bool, u64)> {
        let units = plan["units"].as_array().unwrap().iter();
        let layers = units.filter(|unit| unit["unit"].as_str().unwrap().starts_with("layer"));
        let layer = |unit: &Value| {
            (
                unit["computes_on"] == "cpu",
                unit["weights"].as_u64().unwrap(),
            )
        };
        layers.map(layer).collect()
    };
    let (kept, codes) = (layers(&plan(&[FLAG])), layers(&plan(&[])));
    assert!(kept.iter().any(|(on_cpu, _)| *on_cpu) && kept.iter().any(|(on_cpu, _)| !on_cpu));
    for (on_cpu, bytes) in kept {
        let expected = if on_cpu { 4 * elements } else { elements };
        assert_eq!(bytes - vectors(bytes), expected, "{on_cpu}");
        assert!(vectors(bytes) < elements / 100);
    }
    for (_, bytes) in codes {
        assert_eq!(bytes - vectors(bytes), elements);
    }
}

/// A checkpoint that is quantized already stays so, and says that it does not do what its configuration asks for.
#[test]
fn what_is_stored_quantized_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().to_str().unwrap();
    let source = fixture("quantized/llama-int8");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&source).join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["quantization_config"]["llm_int8_enable_fp32_cpu_offload"] = true.into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_eq!(logits(model, &[]), logits(&source, &[]));
    let output = support::run(&[
        "generate",
        model,
        "--token-ids",
        "1",
        "--max-new-tokens",
        "1",
    ]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let note = "`llm_int8_enable_fp32_cpu_offload: true` is not applied: what the checkpoint holds quantized stays so";
    assert!(output.stderr.contains(note), "{}", output.stderr);
    let output = support::run(&[
        "generate",
        &source,
        "--token-ids",
        "1",
        "--load-in-8bit",
        FLAG,
    ]);
    assert_eq!(output.code, 2);
    assert!(
        output.stderr.contains("quantized already"),
        "{}",
        output.stderr
    );
}
