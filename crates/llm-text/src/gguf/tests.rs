use serde::Deserialize;

use super::*;
use crate::tokenizer::testing::{fixture, gguf_of, read_json};
use crate::{SpecialText, SpecialTokens};

#[derive(Deserialize)]
struct PreTokenizerCases {
    texts: Vec<String>,
    ids: std::collections::BTreeMap<String, Vec<Vec<u32>>>,
}

#[test]
fn every_pre_tokenizer_splits_as_in_transformers() {
    let cases: PreTokenizerCases = read_json(&fixture("byte-level/pre-tokenizers.json"));
    for (pre, expected) in &cases.ids {
        let gguf = GgufTokenizer {
            pre: Some(pre.clone()),
            ..gguf_of("byte-level")
        };
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        for (text, ids) in cases.texts.iter().zip(expected) {
            let found = tokenizer.encode(text, SpecialTokens::AsIs).unwrap();
            assert_eq!(&found, ids, "{pre}: {text:?}");
        }
    }
}

#[test]
fn every_known_pre_tokenizer_loses_nothing() {
    let text = "It's 12345 DON'T\r\n\r\n  x  (a+b)!!! 灯台 мир\u{301} 🙂/\n";
    let gguf = gguf_of("byte-level");
    let unknown = GgufTokenizer {
        pre: Some("mystery".to_owned()),
        ..gguf.clone()
    };
    let Err(TextError::UnknownPreTokenizer { pre, known }) = Tokenizer::from_gguf(&unknown) else {
        panic!("`mystery` was accepted");
    };
    assert_eq!(pre, "mystery");
    for name in known.split(", ") {
        let gguf = GgufTokenizer {
            pre: Some(name.to_owned()),
            ..gguf.clone()
        };
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let ids = tokenizer.encode(text, SpecialTokens::AsIs).unwrap();
        assert_eq!(
            tokenizer.decode(&ids, SpecialText::Skip).unwrap(),
            text,
            "{name}"
        );
    }
}

#[test]
fn flags_decide_what_is_put_around_a_text() {
    struct Case {
        add_bos: Option<bool>,
        add_eos: Option<bool>,
        pre: Option<&'static str>,
        byte_level: &'static [&'static str],
        sentencepiece: &'static [&'static str],
    }
    let cases = [
        Case {
            add_bos: None,
            add_eos: None,
            pre: None,
            byte_level: &["a"],
            sentencepiece: &["<s>", "▁", "a"],
        },
        Case {
            add_bos: None,
            add_eos: None,
            pre: Some("llama-bpe"),
            byte_level: &["<s>", "a"],
            sentencepiece: &["<s>", "▁", "a"],
        },
        Case {
            add_bos: Some(false),
            add_eos: Some(true),
            pre: None,
            byte_level: &["a", "</s>"],
            sentencepiece: &["▁", "a", "</s>"],
        },
        Case {
            add_bos: Some(true),
            add_eos: Some(true),
            pre: None,
            byte_level: &["<s>", "a", "</s>"],
            sentencepiece: &["<s>", "▁", "a", "</s>"],
        },
    ];
    for case in cases {
        for (name, expected) in [
            ("byte-level", case.byte_level),
            ("sentencepiece", case.sentencepiece),
        ] {
            let gguf = GgufTokenizer {
                add_bos: case.add_bos,
                add_eos: case.add_eos,
                pre: case.pre.map(str::to_owned),
                ..gguf_of(name)
            };
            let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
            let ids = tokenizer.encode("a", SpecialTokens::Add).unwrap();
            let tokens: Vec<_> = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
            assert_eq!(tokens, expected);
        }
    }
}

#[test]
fn without_a_space_prefix_none_is_added_or_removed() {
    let gguf = GgufTokenizer {
        add_space_prefix: Some(false),
        ..gguf_of("sentencepiece")
    };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    for text in ["a", " a", "  a b"] {
        let ids = tokenizer.encode(text, SpecialTokens::AsIs).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), text);
    }
    let ids = tokenizer.encode("a", SpecialTokens::AsIs).unwrap();
    assert_eq!(ids, [tokenizer.token_id("a").unwrap()]);
}

#[test]
fn all_ends_are_known_and_the_template_sees_the_special_tokens() {
    let gguf = GgufTokenizer {
        eot_id: Some(3),
        eom_id: Some(2),
        chat_template: Some("{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}".to_owned()),
        ..gguf_of("byte-level")
    };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokenizer.eos_ids(), [2, 3]);
    let template = tokenizer.chat_template().unwrap();
    let nothing = crate::Conversation::default();
    let text = template
        .render(&nothing, crate::GenerationPrompt::Omit)
        .unwrap();
    assert_eq!(text, "<s></s>False");
}

