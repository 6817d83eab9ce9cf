//! Cohere's Command R (cohere) and Command R7B and A (cohere2): one norm without a bias for attention and feed-forward.

use llm_tensor::{Activation, Pairing};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, sliding, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions, Residual};

pub(super) static COHERE: Family = Family {
    model_types: &["cohere"],
    spec: cohere,
    core: &[
        ("hidden_size", 8_192),
        ("intermediate_size", 22_528),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 64),
        ("vocab_size", 256_000),
    ],
    unread: UNREAD,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "command-r",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM, llama::LAYER_NORM_EPS],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| written(spec, "CohereForCausalLM"),
    }),
};

pub(super) static COHERE2: Family = Family {
    model_types: &["cohere2"],
    spec: cohere2,
    core: &[
        ("hidden_size", 8_192),
        ("intermediate_size", 22_528),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 64),
        ("vocab_size", 256_000),
    ],
    unread: UNREAD,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "cohere2",
        keys: &[
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::LAYER_NORM_EPS,
            llama::WINDOW,
        ],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written(spec, "Cohere2ForCausalLM")?;
            written::extend(&mut config, sliding::written(spec));
            Ok(config)
        },
    }),
};

/// Options of the trainers' own code, of which the models were made with one value each.
const UNREAD: Unread = Unread {
    any: &["layer_switch", "sliding_window_pattern"],
    off: &[
        ("order_of_interleaved_layers", Off::Word("local_attn_first")),
        ("position_embedding_type", Off::Word("rope_gptj")),
        ("use_embedding_sharing", Off::True),
        ("use_gated_activation", Off::True),
        ("use_parallel_block", Off::True),
        ("use_parallel_embedding", Off::False),
    ],
};

fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let mut config = written::like_llama(spec, architecture)?;
    written::rename(&mut config, "rms_norm_eps", "layer_norm_eps");
    let more = json!({
        "attention_bias": written::attention(spec)?.qkv_bias,
        "logit_scale": written::shortest(spec.head.scale),
    });
    written::extend(&mut config, more);
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn cohere(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    // Each head of queries and keys would have a gain of its own.
    config.only("use_qk_norm", false)?;
    model(config, "cohere", |_| Ok(()))
}

fn cohere2(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    model(config, "cohere2", |spec| {
        let every = config.opt_count("sliding_window_pattern")?.unwrap_or(4);
        let stack = &mut spec.decoder;
        let slides = config.sliding(stack.n_layers(), |i| !(i + 1).is_multiple_of(every))?;
        block::slide(stack, &slides, config.window("sliding_window", Some(4096))?);
        // What sees all positions knows of none.
        for attention in stack.attentions_mut() {
            attention.rotary_idx = attention.window.map(|_| 0);
        }
        Ok(())
    })
}

fn model(
    config: &Config<'_>,
    family: &'static str,
    adjust: impl FnOnce(&mut ModelSpec) -> Result<(), ArchError>,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 8192)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, HeadDefaults::default())?
    };
    let defaults = RopeDefaults {
        base: match family {
            "cohere" => 500_000.0,
            _ => 10_000.0,
        },
        pairing: Pairing::Adjacent,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let eps = config.opt_positive("layer_norm_eps")?.unwrap_or(1e-5);
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let positions = Positions::Rotary(vec![rotary]);
    let mut stack = block::sequential(layers, positions, NormSpec::layer_without_bias(eps));
    stack.residual = Residual::ParallelOneNorm;
    let mut spec = block::decoder_only(config, family, context, stack, true)?;
    spec.head.scale = config.opt_positive("logit_scale")?.unwrap_or(0.0625) as f32;
    adjust(&mut spec)?;
    Ok(spec)
}
