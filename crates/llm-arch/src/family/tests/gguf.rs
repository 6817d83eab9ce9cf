//! What GGUFs say of models in other words than configurations, or not at all.

use llm_tensor::{Scoring, Weighting};
use serde_json::{Value, json};

use super::object;
use crate::family::from_gguf;
use crate::{ArchError, LatentSpec, ModelSpec, RopeScaling};

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

/// A file of DeepSeek's with `more`: what its first layer attends by, and the model.
fn deepseek(more: Value) -> (LatentSpec, ModelSpec) {
    let mut all = object(json!({
        "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32, "expert_shared_count": 1,
        "attention.kv_lora_rank": 20, "rope.dimension_count": 8
    }));
    all.extend(object(more));
    let spec = read("deepseek2", Value::Object(all)).unwrap();
    let latent = *spec.decoder.latents().next().unwrap();
    (latent, spec)
}

#[test]
fn a_number_tells_how_deepseek_scores_experts() {
    let routing = |spec: &ModelSpec| spec.decoder.layers[0].mlp.experts().unwrap().routing;
    for (number, family, scoring) in [
        (json!({}), "deepseek_v2", Scoring::Softmax),
        (
            json!({"expert_gating_func": 1}),
            "deepseek_v2",
            Scoring::Softmax,
        ),
        (
            json!({"expert_gating_func": 2}),
            "deepseek_v3",
            Scoring::Sigmoid,
        ),
    ] {
        let (latent, spec) = deepseek(number);
        assert_eq!((spec.family, routing(&spec).scoring), (family, scoring));
        // What a file says nothing of is off, whatever defaults configurations have.
        let found = routing(&spec);
        assert_eq!((found.scale, found.groups), (1.0, None));
        assert_ne!(found.weighting, Weighting::Normalised);
        assert_eq!((latent.q_rank, spec.n_drafting), (None, 0));
        assert_eq!(spec.decoder.n_layers(), 8);
    }
    let grouped = json!({"expert_group_count": 4, "expert_group_used_count": 2});
    let (_, spec) = deepseek(grouped);
    let groups = routing(&spec).groups.unwrap();
    assert_eq!((groups.n_groups, groups.n_active), (4, 2));
    let drafting = json!({"expert_gating_func": 2, "nextn_predict_layers": 1});
    let (_, spec) = deepseek(drafting);
    assert_eq!((spec.decoder.n_layers(), spec.n_drafting), (7, 1));
}

#[test]
fn deepseeks_heads_are_told_of_in_two_ways() {
    let old = json!({"attention.key_length": 20, "attention.value_length": 10});
    let new = json!({
        "attention.key_length": 28, "attention.value_length": 20, "attention.head_count_kv": 1,
        "attention.key_length_mla": 20, "attention.value_length_mla": 10
    });
    for more in [old, new] {
        let (latent, _) = deepseek(more);
        let extents = (latent.nope_dim, latent.rope_dim, latent.value_dim);
        assert_eq!((latent.n_heads, extents), (4, (12, 8, 10)));
    }
}

#[test]
fn layers_select_as_a_file_says_or_as_the_model_does() {
    let read = |architecture: &str, more: Value| {
        let mut all = object(json!({
            "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 32, "expert_shared_count": 1,
            "attention.q_lora_rank": 28, "attention.kv_lora_rank": 20, "rope.dimension_count": 8,
            "attention.key_length_mla": 20, "attention.value_length_mla": 10,
            "attention.indexer.head_count": 4, "attention.indexer.key_length": 16, "attention.indexer.top_k": 32
        }));
        all.extend(object(more));
        let spec = read(architecture, Value::Object(all)).unwrap();
        let index: Vec<_> = spec.decoder.latents().map(|of| of.index.unwrap()).collect();
        assert!(index.iter().all(|of| of.n_selected == 32));
        let heads = index[0].heads.unwrap();
        assert_eq!((heads.n_heads, heads.head_dim), (4, 16));
        let selects = index.iter().map(|of| of.heads.is_some());
        (spec.family, selects.collect::<Vec<_>>())
    };
    let all = vec![true; 8];
    let gating = json!({"expert_gating_func": 2});
    assert_eq!(read("deepseek32", gating), ("deepseek_v32", all.clone()));
    assert_eq!(read("glm-dsa", json!({})), ("glm_moe_dsa", all));
    let fourth = [true, true, true, false, false, false, true, false];
    let (_, selects) = read("glm-dsa", json!({"context_length": 1 << 20}));
    assert_eq!(selects, fourth);
    let flags = json!({"attention.indexer.types": [1, 0, 0, 0, 1, 1, 0, 0, 1]});
    let (_, selects) = read("glm-dsa", flags);
    assert_eq!(
        selects,
        [true, false, false, false, true, true, false, false]
    );
}