#[test]
fn without_types_the_named_tokens_are_special() {
    let gguf = GgufTokenizer {
        token_types: None,
        ..gguf_of("byte-level")
    };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = tokenizer.encode("a</s>", SpecialTokens::AsIs).unwrap();
    assert_eq!(ids[1..], [2]);
    assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), "a");
}

#[test]
fn metadata_that_does_not_fit_together_is_an_error() {
    let byte_level = gguf_of("byte-level");
    let llama = gguf_of("sentencepiece");
    type Expected = fn(&TextError) -> bool;
    let cases: [(GgufTokenizer, Expected); 10] = [
        (
            GgufTokenizer {
                model: "bert".into(),
                ..byte_level.clone()
            },
            |e| matches!(e, TextError::UnknownGgufModel { .. }),
        ),
        (
            GgufTokenizer {
                merges: None,
                ..byte_level.clone()
            },
            |e| {
                matches!(
                    e,
                    TextError::MissingGgufKey {
                        key: MERGES_KEY,
                        ..
                    }
                )
            },
        ),
        (
            GgufTokenizer {
                scores: None,
                ..llama.clone()
            },
            |e| {
                matches!(
                    e,
                    TextError::MissingGgufKey {
                        key: SCORES_KEY,
                        ..
                    }
                )
            },
        ),
        (
            GgufTokenizer {
                scores: Some(vec![]),
                ..llama.clone()
            },
            |e| {
                matches!(
                    e,
                    TextError::GgufLength {
                        key: SCORES_KEY,
                        ..
                    }
                )
            },
        ),
        (
            GgufTokenizer {
                token_types: Some(vec![1]),
                ..llama.clone()
            },
            |e| {
                matches!(
                    e,
                    TextError::GgufLength {
                        key: TYPES_KEY,
                        found: 1,
                        ..
                    }
                )
            },
        ),
        (
            GgufTokenizer {
                eos_id: Some(1 << 20),
                ..byte_level.clone()
            },
            |e| matches!(e, TextError::GgufTokenId { id: 1_048_576, .. }),
        ),
        (
            GgufTokenizer {
                merges: Some(vec!["ab".into()]),
                ..byte_level.clone()
            },
            |e| matches!(e, TextError::BrokenTokenizer { .. }),
        ),
        (
            GgufTokenizer {
                merges: Some(vec!["a nowhere".into()]),
                ..byte_level.clone()
            },
            |e| matches!(e, TextError::BrokenTokenizer { .. }),
        ),
        (
            GgufTokenizer {
                tokens: vec![],
                ..GgufTokenizer {
                    bos_id: Some(0),
                    ..GgufTokenizer::default()
                }
            },
            |e| matches!(e, TextError::GgufTokenId { .. }),
        ),
        (
            GgufTokenizer {
                merges: Some(vec![format!("{0} {0}", llama.tokens[300])]),
                ..llama
            },
            |e| matches!(e, TextError::BrokenTokenizer { .. }),
        ),
    ];
    for (gguf, expected) in cases {
        let error = Tokenizer::from_gguf(&gguf).unwrap_err();
        assert!(expected(&error), "{error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn odd_vocabularies_do_not_panic() {
    let huge = "a".repeat(1 << 20);
    let tokens = vec![
        "<unk>".into(),
        huge.clone(),
        "a".into(),
        "a".into(),
        String::new(),
        "aa".into(),
    ];
    let gguf = GgufTokenizer {
        model: "llama".into(),
        scores: Some(vec![
            f32::NAN,
            f32::INFINITY,
            -0.0,
            0.0,
            f32::NEG_INFINITY,
            1.0,
        ]),
        token_types: Some(vec![2, 1, 1, 77, 3, -1]),
        tokens,
        unk_id: Some(0),
        add_space_prefix: Some(false),
        ..GgufTokenizer::default()
    };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    // Of two tokens with one spelling the later is used.
    assert_eq!(
        tokenizer.encode("aaa?", SpecialTokens::AsIs).unwrap(),
        [5, 3, 0]
    );
    let empty = GgufTokenizer {
        model: "gpt2".into(),
        merges: Some(vec![]),
        ..GgufTokenizer::default()
    };
    let tokenizer = Tokenizer::from_gguf(&empty).unwrap();
    assert_eq!(tokenizer.vocab_size(), 0);
    let ids = tokenizer.encode("a", SpecialTokens::Add).unwrap();
    assert!(ids.is_empty());
}
