//! SmolLM3: Llama with layers that know of no positions (NoPE, Yang et al. 2025).

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["smollm3"],
    spec,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 36),
        ("num_attention_heads", 16),
        ("vocab_size", 128_256),
    ],
    unread: Unread {
        any: &["max_window_layers"],
        off: &[],
    },
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "smollm3",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: llama::BIASES,
        naming: |_| &llama::GGUF_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| {
            let attention = written::attention(spec)?;
            let turns = spec.decoder.attentions();
            let turns = turns.map(|attention| u8::from(attention.rotary_idx.is_some()));
            let mut config = written::like_llama(spec, "SmolLM3ForCausalLM")?;
            let more = json!({
                "attention_bias": attention.qkv_bias,
                "mlp_bias": written::mlp(spec)?.bias,
                "no_rope_layers": turns.collect::<Vec<_>>(),
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 32_768)?;
    let bias = config.flag("attention_bias", false)?;
    let heads = HeadDefaults {
        n_kv_heads: Some(4),
        ..HeadDefaults::default()
    };
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        base: 2e6,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let mlp = gated(
        config,
        "hidden_act",
        Activation::Silu,
        config.flag("mlp_bias", false)?,
    )?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let n_layers = config.n_layers("num_hidden_layers")?;
    let layers = block::like_layers(n_layers, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let every = config.opt_count("no_rope_layer_interval")?.unwrap_or(4);
    // Despite its name, 1 is for a layer that turns its queries and keys.
    let turns = config.bits("no_rope_layers", n_layers)?;
    let turns = turns.unwrap_or_else(|| {
        (0..n_layers)
            .map(|i| !(i + 1).is_multiple_of(every))
            .collect()
    });
    let slides_at_all = config.flag("use_sliding_window", false)?;
    let window = config.window("sliding_window", None)?;
    let window = window.filter(|_| slides_at_all);
    let slides = config.sliding(n_layers, |i| !turns[i])?;
    block::slide(&mut stack, &slides, window);
    for (attention, turns) in stack.attentions_mut().zip(turns) {
        attention.rotary_idx = turns.then_some(0);
    }
    block::decoder_only(config, "smollm3", context, stack, true)
}
