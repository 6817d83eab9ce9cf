//! What GGUFs say of models in other words than configurations, or not at all.

use serde_json::{Value, json};

use super::object;
use crate::family::from_gguf;
use crate::{ArchError, ModelSpec, RopeScaling};

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

#[test]
fn queries_grow_where_a_file_says_how() {
    let yarn = |all: f64| {
        json!({
            "attention.temperature_scale": 0.1, "rope.scaling.type": "yarn", "rope.scaling.factor": 16.0,
            "rope.scaling.original_context_length": 256, "rope.scaling.yarn_log_multiplier": all
        })
    };
    for (all, expected) in [(1.0, 1.0), (0.0, 0.1 * 16f64.ln() + 1.0)] {
        let found = read("mistral3", yarn(all)).unwrap();
        assert_eq!(found.family, "ministral3");
        let [turned, grown] = found.decoder.positions.rotary() else {
            panic!("positions that turn, and some that grow")
        };
        let RopeScaling::Yarn { magnitude, .. } = turned.scaling else {
            panic!("{:?}", turned.scaling)
        };
        assert_eq!(magnitude, expected);
        let growth = RopeScaling::Growth {
            first: 0,
            beta: 0.1,
            original_context: 256.0,
        };
        assert_eq!(grown.scaling, growth);
    }
    let found = read("mistral3", json!({})).unwrap();
    assert_eq!(found.family, "mistral");
    assert_eq!(windows(&found), [(None, true); 8]);
}

#[test]
fn the_number_of_experts_tells_whether_llama_4_normalises() {
    for (n_experts, is_normed) in [(16, true), (128, false)] {
        let found = read(
            "llama4",
            json!({
                "expert_count": n_experts, "expert_used_count": 1, "expert_feed_forward_length": 32,
                "interleave_moe_layer_step": 2
            }),
        );
        let spec = found.unwrap();
        let normed = spec.decoder.attentions().map(|own| own.turned_norm);
        // Each fourth turns nothing.
        let expected = (1..=8).map(|i| (is_normed && i % 4 != 0).then_some(1e-5));
        assert!(normed.eq(expected), "{n_experts}");
        let has_experts = spec.decoder.layers.iter();
        let has_experts = has_experts.map(|layer| layer.mlp.experts().is_some());
        assert!(has_experts.eq((1..=8).map(|i| i % 2 == 0)), "{n_experts}");
    }
}
