use serde::Deserialize;

use super::*;
use crate::tokenizer::testing::{fault, fixture, gguf_of, read_json};
use crate::{SpecialText, SpecialTokens};

#[derive(Deserialize)]
struct PreTokenizerCases {
    texts: Vec<String>,
    ids: std::collections::BTreeMap<String, Vec<Vec<u32>>>,
}

#[test]
fn every_pre_tokenizer_splits_as_in_transformers() {
    check_splits(&fixture("byte-level/pre-tokenizers.json"));
    check_splits(&fault("04-gguf-pre-names/expected.json"));
}

fn check_splits(path: &std::path::Path) {
    let cases: PreTokenizerCases = read_json(path);
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
    let text = template.render(&[], crate::GenerationPrompt::Omit).unwrap();
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

#[test]
fn other_names_of_a_kind_are_that_kind() {
    #[derive(Deserialize)]
    struct Names {
        alias_of: std::collections::BTreeMap<String, Vec<String>>,
    }
    let texts: PreTokenizerCases = read_json(&fault("04-gguf-pre-names/expected.json"));
    let names: Names = read_json(&fault("04-gguf-pre-names/names.json"));
    let tokenizer = |pre: &str| {
        let gguf = GgufTokenizer {
            pre: Some(pre.to_owned()),
            add_bos: None,
            ..gguf_of("byte-level")
        };
        Tokenizer::from_gguf(&gguf).unwrap()
    };
    for (kind, aliases) in &names.alias_of {
        let known = tokenizer(kind);
        for alias in aliases {
            let tokenizer = tokenizer(alias);
            for text in &texts.texts {
                let ids = tokenizer.encode(text, SpecialTokens::Add).unwrap();
                let expected = known.encode(text, SpecialTokens::Add).unwrap();
                assert_eq!(ids, expected, "{alias}: {text:?}");
            }
        }
    }
}

#[test]
fn gemma4_respells_spaces_and_keeps_what_it_does_not_know_as_bytes() {
    let tokens = [
        "<unk>", "<bos>", "▁", "a", "▁a", "<0xC3>", "<0xA9>", "<turn|>",
    ];
    let gguf = GgufTokenizer {
        model: "gemma4".to_owned(),
        tokens: tokens.map(str::to_owned).to_vec(),
        token_types: Some(vec![2, 3, 1, 1, 1, 6, 6, 3]),
        merges: Some(vec!["▁ a".to_owned()]),
        bos_id: Some(1),
        unk_id: Some(0),
        ..GgufTokenizer::default()
    };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = tokenizer
        .encode("a a<turn|> é", SpecialTokens::Add)
        .unwrap();
    assert_eq!(ids, [3, 4, 7, 2, 5, 6]);
    let text = tokenizer.decode(&ids, SpecialText::Skip).unwrap();
    assert_eq!(text, "a a é");
}

#[test]
fn t5_is_a_unigram_model_with_sentinels() {
    let tokens = [
        "<pad>", "</s>", "<unk>", "▁", "a", "▁a", "b", "[PAD7]", "[PAD8]",
    ];
    let gguf = GgufTokenizer {
        model: "t5".to_owned(),
        tokens: tokens.map(str::to_owned).to_vec(),
        token_types: Some(vec![3, 3, 2, 1, 1, 1, 1, 5, 5]),
        scores: Some(vec![0.0, 0.0, 0.0, -2.0, -2.0, -1.0, -2.0, 0.0, 0.0]),
        eos_id: Some(1),
        unk_id: Some(2),
        ..GgufTokenizer::default()
    };
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let ids = tokenizer
        .encode("a  ab<extra_id_99>", SpecialTokens::Add)
        .unwrap();
    assert_eq!(ids, [5, 5, 6, 7, 1]);
    // A table of characters whose length is a lie is not allocated for.
    let hostile = GgufTokenizer {
        charsmap: Some(vec![0xff, 0xff, 0xff, 0xff, 0]),
        ..gguf
    };
    let error = Tokenizer::from_gguf(&hostile).unwrap_err().to_string();
    assert!(error.contains("4294967295 bytes and has 1"), "{error}");
}
