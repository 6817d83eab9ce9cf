//! Values of every type in every key of `tokenizer_config.json`, and bytes that are changed: none makes loading end
//! otherwise than in a tokenizer or a short error.

use serde_json::{Map, Value, json};

use super::*;

const KEYS: [&str; 30] = [
    "tokenizer_class",
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "other_token",
    "additional_special_tokens",
    "extra_special_tokens",
    "added_tokens_decoder",
    "split_special_tokens",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "legacy",
    "chat_template",
    "extra_ids",
    "do_lower_case",
    "strip_accents",
    "model_max_length",
    "clean_up_tokenization_spaces",
    "spaces_between_special_tokens",
    "sp_model_kwargs",
    "normalizer_file",
    "fast_tokenizer_files",
    "fix_mistral_regex",
    "errors",
    "auto_map",
];

fn values() -> Vec<Value> {
    let mut values = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("x"),
        json!("<s>"),
        json!("\u{0}\u{10ffff}"),
        json!("{% for x in y %}"),
        json!("LlamaTokenizer"),
        json!("T5Tokenizer"),
        json!([]),
        json!([null]),
        json!(["", "a", "a"]),
        json!([[["a"]]]),
        json!([{"name": "default", "template": 1}]),
        json!({}),
        json!({"content": null}),
        json!({"content": "", "special": true}),
        json!({"content": "a", "lstrip": true, "rstrip": 1}),
        json!({"__type": "AddedToken", "content": "a", "normalized": false}),
        json!({"0": {"content": "a"}, "4294967295": {"content": "b"}}),
        json!({"-1": "a"}),
        json!({"99999999999": {"content": "a"}}),
        json!({"1": {"content": "a"}, "01": {"content": "b"}}),
    ];
    values.push(json!("x".repeat(70_000)));
    values.push(json!(vec!["y"; 3_000]));
    values
}

fn try_to_load(tokenizer: &[u8], config: &[u8]) {
    match Tokenizer::from_json(tokenizer, Some(config)) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode("a <s> b", SpecialTokens::Add);
            if let Ok(ids) = ids {
                _ = tokenizer.decode(&ids, SpecialText::Keep);
            }
            for notice in tokenizer.notices() {
                assert!(notice.len() < 2_000, "{notice:.300}");
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 2_000, "{message:.300}");
        }
    }
}

fn fixtures() -> [(Vec<u8>, Map<String, Value>); 2] {
    ["byte-level", "sentencepiece"].map(|name| {
        let tokenizer = fs::read(fixture(name).join("tokenizer.json")).unwrap();
        (
            tokenizer,
            read_json(&fixture(name).join("tokenizer_config.json")),
        )
    })
}

#[test]
fn a_value_of_any_type_in_any_key_is_taken_or_refused() {
    for (tokenizer, whole) in fixtures() {
        for key in KEYS {
            for value in values() {
                let mut config = whole.clone();
                config.insert(key.to_owned(), value);
                try_to_load(&tokenizer, Value::Object(config).to_string().as_bytes());
            }
        }
    }
}

#[test]
fn a_changed_byte_is_taken_or_refused() {
    for (tokenizer, whole) in fixtures() {
        let text = Value::Object(whole).to_string().into_bytes();
        let step = (text.len() / 400).max(1);
        for at in (0..text.len()).step_by(step) {
            for byte in [0, b'"', b'{', b'9', 0xFF] {
                let mut changed = text.clone();
                changed[at] = byte;
                try_to_load(&tokenizer, &changed);
            }
        }
    }
}
