//! Arcee (AFM): Llama whose feed-forward has no gate, and squares what it rectifies.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["arcee"],
    spec,
    core: &[
        ("hidden_size", 2_560),
        ("intermediate_size", 18_432),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "arcee",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[
            ("attn_q.bias", "attention_bias"),
            ("ffn_down.bias", "mlp_bias"),
        ],
        naming: |_| &llama::GGUF_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| {
            let mut config = written::like_llama(spec, "ArceeForCausalLM")?;
            let more = json!({
                "attention_bias": written::attention(spec)?.qkv_bias,
                "mlp_bias": written::mlp(spec)?.bias,
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
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
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let activation = config.activation("hidden_act", Activation::ReluSquared)?;
    let width = config.count("intermediate_size")?;
    let mlp = block::plain_mlp(width, activation, config.flag("mlp_bias", false)?);
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "arcee", context, stack, false)
}
