//! Nemotron 3 and 4, and Minitron: LayerNorm whose gain is stored as its distance from one, a part of each head turned, and a
//! feed-forward without a gate that squares what it rectifies.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["nemotron"],
    spec,
    core: &[
        ("hidden_size", 6_144),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 48),
        ("vocab_size", 256_000),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "nemotron",
        keys: &[
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            &[("attention.layer_norm_epsilon", "norm_eps")],
        ],
        flags: &[
            ("attn_q.bias", "attention_bias"),
            ("ffn_down.bias", "mlp_bias"),
        ],
        naming: |_| &llama::GGUF_NAMING,
        // Its converter adds the one.
        adjust: |spec| spec.decoder.norm.gain_offset = 0.0,
        config: |spec| {
            let mut config = written::like_llama(spec, "NemotronForCausalLM")?;
            written::rename(&mut config, "rms_norm_eps", "norm_eps");
            let more = json!({
                "attention_bias": written::attention(spec)?.qkv_bias,
                "mlp_bias": written::mlp(spec)?.bias,
            });
            written::extend(&mut config, more);
            written::add_partial_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 4096)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, HeadDefaults::default())?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.5),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let activation = config.activation("hidden_act", Activation::ReluSquared)?;
    let width = config.count("intermediate_size")?;
    let mlp = block::plain_mlp(width, activation, config.flag("mlp_bias", false)?);
    let norm = NormSpec {
        gain_offset: 1.0,
        ..NormSpec::layer(config.opt_positive("norm_eps")?.unwrap_or(1e-5))
    };
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "nemotron", context, stack, false)
}
