//! A checkpoint's metadata, long arrays abbreviated.

use std::collections::BTreeMap;

use llm_checkpoint::{Array, Metadata, Value};
use serde_json::{Value as Json, json};

/// The values by key. An array becomes its element type, its length and its first elements.
pub(super) fn summary(metadata: &Metadata) -> BTreeMap<&str, Json> {
    metadata
        .iter()
        .map(|(key, value)| (key.as_str(), json_of(value)))
        .collect()
}

/// A value of [`summary`] on one line.
pub(super) fn text(value: &Json) -> String {
    match value {
        Json::String(text) if text.chars().count() > MAX_CHARS => {
            let begin: String = text.chars().take(MAX_CHARS).collect();
            format!("{begin}… ({} bytes)", text.len())
        }
        Json::String(text) => text.clone(),
        Json::Object(array) => {
            let first = array["first"].as_array().map_or(&[][..], Vec::as_slice);
            let more = array["len"].as_u64() > Some(first.len() as u64);
            let first: Vec<String> = first.iter().map(text).collect();
            let dots = if more { ", …" } else { "" };
            let of = array["array"].as_str().unwrap_or_default();
            format!("{} {of}: {}{dots}", array["len"], first.join(", "))
        }
        other => other.to_string(),
    }
}

/// Characters of a text, as of a chat template, that are printed.
const MAX_CHARS: usize = 80;

/// Elements of an array that are shown.
const N_FIRST: usize = 8;

fn json_of(value: &Value) -> Json {
    match value {
        Value::U8(n) => json!(n),
        Value::I8(n) => json!(n),
        Value::U16(n) => json!(n),
        Value::I16(n) => json!(n),
        Value::U32(n) => json!(n),
        Value::I32(n) => json!(n),
        Value::U64(n) => json!(n),
        Value::I64(n) => json!(n),
        Value::F32(x) => float(*x),
        Value::F64(x) => json!(x),
        Value::Bool(b) => json!(b),
        Value::String(text) => json!(text),
        Value::Array(array) => array_of(array),
    }
}

fn array_of(array: &Array) -> Json {
    match array {
        Array::U8(items) => abbreviated("u8", items, |n| json!(n)),
        Array::I8(items) => abbreviated("i8", items, |n| json!(n)),
        Array::U16(items) => abbreviated("u16", items, |n| json!(n)),
        Array::I16(items) => abbreviated("i16", items, |n| json!(n)),
        Array::U32(items) => abbreviated("u32", items, |n| json!(n)),
        Array::I32(items) => abbreviated("i32", items, |n| json!(n)),
        Array::U64(items) => abbreviated("u64", items, |n| json!(n)),
        Array::I64(items) => abbreviated("i64", items, |n| json!(n)),
        Array::F32(items) => abbreviated("f32", items, |x| float(*x)),
        Array::F64(items) => abbreviated("f64", items, |x| json!(x)),
        Array::Bool(items) => abbreviated("bool", items, |b| json!(b)),
        Array::String(items) => abbreviated("string", items, |text| json!(text)),
        Array::Array(items) => abbreviated("array", items, array_of),
    }
}

fn abbreviated<T>(of: &str, items: &[T], json_of: impl Fn(&T) -> Json) -> Json {
    let first: Vec<Json> = items.iter().take(N_FIRST).map(json_of).collect();
    json!({"array": of, "len": items.len(), "first": first})
}

/// The number with as few digits as tell it from its neighbours: 1e-5, not the 9.999999747378752e-6 that it is.
/// Null for what JSON has no number for.
fn float(x: f32) -> Json {
    json!(x.to_string().parse::<f64>().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_a_line() {
        let ids = Value::Array(Array::U32((0..100).collect()));
        let nested = Value::Array(Array::Array(vec![Array::Bool(vec![true])]));
        let cases = [
            (Value::F32(1e-5), "0.00001"),
            (Value::F32(f32::NAN), "null"),
            (
                Value::String("x".repeat(90)),
                &*format!("{}… (90 bytes)", "x".repeat(80)),
            ),
            (ids, "100 u32: 0, 1, 2, 3, 4, 5, 6, 7, …"),
            (nested, "1 array: 1 bool: true"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(&json_of(&value)), expected);
        }
    }
}
