//! ERNIE 4.5, dense: Llama with neighbours of a head turned as pairs.

use llm_tensor::{Activation, Pairing};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["ernie4_5"],
    spec,
    core: &[
        ("hidden_size", 1_024),
        ("intermediate_size", 3_072),
        ("num_hidden_layers", 18),
        ("num_attention_heads", 16),
        ("vocab_size", 103_424),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "ernie4_5",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[("attn_q.bias", "use_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "Ernie4_5ForCausalLM")?;
            let bias = written::attention(spec)?.qkv_bias;
            config.insert("use_bias".to_owned(), bias.into());
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let bias = config.flag("use_bias", false)?;
    let heads = HeadDefaults {
        head_dim: (!config.mentions("head_dim")).then_some(128),
        n_kv_heads: Some(2),
    };
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        base: 500_000.0,
        pairing: Pairing::Adjacent,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, bias)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "ernie4_5", context, stack, true)
}
