//! StableLM: Llama with LayerNorm and a quarter of each head turned.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["stablelm"],
    spec,
    core: &[
        ("hidden_size", 2_560),
        ("intermediate_size", 6_912),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 50_304),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "stablelm",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM, llama::LAYER_NORM_EPS],
        flags: &[("attn_q.bias", "use_qkv_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "StableLmForCausalLM")?;
            written::rename(&mut config, "rms_norm_eps", "layer_norm_eps");
            let more = json!({
                "use_qkv_bias": written::attention(spec)?.qkv_bias,
                "use_parallel_residual": spec.decoder.residual == Residual::ParallelOneNorm,
            });
            written::extend(&mut config, more);
            written::add_partial_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 4096)?;
    // Each head of queries and keys would have a gain of its own.
    config.only("qk_layernorm", false)?;
    let heads = HeadDefaults {
        n_kv_heads: Some(32),
        ..HeadDefaults::default()
    };
    let attention = AttentionSpec {
        qkv_bias: config.flag("use_qkv_bias", false)?,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.25),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let norm = NormSpec::layer(config.opt_positive("layer_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    if config.flag("use_parallel_residual", false)? {
        stack.residual = Residual::ParallelOneNorm;
    }
    block::decoder_only(config, "stablelm", context, stack, false)
}
