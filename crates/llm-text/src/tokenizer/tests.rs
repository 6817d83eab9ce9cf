use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::testing::{fault, fixture, fixture_tokenizers, read_json, tokenizer_of};
use super::*;
use crate::{Conversation, GenerationPrompt, Message, Role};

mod hostile;

#[derive(Deserialize)]
struct Expected {
    encode: Vec<EncodeCase>,
    decode: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct EncodeCase {
    text: String,
    ids: Vec<u32>,
    plain_ids: Vec<u32>,
    decoded: String,
    decoded_with_special: String,
}

#[derive(Deserialize)]
struct DecodeCase {
    ids: Vec<u32>,
    text: String,
}

fn check(name: &str, tokenizer: &Tokenizer, expected: &Expected) {
    for case in &expected.encode {
        let context = format!("{name}: {:?}", case.text);
        let ids = tokenizer.encode(&case.text, SpecialTokens::Add).unwrap();
        assert_eq!(ids, case.ids, "{context}");
        let plain = tokenizer.encode(&case.text, SpecialTokens::AsIs).unwrap();
        assert_eq!(plain, case.plain_ids, "{context}");
        let text = tokenizer.decode(&ids, SpecialText::Skip).unwrap();
        assert_eq!(text, case.decoded, "{context}");
        let text = tokenizer.decode(&ids, SpecialText::Keep).unwrap();
        assert_eq!(text, case.decoded_with_special, "{context}");
    }
    for case in &expected.decode {
        let text = tokenizer.decode(&case.ids, SpecialText::Skip).unwrap();
        assert_eq!(text, case.text, "{name}: {:?}", case.ids);
    }
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    for (name, tokenizer) in fixture_tokenizers() {
        let made_from = match *name {
            "sentencepiece" | "sentencepiece GGUF" => "sentencepiece/expected.json",
            _ => "byte-level/expected.json",
        };
        check(name, tokenizer, &read_json(&fixture(made_from)));
    }
}

#[test]
fn special_tokens_are_found_in_every_form_of_the_files() {
    for (name, tokenizer) in fixture_tokenizers() {
        assert_eq!(tokenizer.bos_id(), Some(1), "{name}");
        assert_eq!(tokenizer.eos_ids(), [2], "{name}");
        assert_eq!(tokenizer.token_id("</s>"), Some(2), "{name}");
        assert_eq!(tokenizer.token(1).unwrap(), "<s>", "{name}");
        assert_eq!(tokenizer.token_id("no such token"), None, "{name}");
        let beyond = u32::try_from(tokenizer.vocab_size()).unwrap();
        assert!(tokenizer.token(beyond - 1).is_ok(), "{name}");
        assert!(tokenizer.token(beyond).is_err(), "{name}");
    }
}

#[test]
fn the_default_template_is_found_and_a_file_of_its_own_wins() {
    let user = Message::new(Role::User, "Hi".to_owned());
    let conversation = Conversation::new(vec![user]);
    let render = |name| {
        let tokenizer = tokenizer_of(name);
        let template = tokenizer.chat_template().expect("the fixture has one");
        template.render(&conversation, GenerationPrompt::Add)
    };
    let listed = "<|turn|>system\nBe kind.</s>\n<|turn|>user\nHi</s>\n<|turn|>assistant\n";
    assert_eq!(render("byte-level").unwrap(), listed);
    assert_eq!(render("sentencepiece").unwrap(), "<s>[ASK] Hi [/ASK]");
    assert!(tokenizer_of("vocab-merges").chat_template().is_none());
}

#[test]
fn bytes_in_memory_are_as_good_as_files() {
    let json = fs::read(fixture("byte-level/tokenizer.json")).unwrap();
    let config = fs::read(fixture("byte-level/tokenizer_config.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&json, Some(&config)).unwrap();
    let expected = read_json(&fixture("byte-level/expected.json"));
    check("in memory", &tokenizer, &expected);
    assert!(tokenizer.chat_template().is_some());
    let bare = Tokenizer::from_json(&json, None).unwrap();
    assert_eq!((bare.bos_id(), bare.eos_ids()), (None, &[][..]));
    check("without a configuration", &bare, &expected);
}

#[test]
fn tokens_that_only_the_configuration_names_are_added() {
    let json = fs::read(fixture("byte-level/tokenizer.json")).unwrap();
    let config = br#"{
        "eos_token": {"__type": "AddedToken", "content": "<new>", "lstrip": true},
        "additional_special_tokens": ["<more>"],
        "extra_special_tokens": {"image_token": "<image>"},
        "added_tokens_decoder": {"999": {"content": "<word>", "single_word": true}},
        "pad_token": null
    }"#;
    let tokenizer = Tokenizer::from_json(&json, Some(config)).unwrap();
    let ids = tokenizer.encode("a  <new><more><image> x<word> <word>", SpecialTokens::AsIs);
    let tokens: Vec<String> = ids
        .unwrap()
        .iter()
        .map(|&id| tokenizer.token(id).unwrap())
        .collect();
    assert_eq!(tokens[..4], ["a", "<new>", "<more>", "<image>"]);
    assert_eq!(tokens.iter().filter(|t| *t == "<word>").count(), 1);
    assert_eq!(tokenizer.eos_ids(), [tokenizer.token_id("<new>").unwrap()]);
}

#[test]
fn padding_and_truncation_of_the_file_do_not_apply() {
    let mut json: serde_json::Value = read_json(&fixture("byte-level/tokenizer.json"));
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"
    });
    let json = serde_json::to_vec(&json).unwrap();
    let tokenizer = Tokenizer::from_json(&json, None).unwrap();
    check(
        "padded",
        &tokenizer,
        &read_json(&fixture("byte-level/expected.json")),
    );
}

