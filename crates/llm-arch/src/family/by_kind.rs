//! Keys by which a GGUF tells two kinds of layers apart, as `config.json` calls the same.

use serde_json::{Map, Value, json};

use super::sliding::{PATTERN, word};
use crate::ArchError;
use crate::config::clipped_text;

type Result<T> = std::result::Result<T, ArchError>;

/// Gathers what a GGUF says of layers that slide and of those that see all, where their heads differ: lists by layer become one
/// value each kind, and keys that end in `_swa` those of a `config.json`.
///
/// # Errors
/// When layers of one kind differ, or a part of their heads is turned.
pub(super) fn gather(
    config: &mut Map<String, Value>,
    has_tensor: impl Fn(&str) -> bool,
) -> Result<()> {
    let (Some(sliding_dim), Some(slides)) = (
        config.get("attention.key_length_swa").cloned(),
        config.get(PATTERN).and_then(flags),
    ) else {
        return Ok(());
    };
    config.shift_remove(PATTERN);
    config.shift_remove("attention.key_length_swa");
    let full_dim = config.shift_remove("head_dim").unwrap_or(Value::Null);
    for (key, dim) in [
        ("attention.value_length", &full_dim),
        ("attention.value_length_swa", &sliding_dim),
        ("rope.dimension_count", &full_dim),
        ("rope.dimension_count_swa", &sliding_dim),
    ] {
        if let Some(found) = config.shift_remove(key)
            && found != *dim
        {
            return Err(bad_value(key, &found, &format!("{dim}, as keys have it")));
        }
    }
    let [full, sliding] = heads(config, &slides)?;
    let is_wide = widens(config)?;
    let kinds = slides.iter().map(|&slides| word(slides));
    // Those that see others' keys have no values of their own either.
    let own = slides.len().saturating_sub(n_shared(config));
    let values = slides[..own].iter().rposition(|slides| !slides);
    let values = values.map(|layer| format!("blk.{layer}.attn_v.weight"));
    let object = json!({
        "layer_types": kinds.collect::<Vec<_>>(),
        "head_dim": sliding_dim,
        "global_head_dim": full_dim,
        "use_double_wide_mlp": is_wide,
        "num_key_value_heads": sliding,
        "num_global_key_value_heads": full,
        "attention_k_eq_v": values.is_some_and(|name| !has_tensor(&name)),
        "rope_parameters": {
            "full_attention": {"rope_theta": config.shift_remove("rope_theta")},
            "sliding_attention": {"rope_theta": config.shift_remove("rope.freq_base_swa")},
        },
    });
    if let Value::Object(object) = object {
        config.extend(object);
    }
    Ok(())
}

/// Makes of feed-forwards' widths, where they are listed by layer, the first of them; true if those of the last layers, which see
/// the keys of others, are twice as wide.
fn widens(config: &mut Map<String, Value>) -> Result<bool> {
    let Some(Value::Array(by_layer)) = config.get(WIDTH).cloned() else {
        return Ok(false);
    };
    let widths: Option<Vec<u64>> = by_layer.iter().map(Value::as_u64).collect();
    let widths = widths.unwrap_or_default();
    let own = widths.len().saturating_sub(n_shared(config));
    let (first, last) = (widths.first().copied(), widths.last().copied());
    let is_all = |part: &[u64], width: Option<u64>| part.iter().all(|of| Some(*of) == width);
    let doubled = first.and_then(|width| width.checked_mul(2));
    if first.is_none()
        || !is_all(&widths[..own], first)
        || !is_all(&widths[own..], last)
        || !(last == first || last == doubled)
    {
        let given = Value::Array(by_layer);
        let expected = "one number, or twice as much in layers that see the keys of others";
        return Err(bad_value(WIDTH, &given, expected));
    }
    config.insert(WIDTH.to_owned(), json!(first));
    Ok(last != first)
}

/// Key-value heads of layers that see all, and of those that slide: one number for all, or one a layer.
fn heads(config: &Map<String, Value>, slides: &[bool]) -> Result<[Value; 2]> {
    let given = config.get(HEADS).unwrap_or(&Value::Null);
    let Value::Array(by_layer) = given else {
        return Ok([given.clone(), given.clone()]);
    };
    let of_kind = |kind: bool| {
        let mut own = by_layer
            .iter()
            .zip(slides)
            .filter(|(_, slides)| **slides == kind);
        let first = own.next().map(|(n, _)| n);
        own.all(|(n, _)| Some(n) == first).then(|| first.cloned())
    };
    match (of_kind(false), of_kind(true)) {
        (Some(full), Some(sliding)) if by_layer.len() == slides.len() => {
            let other = full.clone().or(sliding.clone()).unwrap_or(Value::Null);
            Ok([full, sliding].map(|n| n.unwrap_or_else(|| other.clone())))
        }
        _ => {
            let expected = format!("{} numbers, the same in all layers of a kind", slides.len());
            Err(bad_value(HEADS, given, &expected))
        }
    }
}

/// Layers, the last ones, that see the keys of others.
fn n_shared(config: &Map<String, Value>) -> usize {
    let n = config.get("num_kv_shared_layers").and_then(Value::as_u64);
    n.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn flags(list: &Value) -> Option<Vec<bool>> {
    list.as_array()?.iter().map(Value::as_bool).collect()
}

fn bad_value(key: &str, found: &Value, expected: &str) -> ArchError {
    ArchError::BadValue {
        key: key.to_owned(),
        found: clipped_text(&found.to_string()),
        expected: expected.to_owned(),
    }
}

const HEADS: &str = "num_key_value_heads";
const WIDTH: &str = "intermediate_size";