/// Of DeepSeek's a tenth is told, of which all of a score grows; nothing but scores does.
#[test]
fn a_tenth_of_what_makes_deepseeks_scores_grow_is_told() {
    for all in [0.707, 1.0] {
        let (latent, spec) = deepseek(json!({
            "attention.key_length": 20, "rope.scaling.type": "yarn", "rope.scaling.factor": 40.0,
            "rope.scaling.original_context_length": 256,
            "rope.scaling.yarn_log_multiplier": f64::from((0.1 * all) as f32)
        }));
        let growth = 1.0 + 0.1 * all * 40f64.ln();
        let expected = f64::from(20f32.sqrt().recip()) * growth * growth;
        assert_eq!(latent.scale, expected as f32, "{all}");
        let RopeScaling::Yarn { magnitude, .. } = spec.decoder.positions.rotary()[0].scaling else {
            panic!("{:?}", spec.decoder.positions)
        };
        assert_eq!(magnitude, 1.0);
    }
}

#[test]
fn layers_that_guess_tokens_are_counted_among_the_others() {
    let delta = json!({
        "nextn_predict_layers": 1, "full_attention_interval": 4, "rope.dimension_count": 8, "ssm.conv_kernel": 4,
        "ssm.group_count": 2, "ssm.inner_size": 64, "ssm.state_size": 16, "ssm.time_step_rank": 4
    });
    let spec = read("qwen35", delta).unwrap();
    assert_eq!((spec.decoder.n_layers(), spec.n_drafting), (7, 1));
    // The last attends and has experts.
    let blocks = json!({
        "nextn_predict_layers": 1, "ssm.conv_kernel": 4, "ssm.group_count": 2, "ssm.inner_size": 64,
        "ssm.state_size": 16, "ssm.time_step_rank": 4, "attention.head_count_kv": [0, 0, 2, 0, 0, 0, 0, 2],
        "feed_forward_length": [0, 32, 0, 32, 0, 32, 0, 32], "expert_count": 8, "expert_used_count": 2,
        "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 48, "expert_shared_count": 1
    });
    let spec = read("nemotron_h_moe", blocks).unwrap();
    assert_eq!((spec.decoder.n_layers(), spec.n_drafting), (7, 1));
    let experts = |layer: &crate::LayerSpec| layer.mlp.n_experts();
    let found: Vec<_> = spec.decoder.layers.iter().map(experts).collect();
    assert_eq!(found, [0, 8, 0, 8, 0, 8, 0]);
}

#[test]
fn a_granite_that_turns_is_another_family() {
    let read = |turns: bool| {
        let more = json!({
            "attention.head_count_kv": [0, 0, 2, 0, 0, 0, 0, 2], "attention.scale": 0.25, "embedding_scale": 12.0,
            "residual_scale": 0.22, "logit_scale": 8.0, "expert_shared_feed_forward_length": 96,
            "ssm.conv_kernel": 4, "ssm.group_count": 2, "ssm.inner_size": 64, "ssm.state_size": 16,
            "ssm.time_step_rank": 4, "rope.scaling.finetuned": turns
        });
        read("granitehybrid", more)
    };
    let spec = read(false).unwrap();
    let attends: Vec<_> = (0..8)
        .filter(|&i| spec.decoder.layers[i].mixer.attention().is_some())
        .collect();
    assert_eq!(attends, [2, 7]);
    // Nothing is said of experts, and there are none.
    assert_eq!(spec.decoder.layers[0].mlp.n_experts(), 0);
    let error = read(true).unwrap_err().to_string();
    assert!(error.contains("rope.finetuned"), "{error}");
}
