//! Seed-OSS: Llama with biases at its queries, keys and values.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["seed_oss"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 27_648),
        ("num_hidden_layers", 64),
        ("num_attention_heads", 80),
        ("vocab_size", 155_136),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "seed_oss",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[
            ("attn_q.bias", "attention_bias"),
            ("attn_output.bias", "attention_out_bias"),
            ("ffn_down.bias", "mlp_bias"),
        ],
        naming: |_| &Naming {
            // As the norm that follows attention is called elsewhere.
            names: &[&[(Role::MlpNorm, "post_attention_norm")], llama::GGUF_NAMES],
            ..llama::GGUF_NAMING
        },
        adjust: |_| (),
        config: |spec| {
            let attention = written::attention(spec)?;
            let mut config = written::like_llama(spec, "SeedOssForCausalLM")?;
            let more = json!({
                "attention_bias": attention.qkv_bias,
                "attention_out_bias": attention.out_bias,
                "mlp_bias": written::mlp(spec)?.bias,
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 524_288)?;
    let heads = HeadDefaults {
        head_dim: (!config.mentions("head_dim")).then_some(128),
        n_kv_heads: Some(8),
    };
    let attention = AttentionSpec {
        qkv_bias: config.flag("attention_bias", true)?,
        out_bias: config.flag("attention_out_bias", false)?,
        ..block::attention(config, heads)?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = gated(
        config,
        "hidden_act",
        Activation::Silu,
        config.flag("mlp_bias", false)?,
    )?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "seed_oss", context, stack, false)
}
