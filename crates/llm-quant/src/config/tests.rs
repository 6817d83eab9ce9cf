use serde_json::{Map, Value, json};

use proptest::proptest;

use super::*;
use crate::Int8;

fn parse(json: Value) -> Result<Option<QuantConfig>> {
    let Value::Object(object) = json else {
        panic!("an object")
    };
    QuantConfig::from_json(&object)
}

#[test]
fn writes_what_the_reference_writes() {
    let config = QuantConfig {
        bnb_4bit_compute_dtype: DType::BF16,
        bnb_4bit_quant_type: Code::Nf4,
        bnb_4bit_use_double_quant: true,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let expected = r#"{"_load_in_4bit":true,"_load_in_8bit":false,"bnb_4bit_compute_dtype":"bfloat16","bnb_4bit_quant_storage":"uint8","bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true,"llm_int8_enable_fp32_cpu_offload":false,"llm_int8_has_fp16_weight":false,"llm_int8_skip_modules":null,"llm_int8_threshold":6.0,"load_in_4bit":true,"load_in_8bit":false,"quant_method":"bitsandbytes"}"#;
    assert_eq!(config.to_json().to_string(), expected);
}

#[test]
fn every_option_survives_a_round_trip() {
    let configs = [
        QuantConfig::new(LoadIn::EightBit),
        QuantConfig {
            llm_int8_threshold: 3.3,
            llm_int8_skip_modules: Some(vec![
                "lm_head".to_owned(),
                "model.layers.1.mlp".to_owned(),
            ]),
            llm_int8_enable_fp32_cpu_offload: true,
            llm_int8_has_fp16_weight: true,
            ..QuantConfig::new(LoadIn::EightBit)
        },
        QuantConfig {
            llm_int8_skip_modules: Some(vec![]),
            bnb_4bit_compute_dtype: DType::F16,
            bnb_4bit_quant_type: Code::Nf4,
            bnb_4bit_use_double_quant: true,
            bnb_4bit_quant_storage: DType::BF16,
            block_size: BlockSize::new(128).unwrap(),
            ..QuantConfig::new(LoadIn::FourBit)
        },
    ];
    for config in configs {
        assert_eq!(parse(config.to_json()), Ok(Some(config)));
    }
}

#[test]
fn older_and_shorter_spellings_are_understood() {
    let eight_bit = QuantConfig::new(LoadIn::EightBit);
    let four_bit = QuantConfig::new(LoadIn::FourBit);
    let bf16 = QuantConfig {
        bnb_4bit_compute_dtype: DType::BF16,
        ..four_bit.clone()
    };
    let cases = [
        (json!({}), None),
        (json!({"quant_method": "bitsandbytes"}), None),
        (json!({"load_in_8bit": false, "load_in_4bit": false}), None),
        (json!({"load_in_8bit": true}), Some(&eight_bit)),
        (
            json!({"load_in_8bit": true, "llm_int8_threshold": 6, "llm_int8_skip_modules": null}),
            Some(&eight_bit),
        ),
        (
            json!({"load_in_4bit": true, "bnb_4bit_compute_dtype": null, "bnb_4bit_quant_storage": null}),
            Some(&four_bit),
        ),
        (
            json!({"load_in_4bit": true, "bnb_4bit_compute_dtype": "torch.bfloat16"}),
            Some(&bf16),
        ),
        (
            json!({"load_in_4bit": true, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_blocksize": 64}),
            Some(&bf16),
        ),
    ];
    for (json, expected) in cases {
        let message = json.to_string();
        assert_eq!(parse(json), Ok(expected.cloned()), "{message}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    struct Case {
        key: &'static str,
        value: Value,
        words: &'static [&'static str],
    }
    let case = |key, value, words| Case { key, value, words };
    let cases = [
        case(
            "load_in_8bit",
            json!(true),
            &["is true", "expected false beside a true `load_in_4bit`"],
        ),
        case(
            "load_in_8bit",
            json!("yes"),
            &[r#"is "yes""#, "true or false"],
        ),
        case(
            "_load_in_4bit",
            json!(false),
            &["is false", "true, as `load_in_4bit`"],
        ),
        case(
            "_load_in_8bit",
            json!(true),
            &["is true", "false, as `load_in_8bit`"],
        ),
        case(
            "llm_int8_threshold",
            json!(-1.0),
            &["is -1.0", "a number from 0 on"],
        ),
        case(
            "llm_int8_threshold",
            json!("6"),
            &[r#"is "6""#, "a number from 0 on"],
        ),
        case(
            "llm_int8_threshold",
            json!(1e300),
            &["is 1e+300", "a number from 0 on"],
        ),
        case(
            "llm_int8_skip_modules",
            json!("lm_head"),
            &[r#"is "lm_head""#, "list"],
        ),
        case(
            "llm_int8_skip_modules",
            json!(["lm_head", 7]),
            &[r#"is ["lm_head",7]"#, "list"],
        ),
        case(
            "llm_int8_skip_modules",
            json!(["layers.(?=0)"]),
            &["has `layers.(?=0)`", "regular expression"],
        ),
        case(
            "bnb_4bit_quant_type",
            json!("int4"),
            &[r#"is "int4""#, "nf4 or fp4"],
        ),
        case(
            "bnb_4bit_compute_dtype",
            json!("int8"),
            &[r#"is "int8""#, "float32, float16, bfloat16"],
        ),
        case(
            "bnb_4bit_quant_storage",
            json!("int64"),
            &[r#"is "int64""#, "uint8, int8, float16"],
        ),
        case(
            "bnb_4bit_use_double_quant",
            json!(1),
            &["is 1", "true or false"],
        ),
        case(
            "bnb_4bit_blocksize",
            json!(100),
            &["is 100", "a power of two from 32 to 4096"],
        ),
        case(
            "llm_int8_thresh",
            json!(6.0),
            &["not understood", "llm_int8_threshold"],
        ),
        case("quant_method", json!(4), &["is 4", "bitsandbytes"]),
    ];
    for Case { key, value, words } in cases {
        let mut object = Map::new();
        object.insert("load_in_4bit".to_owned(), json!(true));
        object.insert(key.to_owned(), value);
        let error = QuantConfig::from_json(&object).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{error}");
        for word in words {
            assert!(error.contains(word), "{error} lacks {word}");
        }
    }
}

#[test]
fn other_methods_are_named_before_their_keys() {
    for method in ["gptq", "awq", "fp8"] {
        let json = json!({"bits": 4, "group_size": 128, "quant_method": method});
        let error = parse(json).unwrap_err().to_string();
        assert!(
            error.contains(method) && error.contains("bitsandbytes"),
            "{error}"
        );
    }
}

#[test]
fn long_values_are_shortened_in_messages() {
    let json = json!({"load_in_4bit": true, "bnb_4bit_quant_type": "ä".repeat(100_000)});
    assert!(parse(json).unwrap_err().to_string().len() < 400);
}

#[test]
fn names_are_skipped_whole_by_their_beginning_and_by_their_end() {
    let mut config = QuantConfig::new(LoadIn::EightBit);
    assert_eq!(config.skips("lm_head"), None);
    config.llm_int8_skip_modules = Some(vec!["lm_head".to_owned(), "model.layers.1".to_owned()]);
    let cases = [
        ("lm_head", true),
        ("model.lm_head", true),
        ("lm_head.dense", true),
        ("lm_head2", false),
        ("model.layers.1", true),
        ("model.layers.1.mlp.up_proj", true),
        ("model.layers.11.mlp.up_proj", false),
        ("model.layers.0.mlp.up_proj", false),
    ];
    for (module, expected) in cases {
        assert_eq!(config.skips(module), Some(expected), "{module}");
    }
}

#[test]
fn the_scheme_is_what_the_options_say() {
    let mut config = QuantConfig::new(LoadIn::EightBit);
    let format = Int8 { threshold: 6.0 };
    assert_eq!(config.scheme(), Scheme::Int8(format));
    config.llm_int8_has_fp16_weight = true;
    assert_eq!(config.scheme(), Scheme::Int8PerUse(DType::F16, format));
    config.load_in = LoadIn::FourBit;
    let format = FourBit {
        code: Code::Fp4,
        block_size: BlockSize::DEFAULT,
        double_quant: false,
    };
    assert_eq!(config.scheme(), Scheme::FourBit(format));
}

#[test]
fn regular_expressions_name_what_they_do_to_the_reference() {
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/quantization/skip-modules/skip-modules.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    let modules: Vec<&str> = fixture["modules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap())
        .collect();
    let named = fixture["named"].as_object().unwrap();
    assert!(named.len() >= 700);
    for (pattern, expected) in named {
        assert_eq!(skip::flaw(pattern), None, "{pattern}");
        let found = (0..modules.len()).filter(|&i| skip::names(pattern, modules[i]));
        assert_eq!(json!(found.collect::<Vec<_>>()), *expected, "{pattern}");
    }
    let refused = fixture["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_str().unwrap().to_owned());
    let hostile = [
        "(".repeat(400),
        "a".repeat(600),
        "((((a*)*)*)*)*".to_owned(),
        "(a{2,9}){2,9}".repeat(60),
    ];
    for pattern in refused.chain(hostile) {
        assert!(skip::flaw(&pattern).is_some(), "{pattern}");
        assert!(QuantConfig::check_skip_modules(&[pattern]).is_err());
    }
    // Time is bounded.
    let name = "a".repeat(200);
    for pattern in [
        "((a*)*)*b",
        "((a{1,900}){1,900}){900}b",
        "(a|aa|a?)*(a|a*)*b",
        "(.*.*.*.*.*.*.*.*)*b",
    ] {
        assert!(skip::flaw(pattern).is_none(), "{pattern}");
        assert!(!skip::names(pattern, &name), "{pattern}");
    }
}

proptest! {
    #[test]
    fn no_expression_makes_it_fail(pattern in r#"[a.\\()\[\]{}0-9,*+?|^$:db-]{0,20}"#, name in "[a.0-9]{0,12}") {
        _ = skip::flaw(&pattern);
        _ = skip::names(&pattern, &name);
    }
}