#[test]
fn gpt2_files_need_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let vocab = r#"{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}"#;
    fs::write(dir.path().join("vocab.json"), vocab).unwrap();
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\na b\n").unwrap();
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let ids = tokenizer
        .encode("aab<|endoftext|>", SpecialTokens::Add)
        .unwrap();
    assert_eq!(ids, [0, 2, 3]);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (None, &[3][..]));
}

#[test]
fn a_folder_without_a_tokenizer_says_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::NoTokenizer { .. }));
    let line = error.to_string();
    for word in ["tokenizer.json", "vocab.json", "merges.txt", "--token-ids"] {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn broken_files_are_one_line_that_names_them() {
    struct Case {
        files: &'static [(&'static str, &'static str)],
        named: &'static str,
    }
    let cases = [
        Case {
            files: &[("tokenizer.json", "{")],
            named: "tokenizer.json",
        },
        Case {
            files: &[("tokenizer.json", "\u{0}")],
            named: "tokenizer.json",
        },
        Case {
            files: &[("tokenizer.json", "{\"model\": {\"type\": \"BPE\"}}")],
            named: "tokenizer.json",
        },
        Case {
            files: &[("vocab.json", "{\"a\": 0}"), ("merges.txt", "a b\n")],
            named: "vocab.json",
        },
        Case {
            files: &[("vocab.json", "[]"), ("merges.txt", "")],
            named: "vocab.json",
        },
        Case {
            files: &[("tokenizer_config.json", "{\"bos_token\": 7}")],
            named: "tokenizer_config.json",
        },
        Case {
            files: &[("special_tokens_map.json", "\n\n[")],
            named: "special_tokens_map.json",
        },
    ];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in case.files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let line = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
        assert!(line.contains(case.named), "{line}");
        assert!(line.contains(&dir.path().display().to_string()), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[test]
fn descriptions_that_parse_but_make_no_sense_name_their_file() {
    let good: serde_json::Value = read_json(&fixture("byte-level/tokenizer.json"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let open = |json: &serde_json::Value| {
        fs::write(&path, json.to_string()).unwrap();
        Tokenizer::from_folder(dir.path())
    };
    let mut json = good.clone();
    json["model"]["vocab"] = serde_json::json!({"aaaa": 0, "bbbb": 1});
    json["model"]["merges"] = serde_json::json!([["aaaa", "bbbb"]]);
    let error = open(&json).unwrap_err();
    assert!(
        matches!(error, TextError::BrokenTokenizer { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );

    let mut json = good.clone();
    json["post_processor"]["special_tokens"] = serde_json::json!({});
    if let Ok(tokenizer) = open(&json) {
        let error = tokenizer.encode("a", SpecialTokens::Add).unwrap_err();
        assert!(matches!(error, TextError::NotEncodable { .. }), "{error:?}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }

    let mut json = good;
    json["normalizer"] = serde_json::json!({
        "type": "Sequence",
        "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "/////wA="}]
    });
    let error = open(&json).unwrap_err().to_string();
    assert!(error.contains("4294967295 bytes and has 1"), "{error}");
}

#[test]
fn merges_are_not_left_out_at_random() {
    let mut json: serde_json::Value = read_json(&fixture("byte-level/tokenizer.json"));
    json["model"]["dropout"] = 1.0.into();
    let json = serde_json::to_vec(&json).unwrap();
    let tokenizer = Tokenizer::from_json(&json, None).unwrap();
    assert!(tokenizer.notices()[0].contains("`dropout` is 1"));
    let expected = read_json(&fixture("byte-level/expected.json"));
    check("with dropout", &tokenizer, &expected);
}

#[test]
fn a_long_value_is_shown_by_its_beginning() {
    for key in ["split_special_tokens", "tokenizer_class"] {
        let dir = tempfile::tempdir().unwrap();
        let json = fixture("byte-level/tokenizer.json");
        fs::copy(json, dir.path().join("tokenizer.json")).unwrap();
        let config = format!(r#"{{"{key}": ["{}"]}}"#, "x".repeat(70_000));
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let said = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
        assert!(
            said.contains("xxx…, which is not") && said.len() < 400,
            "{said:.500}"
        );
    }
}

#[test]
fn contradictions_about_ids_name_both() {
    struct Case {
        listed: &'static str,
        says: Result<&'static [&'static str], &'static [&'static str]>,
    }
    let cases = [
        Case {
            listed: r#"{"1": {"content": "</s>"}}"#,
            says: Err(&["`</s>` the id 1", "that of `<s>`"]),
        },
        Case {
            listed: r#"{"2": {"content": "</s>"}, "7000": {"content": "</s>"}}"#,
            says: Err(&["`</s>` the id 7000", "the other is 2"]),
        },
        Case {
            listed: r#"{"7000": {"content": "<s>"}}"#,
            says: Err(&["`<s>` the id 7000", "its place in the vocabulary is 1"]),
        },
        Case {
            listed: r#"{"20": {"content": "<new>"}}"#,
            says: Err(&["`<new>` the id 20", "that of `"]),
        },
        Case {
            listed: r#"{"7000": {"content": "<new>"}}"#,
            says: Ok(&["`<new>` is listed with id 7000 and has 481"]),
        },
        Case {
            listed: r#"{"481": {"content": "<new>"}, "2": {"content": "</s>"}}"#,
            says: Ok(&[]),
        },
    ];
    let json = fs::read(fixture("byte-level/tokenizer.json")).unwrap();
    for case in cases {
        let config = format!(r#"{{"added_tokens_decoder": {}}}"#, case.listed);
        let tokenizer = Tokenizer::from_json(&json, Some(config.as_bytes()));
        match (case.says, tokenizer) {
            (Ok(expected), Ok(tokenizer)) => {
                let notices = tokenizer.notices().join("\n");
                assert_eq!(tokenizer.notices().len(), expected.len(), "{notices}");
                assert!(
                    expected.iter().all(|word| notices.contains(word)),
                    "{notices}"
                );
            }
            (Err(expected), Err(error)) => {
                let error = error.to_string();
                assert!(expected.iter().all(|word| error.contains(word)), "{error}");
            }
            (_, other) => panic!("{}: {other:?}", case.listed),
        }
    }
}

#[test]
fn what_is_not_known_is_said() {
    struct Case {
        files: &'static [(&'static str, &'static str)],
        config: &'static str,
        says: Result<&'static str, &'static str>,
    }
    let vocab_merges: &[(&str, &str)] = &[
        ("vocab.json", "vocab-merges/vocab.json"),
        ("merges.txt", "vocab-merges/merges.txt"),
    ];
    let unigram: &[(&str, &str)] = &[("tokenizer.model", "classes/unigram.model")];
    let bpe: &[(&str, &str)] = &[("tokenizer.model", "classes/bpe.model")];
    let ranks: &[(&str, &str)] = &[("tokenizer.model", "classes/ranks.tiktoken")];
    let json: &[(&str, &str)] = &[("tokenizer.json", "byte-level/tokenizer.json")];
    let cases = [
        Case {
            files: vocab_merges,
            config: r#"{"tokenizer_class": "CLIPTokenizer"}"#,
            says: Err("class CLIPTokenizer, whose way of splitting text is not known"),
        },
        Case {
            files: vocab_merges,
            config: r#"{"tokenizer_class": "BloomTokenizer"}"#,
            says: Err("class BloomTokenizer, whose"),
        },
        Case {
            files: vocab_merges,
            config: "{}",
            says: Ok("no file names the tokenizer's class: read as GPT2Tokenizer"),
        },
        Case {
            files: unigram,
            config: r#"{"tokenizer_class": "LlamaTokenizer"}"#,
            says: Ok("LlamaTokenizer makes of it is for BPE, and this is a unigram model"),
        },
        Case {
            files: bpe,
            config: r#"{"tokenizer_class": "XLNetTokenizer"}"#,
            says: Ok("what XLNetTokenizer makes of it is not known here"),
        },
        Case {
            files: ranks,
            config: r#"{"tokenizer_class": "ChatGLM4Tokenizer"}"#,
            says: Ok("how ChatGLM4Tokenizer splits text is not known here"),
        },
        Case {
            files: ranks,
            config: "{}",
            says: Ok("no file names the special tokens"),
        },
        Case {
            files: json,
            config: r#"{"do_lower_case": true}"#,
            says: Ok("`do_lower_case` is true, which is not applied"),
        },
        Case {
            files: json,
            config: r#"{"add_prefix_space": "yes"}"#,
            says: Err("`add_prefix_space` is \"yes\", which is not true or false"),
        },
        Case {
            files: json,
            config: r#"{"added_tokens_decoder": [1]}"#,
            says: Err("`added_tokens_decoder`: "),
        },
    ];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        for (name, source) in case.files {
            fs::copy(fixture(source), dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("tokenizer_config.json"), case.config).unwrap();
        let said = match (case.says, Tokenizer::from_folder(dir.path())) {
            (Ok(expected), Ok(tokenizer)) => (expected, tokenizer.notices().join("\n")),
            (Err(expected), Err(error)) => (expected, error.to_string()),
            (_, other) => panic!("{}: {other:?}", case.config),
        };
        assert!(said.1.contains(said.0), "{}", said.1);
        assert!(said.1.contains(dir.path().to_str().unwrap()), "{}", said.1);
    }
}

#[test]
fn broken_models_are_errors() {
    let good = fs::read(fixture("classes/user.model")).unwrap();
    let mut models: Vec<Vec<u8>> = (1..good.len())
        .step_by(37)
        .map(|n| good[..n].to_vec())
        .collect();
    // A field that says it is longer than everything, and one byte changed at a time.
    models.push([&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &good[..40]].concat());
    for at in (0..good.len()).step_by(53) {
        let mut changed = good.clone();
        changed[at] ^= 0x55;
        models.push(changed);
    }
    for text in [
        "",
        "x",
        "IQ==",
        "IQ== 0 0",
        "IQ== 0\nIg== 0",
        "IQ== -1",
        "?? 3",
        "\u{0}\u{0} 3",
    ] {
        models.push(text.as_bytes().to_vec());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    for model in models {
        fs::write(&path, &model).unwrap();
        match Tokenizer::from_folder(dir.path()) {
            // Much of a model is optional.
            Ok(tokenizer) => {
                let _ = tokenizer.encode("a the <tool> é", SpecialTokens::Add);
            }
            Err(error) => {
                assert!(
                    matches!(error, TextError::BrokenTokenizer { .. }),
                    "{error:?}"
                );
                assert!(
                    error.to_string().contains(path.to_str().unwrap()),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn very_long_texts_are_encoded() {
    let n = 200_000;
    for (name, tokenizer) in fixture_tokenizers() {
        for text in [
            "a".repeat(n),
            " ".repeat(n),
            "\n".repeat(n),
            "the lamp 🙂 ".repeat(n / 10),
        ] {
            let ids = tokenizer.encode(&text, SpecialTokens::AsIs).unwrap();
            assert!(
                tokenizer.decode(&ids, SpecialText::Skip).unwrap() == text,
                "{name}"
            );
        }
    }
}

#[test]
fn decoding_an_unknown_id_is_an_error() {
    for (name, tokenizer) in fixture_tokenizers() {
        let error = tokenizer
            .decode(&[3, 70_000], SpecialText::Skip)
            .unwrap_err();
        assert!(
            matches!(error, TextError::UnknownId { id: 70_000, .. }),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn what_is_written_is_read_back_as_it_was() {
    for (name, tokenizer) in fixture_tokenizers() {
        let dir = tempfile::tempdir().unwrap();
        for (file, bytes) in tokenizer.to_files().unwrap() {
            fs::write(dir.path().join(file), bytes).unwrap();
        }
        let again = Tokenizer::from_folder(dir.path()).unwrap();
        assert_eq!(again.notices(), &[""; 0], "{name}");
        assert_eq!(again.bos_id(), tokenizer.bos_id(), "{name}");
        assert_eq!(again.eos_ids(), tokenizer.eos_ids(), "{name}");
        assert_eq!(
            again.chat_template().map(ChatTemplate::source),
            tokenizer.chat_template().map(ChatTemplate::source)
        );
        let made_from = match *name {
            "sentencepiece" | "sentencepiece GGUF" => "sentencepiece/expected.json",
            _ => "byte-level/expected.json",
        };
        check(name, &again, &read_json(&fixture(made_from)));
    }
}

/// Case by case a folder of files, and what transformers makes of texts with it.
#[derive(Deserialize)]
struct ClassCases {
    texts: Vec<String>,
    cases: Vec<ClassCase>,
}

#[derive(Deserialize)]
struct ClassCase {
    name: String,
    files: BTreeMap<String, String>,
    inline: BTreeMap<String, serde_json::Value>,
    /// The case that has the same rows.
    same_as: Option<usize>,
    #[serde(default)]
    rows: Vec<(Vec<u32>, Vec<u32>, String, String)>,
}

impl ClassCase {
    fn write(&self, dir: &Path) {
        for (name, source) in &self.files {
            fs::copy(fixture("classes").join(source), dir.join(name)).unwrap();
        }
        for (name, value) in &self.inline {
            fs::write(dir.join(name), value.to_string()).unwrap();
        }
    }
}

#[test]
fn every_class_is_as_in_transformers_and_is_written_as_it_was() {
    let all: ClassCases = read_json(&fixture("classes/cases.json"));
    for case in &all.cases {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        assert_eq!(tokenizer.notices(), &[""; 0], "{}", case.name);
        let again = tempfile::tempdir().unwrap();
        for (file, bytes) in tokenizer.to_files().unwrap() {
            fs::write(again.path().join(file), bytes).unwrap();
        }
        let again = Tokenizer::from_folder(again.path()).unwrap();
        let rows = case.same_as.map_or(&case.rows, |at| &all.cases[at].rows);
        assert_eq!(rows.len(), all.texts.len());
        for (text, (ids, plain, decoded, with_special)) in all.texts.iter().zip(rows) {
            for (tokenizer, which) in [(&tokenizer, "read"), (&again, "written")] {
                let context = format!("{}, {which}: {text:?}", case.name);
                let found = tokenizer.encode(text, SpecialTokens::Add).unwrap();
                assert_eq!(&found, ids, "{context}");
                let found = tokenizer.encode(text, SpecialTokens::AsIs).unwrap();
                assert_eq!(&found, plain, "{context}");
                let found = tokenizer.decode(ids, SpecialText::Skip).unwrap();
                assert_eq!(&found, decoded, "{context}");
                let found = tokenizer.decode(ids, SpecialText::Keep).unwrap();
                assert_eq!(&found, with_special, "{context}");
                let mut detokenizer = tokenizer.detokenizer();
                let mut pieces = String::new();
                for &id in ids {
                    pieces.push_str(&detokenizer.push(id).unwrap());
                }
                pieces.push_str(&detokenizer.finish().unwrap());
                assert_eq!(&pieces, decoded, "{context}");
            }
        }
    }
}

#[test]
fn folders_from_the_field_are_encoded_as_in_transformers() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    for name in [
        "03-llama2-spaces/legacy-false",
        "03-llama2-spaces/legacy-true",
        "11-qwen2-vocab-merges",
    ] {
        let tokenizer = Tokenizer::from_folder(&fault(name)).unwrap();
        let cases: Vec<Case> = read_json(&fault(name).join("expected.json"));
        assert!(!cases.is_empty());
        for case in cases {
            let ids = tokenizer.encode(&case.text, SpecialTokens::AsIs).unwrap();
            assert_eq!(ids, case.ids, "{name}: {:?}", case.text);
        }
    }
    // After a special token no space comes where the class is not `legacy`.
    let tokenizer = Tokenizer::from_folder(&fault("../llama-tokenizer/model")).unwrap();
    let ids = tokenizer.encode("</s>\n", SpecialTokens::AsIs).unwrap();
    assert_eq!(ids[0], 2);
    assert_ne!(ids[1], 259, "{ids:?}");
}
