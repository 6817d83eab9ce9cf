//! Configurations with values of every type in every key: none makes opening and planning fail otherwise than by an error
//! that names the key.

use llm_arch::ModelSpec;
use llm_quant::QuantConfig;

use super::*;

/// Values of every type of JSON, and such as are likely to be reckoned with wrongly.
fn values() -> Vec<Value> {
    let numbers = [
        "-1", "0", "1", "2", "3", "7", "0.5", "1.5", "-0.5", "1e30", "-1e30", "1e-30", "1e300",
        "1e-300",
    ];
    let large = [
        "4294967295",
        "4294967296",
        "16777216",
        "9223372036854775807",
        "18446744073709551615",
        "1e19",
    ];
    let words = [
        "\"\"",
        "\"x\"",
        "\"0\"",
        "\"NaN\"",
        "\"Infinity\"",
        "\"-Infinity\"",
        "\"auto\"",
        "\"default\"",
        "\"yarn\"",
    ];
    let others = [
        "null",
        "true",
        "false",
        "[]",
        "[1]",
        "[0.5, -1]",
        "[[[]]]",
        "[null]",
        "{}",
        "{\"a\": 1}",
        "{\"type\": \"linear\"}",
    ];
    let ropes = [
        r#"{"type": "linear", "factor": 0}"#,
        r#"{"type": "linear", "factor": 1e-300}"#,
        r#"{"type": "dynamic", "factor": 1e300}"#,
        r#"{"rope_type": "yarn", "factor": 1e30, "beta_fast": 1e30}"#,
        r#"{"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 1e-30}"#,
        r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 1e300}"#,
        r#"{"rope_type": "longrope", "short_factor": [], "long_factor": []}"#,
        r#"{"rope_theta": 1e-300, "partial_rotary_factor": 1e30}"#,
        r#"{"full_attention": {"rope_theta": 0}, "sliding_attention": {}}"#,
        r#"{"full_attention": 1}"#,
    ];
    let texts = numbers
        .iter()
        .chain(&large)
        .chain(&words)
        .chain(&others)
        .chain(&ropes);
    let mut values: Vec<Value> = texts
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    values.push(json!("ü".repeat(5000)));
    values.push(json!(vec![1; 2_000]));
    values.push(json!(vec!["full_attention"; 2_000]));
    values
}

/// Small whole configurations: of every family as the reference library writes it, and of a text half.
fn configurations() -> Map<String, Value> {
    let mut reference = read(&fixtures().join("configs/reference-defaults.json"));
    let halves = reference.shift_remove("text_halves").unwrap();
    let mut all: Map<String, Value> = reference
        .into_iter()
        .map(|(family, cases)| (family, cases["whole"].clone()))
        .collect();
    for model_type in ["gemma3", "qwen2_vl"] {
        let mut text = halves[model_type].as_object().unwrap().clone();
        text.insert("num_hidden_layers".to_owned(), json!(2));
        text.shift_remove("layer_types");
        let vision = json!({"num_hidden_layers": 3});
        let config =
            json!({"model_type": model_type, "text_config": text, "vision_config": vision});
        all.insert(model_type.to_owned(), config);
    }
    let published = read(&fixtures().join("configs/real-keys.json"));
    for name in [
        "falcon-7b",
        "SmolLM2-135M",
        "Qwen2-VL-2B, flat",
        "Phi-4-mini",
        "gemma-3-1b",
    ] {
        let mut config = published[name].clone();
        config["num_hidden_layers"] = json!(2);
        all.insert(name.to_owned(), config);
    }
    // Many slots take long, and say nothing new.
    all["olmoe"]["num_experts"] = json!(4);
    all["qwen3_moe"]["num_local_experts"] = json!(4);
    for family in ["olmoe", "qwen3_moe"] {
        all[family]["num_experts_per_tok"] = json!(2);
    }
    all
}

/// Opens a configuration and plans the model, if it is another than the `whole` one; what is wrong with it, if anything.
fn open_and_plan(config: &Map<String, Value>, whole: &ModelSpec) -> Option<String> {
    let skeleton = match from_config(config) {
        Ok(skeleton) => skeleton,
        Err(error) => return Some(error.to_string()),
    };
    // Lists of a million slots are planned elsewhere, and what changed nothing has been planned.
    if skeleton.slots.len() > 2000 || skeleton.spec == *whole {
        return None;
    }
    let stored = all_as(&skeleton, DType::BF16);
    let limits = Limits {
        context: skeleton.spec.context,
        ..ONE_SEQUENCE
    };
    let request = Request {
        limits,
        ..request(&skeleton, &stored)
    };
    match plan(&request) {
        Ok(verdict) => _ = verdict.to_string(),
        Err(error) => _ = error.to_string(),
    }
    None
}

/// True if a message says what it is about: the key, or that the extents are too many or too large.
fn says(message: &str, key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    ["any; the configuration", "is missing", "unknown model family", last].iter().any(|words| message.contains(words))
        // A wrong value of one key shows where another has to fit it.
        || message.contains("` is ")
}

#[test]
fn no_value_of_any_key_makes_opening_and_planning_fail() {
    let values = values();
    let mut n_cases = 0;
    let mut quiet = Vec::new();
    for (name, whole) in configurations() {
        let whole = whole.as_object().unwrap();
        let spec = from_config(whole).unwrap().spec;
        let mut check = |key: &str, config: &Map<String, Value>, value: &Value| {
            n_cases += 1;
            if let Some(message) = open_and_plan(config, &spec) {
                assert!(message.len() < 2000, "{name} {key}: {message:.300}");
                if !says(&message, key) {
                    let value = value.to_string();
                    quiet.push(format!("{name} {key} {value:.40}: {message:.200}"));
                }
            }
        };
        let extra = [
            "head_dim",
            "rope_scaling",
            "partial_rotary_factor",
            "dtype",
            "torch_dtype",
            "rope_theta",
        ];
        let mut keys: Vec<&str> = whole.keys().map(String::as_str).collect();
        keys.extend(extra.iter().filter(|key| !whole.contains_key(**key)));
        for key in keys {
            for value in &values {
                let mut config = whole.clone();
                config.insert(key.to_owned(), value.clone());
                check(key, &config, value);
            }
        }
        for object in ["text_config", "rope_parameters", "rope_scaling"] {
            let Some(Value::Object(inner)) = whole.get(object) else {
                continue;
            };
            for key in inner.keys() {
                for value in &values {
                    let mut config = whole.clone();
                    config[object][key] = value.clone();
                    check(&format!("{object}.{key}"), &config, value);
                }
            }
        }
    }
    assert!(n_cases >= 12_000, "{n_cases}");
    assert!(
        quiet.is_empty(),
        "{}: {:#?}",
        quiet.len(),
        &quiet[..quiet.len().min(20)]
    );
}

#[test]
fn no_value_of_any_key_makes_a_quantization_fail() {
    let whole = QuantConfig::new(llm_quant::LoadIn::FourBit).to_json();
    let keys: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
    for key in keys
        .iter()
        .map(String::as_str)
        .chain(["frobnicate", "bnb_4bit_blocksize"])
    {
        for value in values() {
            let mut config = object(whole.clone());
            config.insert(key.to_owned(), value);
            if let Err(error) = QuantConfig::from_json(&config) {
                let message = error.to_string();
                let says =
                    message.contains(key) || key.ends_with("load_in_8bit") || key == "quant_method";
                assert!(says && message.len() < 2000, "{key}: {message:.300}");
            }
        }
    }
}
