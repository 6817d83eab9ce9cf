//! Mistral: Llama with a sliding window in its first version. Ministral 3: queries that grow beyond the first context.

use llm_tensor::Activation;
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, written};
use crate::config::{Config, OF_ROPE, Unread};
use crate::rope_config::{self, RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};
use crate::{ArchError, RopeScaling, RotarySpec};

pub(super) static MISTRAL: Family = Family {
    model_types: &["mistral"],
    spec: mistral,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: UNREAD,
    naming: |_| &llama::NAMING,
    // That of the image-text models; alone it is Llama there.
    gguf: Some(Gguf {
        architecture: "mistral3",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| written(spec, "MistralForCausalLM"),
    }),
};

pub(super) static MINISTRAL3: Family = Family {
    model_types: &["ministral3"],
    spec: ministral3,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 34),
        ("num_attention_heads", 32),
        ("vocab_size", 131_072),
    ],
    unread: UNREAD,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "mistral3",
        keys: &[
            &[(
                "attention.temperature_scale",
                "rope.scaling.llama_4_scaling_beta",
            )],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| written(spec, "Ministral3ForCausalLM"),
    }),
};

const UNREAD: Unread = Unread {
    // All layers slide, or none, whatever this says: the reference library warns, and does not read it.
    any: &["layer_types"],
    off: &[],
};

/// The configuration of a GGUF's model, whose layers never slide.
fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let mut config = written::like_llama(spec, architecture)?;
    config.insert("sliding_window".to_owned(), Value::Null);
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn mistral(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let mut attention = block::attention(
        config,
        HeadDefaults {
            n_kv_heads: Some(8),
            ..HeadDefaults::default()
        },
    )?;
    attention.window = config.window("sliding_window", Some(4096))?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "mistral", context, stack, false)
}

fn ministral3(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 262_144)?;
    let heads = HeadDefaults {
        head_dim: (!config.mentions("head_dim")).then_some(128),
        n_kv_heads: Some(8),
    };
    let attention = AttentionSpec {
        growth_idx: Some(1),
        window: config.window("sliding_window", None)?,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        base: 1e6,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let older = config.object("rope_scaling")?;
    let newer = config.object("rope_parameters")?;
    let positions = match older.filter(|rope| !rope.is_empty()).or(newer) {
        Some(rope) => turned_and_grown(config, &rope, defaults)?,
        None => {
            let Value::Object(rope) = trained_for() else {
                unreachable!("an object is written as one")
            };
            turned_and_grown(config, &Config::new(&rope, "rope_parameters."), defaults)?
        }
    };
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(positions.into()), norm);
    block::decoder_only(config, "ministral3", context, stack, false)
}

/// Positions that turn queries and keys, and those that multiply queries.
fn turned_and_grown(
    config: &Config<'_>,
    rope: &Config<'_>,
    defaults: RopeDefaults,
) -> Result<[RotarySpec; 2], ArchError> {
    let base = config.opt_positive("rope_theta")?;
    let turned = rope_config::of_object(config, Some(rope), defaults, base)?;
    let scaling = RopeScaling::Growth {
        first: 0,
        // The reference computes nothing without it.
        beta: rope.not_negative("llama_4_scaling_beta")?,
        original_context: rope.positive("original_max_position_embeddings")?,
    };
    let grown = RotarySpec {
        dim: defaults.head_dim,
        series: defaults.head_dim,
        scaling,
        ..turned.clone()
    };
    // Said again.
    rope.tick("max_position_embeddings");
    rope.finish(&OF_ROPE);
    Ok([turned, grown])
}

/// Positions as the reference has them where a configuration says nothing of them.
fn trained_for() -> Value {
    json!({
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale_all_dim": 1.0,
        "mscale": 1.0,
        "llama_4_scaling_beta": 0.1,
    })
}
