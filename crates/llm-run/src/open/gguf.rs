//! The tokenizer in a GGUF's metadata.

use llm_checkpoint::{Array, Metadata, Value};
use llm_text::GgufTokenizer;

/// The tokenizer in a GGUF's metadata.
pub(crate) fn gguf_tokenizer(metadata: &Metadata) -> GgufTokenizer {
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let text = |key| get(key).and_then(Value::as_str).map(str::to_owned);
    let strings = |key| get(key).and_then(Value::as_strings).map(<[String]>::to_vec);
    let id = |key| {
        get(key)
            .and_then(Value::as_u64)
            .and_then(|id| u32::try_from(id).ok())
    };
    let flag = |key| get(key).and_then(Value::as_bool);
    GgufTokenizer {
        model: text("model").unwrap_or_default(),
        pre: text("pre"),
        tokens: strings("tokens").unwrap_or_default(),
        token_types: match get("token_type") {
            Some(Value::Array(Array::I32(types))) => Some(types.clone()),
            _ => None,
        },
        scores: match get("scores") {
            Some(Value::Array(Array::F32(scores))) => Some(scores.clone()),
            _ => None,
        },
        merges: strings("merges"),
        bos_id: id("bos_token_id"),
        eos_id: id("eos_token_id"),
        eot_id: id("eot_token_id"),
        eom_id: id("eom_token_id"),
        unk_id: id("unknown_token_id"),
        pad_id: id("padding_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        charsmap: match get("precompiled_charsmap") {
            Some(Value::Array(Array::U8(bytes))) => Some(bytes.clone()),
            Some(Value::Array(Array::I8(bytes))) => {
                Some(bytes.iter().map(|byte| byte.cast_unsigned()).collect())
            }
            _ => None,
        },
        name: metadata
            .get("general.name")
            .and_then(Value::as_str)
            .map(str::to_owned),
        chat_template: metadata
            .get("tokenizer.chat_template")
            .and_then(Value::as_str)
            .map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use llm_checkpoint::Checkpoint;
    use llm_text::{SpecialTokens, Tokenizer};
    use serde::Deserialize;

    use super::*;

    #[test]
    fn a_phi3_gguf_is_known_by_its_name() {
        #[derive(Deserialize)]
        struct Case {
            text: String,
            ids: Vec<u32>,
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/faults/text/02-gguf-phi3-rstrip");
        let checkpoint = Checkpoint::open(&folder.join("phi3-vocab.gguf")).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf_tokenizer(checkpoint.metadata())).unwrap();
        let cases = std::fs::read(folder.join("expected.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let ids = tokenizer.encode(&case.text, SpecialTokens::AsIs).unwrap();
            assert_eq!(ids, case.ids, "{:?}", case.text);
        }
    }
}
