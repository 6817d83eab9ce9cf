//! Granite 3, dense: Llama with a multiplier at the embedding, at the scores, at each result and at the logits.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["granite"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "granite",
        keys: &[
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            &[
                ("attention.scale", "attention_multiplier"),
                ("embedding_scale", "embedding_multiplier"),
                ("residual_scale", "residual_multiplier"),
                ("logit_scale", "logits_scaling"),
            ],
        ],
        flags: llama::BIASES,
        naming: |_| &llama::GGUF_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| {
            let attention = written::attention(spec)?;
            let mut config = written::like_llama(spec, "GraniteForCausalLM")?;
            // The multiplier of results is part of the others and of `rms_norm_eps`.
            let more = json!({
                "attention_bias": attention.qkv_bias,
                "mlp_bias": written::mlp(spec)?.bias,
                "attention_multiplier": written::shortest(attention.scale),
                "embedding_multiplier": written::shortest(spec.embedding.scale),
                "residual_multiplier": 1.0,
                "logits_scaling": 1.0 / f64::from(spec.head.scale),
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        scale: multiplier(config, "attention_multiplier")? as f32,
        ..block::attention(config, HeadDefaults::default())?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, mlp_bias)?;
    let norm = residual_norm(config)?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let mut spec = block::decoder_only(config, "granite", context, stack, false)?;
    multiply(config, &mut spec)?;
    Ok(spec)
}

/// A multiplier of that name.
pub(super) fn multiplier(config: &Config<'_>, key: &str) -> Result<f64, ArchError> {
    Ok(config.opt_positive(key)?.unwrap_or(1.0))
}

/// Norm of the residual, which is held divided by the multiplier of what is added to it. All that reads it normalises it
/// first, which a factor changes nothing about but for what is added under the root.
pub(super) fn residual_norm(config: &Config<'_>) -> Result<NormSpec, ArchError> {
    let of_results = multiplier(config, "residual_multiplier")?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6);
    Ok(NormSpec::rms(eps / (of_results * of_results)))
}

/// Multiplies what goes into the residual so held, and the logits.
pub(super) fn multiply(config: &Config<'_>, spec: &mut ModelSpec) -> Result<(), ArchError> {
    let of_results = multiplier(config, "residual_multiplier")?;
    let of_embeddings = multiplier(config, "embedding_multiplier")?;
    spec.embedding.scale = (of_embeddings / of_results) as f32;
    spec.head.scale = (1.0 / multiplier(config, "logits_scaling")?) as f32;
    Ok(())
}
