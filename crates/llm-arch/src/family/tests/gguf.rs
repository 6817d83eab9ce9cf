//! What GGUFs say of models in other words than configurations, or not at all.

use serde_json::{Value, json};

use super::object;
use crate::family::from_gguf;
use crate::{ArchError, ModelSpec};

/// A model of an architecture, with keys beside those that all have.
fn read(architecture: &str, more: Value) -> Result<ModelSpec, ArchError> {
    let mut metadata = object(json!({
        "embedding_length": 64, "block_count": 8, "feed_forward_length": 96, "context_length": 4096,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": 16, "attention.value_length": 16, "rope.freq_base": 1e6
    }));
    metadata.extend(object(more));
    let named = metadata.into_iter();
    let mut named: serde_json::Map<_, _> = named
        .map(|(key, value)| (format!("{architecture}.{key}"), value))
        .collect();
    named.insert("general.architecture".to_owned(), json!(architecture));
    Ok(from_gguf(&named, 100, |_| false)?.spec)
}

/// The window of each layer, and whether it turns.
fn windows(spec: &ModelSpec) -> Vec<(Option<usize>, bool)> {
    let own = spec.decoder.attentions();
    own.map(|own| (own.window, own.rotary_idx.is_some()))
        .collect()
}

#[test]
fn layers_slide_as_a_file_says_or_as_the_family_does() {
    let (slides, sees_all) = ((Some(16), true), (None, false));
    let found = read(
        "exaone4",
        json!({
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [true, false, true, false, true, false, true, true]
        }),
    );
    let expected = [
        slides, sees_all, slides, sees_all, slides, sees_all, slides, slides,
    ];
    assert_eq!(windows(&found.unwrap()), expected);
    let found = read("exaone4", json!({"attention.sliding_window": 16}));
    let expected = [
        slides, slides, slides, sees_all, slides, slides, slides, sees_all,
    ];
    assert_eq!(windows(&found.unwrap()), expected);
    let found = read("exaone4", json!({})).unwrap();
    assert_eq!(windows(&found), [(None, true); 8]);
    let short = json!({"attention.sliding_window": 16, "attention.sliding_window_pattern": [true]});
    let error = read("exaone4", short).unwrap_err().to_string();
    assert!(error.contains("8 times"), "{error}");
}
