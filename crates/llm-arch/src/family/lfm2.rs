//! LFM2: gated short convolutions, and attention in some layers.

use llm_tensor::{Activation, MAX_TAPS};
use serde_json::{Map, Value, json};

use super::{Family, Gguf, block, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role, Stored};
use crate::spec::{
    AttentionSpec, DenseMlp, Gating, LayerSpec, MixerSpec, MlpSpec, ModelSpec, NormSpec, Positions,
    ShortConvSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["lfm2"],
    spec,
    core: &[
        ("hidden_size", 2_560),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 65_536),
    ],
    unread: Unread {
        any: &[
            // The convolutions are as wide as the residual, and all norms share `norm_eps`.
            "block_dim",
            "block_norm_eps",
            "conv_dim",
            "conv_dim_out",
            "num_heads",
            // Of the code that the models were made with.
            "block_mlp_init_scale",
            "block_out_init_scale",
            "block_use_swiglu",
            "block_use_xavier_init",
            "conv_use_xavier_init",
            "use_pos_enc",
        ],
        off: &[],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "lfm2",
        keys: &[
            &[
                // As wide as it is, without any adjustment.
                ("feed_forward_length", FINAL_WIDTH),
                ("attention.layer_norm_rms_epsilon", "norm_eps"),
                ("shortconv.l_cache", "conv_L_cache"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[],
        naming: |_| &GGUF_NAMING,
        adjust: |_| (),
        config: written,
    }),
};

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::AttnNorm, "operator_norm"),
            (Role::ConvIn, "conv.in_proj"),
            (Role::ConvTaps, "conv.conv"),
            (Role::ConvOut, "conv.out_proj"),
            (Role::QNorm, "self_attn.q_layernorm"),
            (Role::KNorm, "self_attn.k_layernorm"),
            (Role::Out, "self_attn.out_proj"),
            (Role::MlpNorm, "ffn_norm"),
            (Role::Gate, "feed_forward.w1"),
            (Role::Up, "feed_forward.w3"),
            (Role::Down, "feed_forward.w2"),
            (Role::FinalNorm, "model.embedding_norm"),
        ],
        llama::NAMES,
    ],
    ..llama::NAMING
};

const GGUF_NAMING: Naming = Naming {
    names: &[
        &[
            (Role::ConvIn, "shortconv.in_proj"),
            (Role::ConvTaps, "shortconv.conv"),
            (Role::ConvOut, "shortconv.out_proj"),
            // Named after the module, but it is the norm after the last block.
            (Role::FinalNorm, "token_embd_norm"),
        ],
        llama::GGUF_NAMES,
    ],
    taps: Stored::AsIs,
    ..llama::GGUF_NAMING
};

/// Key of a GGUF's width.
const FINAL_WIDTH: &str = "feed_forward_length";

fn written(spec: &ModelSpec) -> Result<Map<String, Value>, ArchError> {
    let layers = &spec.decoder.layers;
    let conv = layers.iter().find_map(|layer| match layer.mixer {
        MixerSpec::Attention(_) | MixerSpec::Latent(_) | MixerSpec::Delta(_) => None,
        MixerSpec::Conv(conv) => Some(conv),
    });
    let Some(conv) = conv else {
        return written::none("none of its layers convolves");
    };
    let types = layers.iter().map(|layer| match layer.mixer {
        MixerSpec::Attention(_) | MixerSpec::Latent(_) | MixerSpec::Delta(_) => ATTENTION,
        MixerSpec::Conv(_) => CONV,
    });
    let more = json!({
        "layer_types": types.collect::<Vec<_>>(),
        "conv_L_cache": conv.kernel,
        "conv_bias": conv.bias,
        "block_auto_adjust_ff_dim": false,
    });
    let mut config = written::like_llama(spec, "Lfm2ForCausalLM")?;
    written::rename(&mut config, "rms_norm_eps", "norm_eps");
    // Its feed-forward knows no other.
    config.shift_remove("hidden_act");
    written::extend(&mut config, more);
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 128_000)?;
    let n_layers = config.n_layers("num_hidden_layers")?;
    let hidden = config.count("hidden_size")?;
    let norm = NormSpec::rms(config.opt_positive("norm_eps")?.unwrap_or(1e-5));
    let (attention, attends) = attention(config, (hidden, n_layers))?;
    let attention = AttentionSpec {
        qk_norm: norm.of_heads(),
        ..attention
    };
    let defaults = RopeDefaults {
        base: 1e6,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let kernel = config.opt_count("conv_L_cache")?.unwrap_or(3);
    if kernel > MAX_TAPS {
        return config.bad_value("conv_L_cache", &format!("a number up to {MAX_TAPS}"));
    }
    let conv = ShortConvSpec {
        n_channels: hidden,
        kernel,
        bias: config.flag("conv_bias", false)?,
    };
    let mlp = MlpSpec::Dense(DenseMlp {
        width: width(config)?,
        activation: Activation::Silu,
        gating: Gating::Separate,
        bias: false,
    });
    let layer = |attends| LayerSpec {
        mixer: match attends {
            true => MixerSpec::Attention(attention),
            false => MixerSpec::Conv(conv),
        },
        mlp,
    };
    let layers = attends.into_iter().map(layer).collect();
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let is_tied = config.flag("tie_embedding", true)?;
    block::decoder_only(config, "lfm2", context, stack, is_tied)
}

