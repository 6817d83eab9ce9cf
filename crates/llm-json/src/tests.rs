use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn what_python_writes_is_read() {
    let cases: &[(&str, Value)] = &[
        ("NaN", json!("NaN")),
        (
            "[Infinity, -Infinity,NaN]",
            json!(["Infinity", "-Infinity", "NaN"]),
        ),
        (
            r#"{"a":Infinity,"b":"Infinity \" NaN"}"#,
            json!({"a": "Infinity", "b": "Infinity \" NaN"}),
        ),
        (
            "[1e400, -1E+999, 1e308]",
            json!(["Infinity", "-Infinity", 1e308]),
        ),
        (r#"{"a": 1, "b": 3, "a": 2}"#, json!({"a": 2, "b": 3})),
        ("\u{feff}{}", json!({})),
        (
            r#""\ud83d\ude00 \ud83d \ude00x""#,
            json!("😀 \u{fffd} \u{fffd}x"),
        ),
        (r#""\\ud83d""#, json!("\\ud83d")),
        (
            "[18446744073709551615, 123456789012345678901234567890]",
            json!([u64::MAX, 123456789012345678901234567890.0]),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text.as_bytes()).as_ref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_python_refuses_is_refused_with_its_place() {
    let cases = [
        ("", 1, 0),
        ("{\"a\": Infinite}", 1, 7),
        ("{\"a\": 1,}", 1, 9),
        ("{\"a\": +Infinity}", 1, 7),
        ("{\"a\": - Infinity}", 1, 8),
        ("{\"a\": 01}", 1, 8),
        ("{\"a\": 1_0}", 1, 8),
        ("{\"a\": 1.e400}", 1, 9),
        ("{'a': 1}", 1, 2),
        ("{} x", 1, 4),
        ("{\n\"a\": NaN,\n\"b\": [NaN, -Infinity 1]}", 3, 22),
        ("{\"a\": 1}\0", 1, 9),
        ("{\"a\": \"b\nc\"}", 2, 0),
        ("{\"a\": \"b", 1, 8),
        ("// note\n{}", 1, 1),
    ];
    for (text, line, column) in cases {
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.place, Some(Place { line, column }), "{text}: {error}");
        let place = format!("at line {line} column {column}");
        assert!(error.to_string().ends_with(&place), "{error}");
        assert_eq!(error.to_string().matches("line").count(), 1, "{error}");
    }
}

#[test]
fn deep_and_broken_texts_are_errors() {
    let deep = "[".repeat(100_000);
    for text in [
        deep.as_bytes(),
        b"\"\xff\"",
        b"\"\\u12\"",
        b"\"\\",
        b"\xff\xfe{\0}\0",
    ] {
        assert!(parse(text).is_err());
    }
}

#[test]
fn what_a_download_left_is_told_as_what_it_is() {
    for (text, words) in [
        (
            "version https://git-lfs.github.com/spec/v1\noid",
            "git lfs pull",
        ),
        ("<!DOCTYPE html>\n<html>", "an HTML page"),
        ("\u{feff}\n <HTML lang=en>", "an HTML page"),
    ] {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    for text in ["<|head|>", "version 1", "", "{}"] {
        assert_eq!(mistaken(text.as_bytes()), None);
    }
}

#[test]
fn a_type_says_what_it_expected() {
    let error = parse_as::<Vec<u8>>(b"[1, 300]").unwrap_err();
    assert!(error.to_string().contains("300"), "{error}");
}

proptest! {
    #[test]
    fn standard_json_is_read_as_it_is(text in r#"[\[\]{},:"a\\u\-+.0-9eE INfity\n]{0,40}"#) {
        if let Ok(expected) = serde_json::from_str::<Value>(&text) {
            prop_assert_eq!(parse(text.as_bytes()), Ok(expected));
        } else {
            _ = parse(text.as_bytes());
        }
    }

    #[test]
    fn no_bytes_make_it_fail(text in prop::collection::vec(any::<u8>(), 0..60)) {
        _ = parse(&text);
    }
}