/// Heads, and which layers have them. A GGUF tells both by a list of the heads of keys of each layer.
fn attention(
    config: &Config<'_>,
    (hidden, n_layers): (usize, usize),
) -> Result<(AttentionSpec, Vec<bool>), ArchError> {
    let n_heads = config.count("num_attention_heads")?;
    let by_layer = config.list("num_key_value_heads", n_layers)?;
    let n_kv_heads = match &by_layer {
        Some(by_layer) => by_layer.iter().copied().max(),
        None => config.opt_count("num_key_value_heads")?,
    };
    let n_kv_heads = n_kv_heads.unwrap_or(8);
    let is_kind = |n: &usize| *n == 0 || *n == n_kv_heads;
    let is_alike = by_layer.iter().flatten().all(is_kind);
    if !is_alike || n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        let expected = format!("one divisor of the {n_heads} attention heads");
        return config.bad_value("num_key_value_heads", &expected);
    }
    let head_dim = match config.opt_count("head_dim")? {
        Some(head_dim) => head_dim,
        None => block::head_dim(config, "num_attention_heads", hidden, n_heads)?,
    };
    let named = config.layers("full_attn_idxs", n_layers)?;
    let attends = match (
        config.kinds("layer_types", n_layers, [CONV, ATTENTION])?,
        by_layer,
    ) {
        (Some(attends), _) => attends,
        (None, Some(by_layer)) => by_layer.iter().map(|n| *n > 0).collect(),
        (None, None) if config.has("full_attn_idxs") => {
            (0..n_layers).map(|i| named.contains(&i)).collect()
        }
        (None, None) => vec![true; n_layers],
    };
    let attention = block::separate_heads(n_heads, n_kv_heads, head_dim);
    Ok((attention, attends))
}

/// Features of the feed-forward: two thirds of what the configuration says, rounded up, unless it says otherwise.
fn width(config: &Config<'_>) -> Result<usize, ArchError> {
    if let Some(width) = config.opt_count(FINAL_WIDTH)? {
        return Ok(width);
    }
    let given = config.opt_count("intermediate_size")?.unwrap_or(12_288);
    let given = config.opt_count("block_ff_dim")?.unwrap_or(given);
    let adjusts = config.flag("block_auto_adjust_ff_dim", true)?;
    let multiplier = config.opt_positive("block_ffn_dim_multiplier")?;
    let multiple = config.opt_count("block_multiple_of")?.unwrap_or(256);
    let is_scaled = multiplier.is_some() || !config.mentions("block_ffn_dim_multiplier");
    if !adjusts {
        return Ok(given);
    }
    // Whole numbers, cut off as the reference cuts them.
    let width = (2.0 * given as f64 / 3.0) as usize;
    if !is_scaled {
        return Ok(width);
    }
    let width = (multiplier.unwrap_or(1.0) * width as f64) as usize;
    let width = width.div_ceil(multiple).saturating_mul(multiple);
    match width > 1 << 24 {
        true => config.bad_value("block_ffn_dim_multiplier", "a multiplier of a real width"),
        false => Ok(width),
    }
}

const CONV: &str = "conv";
const ATTENTION: &str = "full_attention";
