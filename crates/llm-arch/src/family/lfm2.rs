//! LFM2, dense and with experts: gated short convolutions, and attention in some layers.

use llm_tensor::{Activation, Gate, MAX_TAPS, Routing, Scoring, Weighting};
use serde_json::{Map, Value, json};

use super::{Family, Gguf, block, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Names, Naming, Role, StackRows, Stored};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, LayerSpec, MixerSpec, MlpSpec, ModelSpec,
    NonLinearity, NormSpec, Positions, ShortConvSpec,
};

pub(super) static LFM2: Family = Family {
    model_types: &["lfm2"],
    spec: dense,
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
    naming: |_| &Naming {
        names: &[NAMES, llama::NAMES],
        ..llama::NAMING
    },
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
        naming: |_| &Naming {
            names: &[GGUF_NAMES, llama::GGUF_NAMES],
            taps: Stored::AsIs,
            ..llama::GGUF_NAMING
        },
        adjust: |_| (),
        config: |spec| {
            let mut config = written(spec, "Lfm2ForCausalLM")?;
            config.insert("block_auto_adjust_ff_dim".to_owned(), false.into());
            Ok(config)
        },
    }),
};

pub(super) static LFM2_MOE: Family = Family {
    model_types: &["lfm2_moe"],
    spec: with_experts,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 7_168),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 65_536),
    ],
    unread: OF_NONE,
    naming: |_| &Naming {
        names: &[
            &[
                (Role::Router, "feed_forward.gate"),
                (Role::RouterCorrection, "feed_forward.expert_bias"),
                (Role::Gate, "feed_forward.experts.{e}.w1"),
                (Role::Up, "feed_forward.experts.{e}.w3"),
                (Role::Down, "feed_forward.experts.{e}.w2"),
            ],
            NAMES,
            llama::NAMES,
        ],
        bare: &[Role::RouterCorrection],
        // As transformers holds them since version 5, and saves them if asked to.
        elsewhere: &[
            (
                Role::Gate,
                Elsewhere::Stack(STACKED_GATE_UP, StackRows::First),
            ),
            (
                Role::Up,
                Elsewhere::Stack(STACKED_GATE_UP, StackRows::Second),
            ),
            (
                Role::Down,
                Elsewhere::Stack(
                    "model.layers.{i}.feed_forward.experts.down_proj",
                    StackRows::All,
                ),
            ),
        ],
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: "lfm2moe",
        keys: &[
            &[
                ("attention.layer_norm_rms_epsilon", "norm_eps"),
                ("shortconv.l_cache", "conv_L_cache"),
                ("leading_dense_block_count", "num_dense_layers"),
                ("expert_count", "num_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[],
        naming: |_| &Naming {
            names: &[GGUF_NAMES, llama::GGUF_EXPERTS_NAMES, llama::GGUF_NAMES],
            taps: Stored::AsIs,
            ..llama::GGUF_EXPERTS_NAMING
        },
        // llama.cpp does not ask.
        adjust: |spec| block::set_weighting(spec, Weighting::Normalised),
        config: |spec| {
            let experts = written::some_experts(spec)?;
            let layers = spec.decoder.layers.iter();
            let n_dense = layers.take_while(|layer| layer.mlp.experts().is_none());
            let more = json!({
                "num_dense_layers": n_dense.count(),
                "num_experts": experts.routing.n_experts,
                "num_experts_per_tok": experts.routing.n_active,
                "moe_intermediate_size": experts.width,
                "use_expert_bias": experts.correction,
                "norm_topk_prob": experts.routing.weighting == Weighting::Normalised,
                "routed_scaling_factor": written::shortest(experts.routing.scale),
            });
            let mut config = written(spec, "Lfm2MoeForCausalLM")?;
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

const STACKED_GATE_UP: &str = "model.layers.{i}.feed_forward.experts.gate_up_proj";

const NAMES: Names = &[
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
];

const GGUF_NAMES: Names = &[
    (Role::ConvIn, "shortconv.in_proj"),
    (Role::ConvTaps, "shortconv.conv"),
    (Role::ConvOut, "shortconv.out_proj"),
    // Named after the module, but it is the norm after the last block.
    (Role::FinalNorm, "token_embd_norm"),
];

/// Key of a GGUF's width.
const FINAL_WIDTH: &str = "feed_forward_length";

fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let layers = &spec.decoder.layers;
    let conv = layers.iter().find_map(|layer| match layer.mixer {
        MixerSpec::Attention(_)
        | MixerSpec::Latent(_)
        | MixerSpec::SharedKey(_)
        | MixerSpec::Delta(_)
        | MixerSpec::StateSpace(_)
        | MixerSpec::Hybrid(_)
        | MixerSpec::Absent => None,
        MixerSpec::Conv(conv) => Some(conv),
    });
    let Some(conv) = conv else {
        return written::none("none of its layers convolves");
    };
    let types = layers.iter().map(|layer| match layer.mixer {
        MixerSpec::Attention(_)
        | MixerSpec::Latent(_)
        | MixerSpec::SharedKey(_)
        | MixerSpec::Delta(_)
        | MixerSpec::StateSpace(_)
        | MixerSpec::Hybrid(_)
        | MixerSpec::Absent => ATTENTION,
        MixerSpec::Conv(_) => CONV,
    });
    let more = json!({
        "layer_types": types.collect::<Vec<_>>(),
        "conv_L_cache": conv.kernel,
        "conv_bias": conv.bias,
    });
    let mut config = written::like_llama(spec, architecture)?;
    written::rename(&mut config, "rms_norm_eps", "norm_eps");
    // Its feed-forward knows no other.
    config.shift_remove("hidden_act");
    written::extend(&mut config, more);
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn dense(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let n_layers = config.n_layers("num_hidden_layers")?;
    let attention = attention(config, n_layers, Some(vec![true; n_layers]))?;
    let mlp = gated(width(config)?);
    model(config, "lfm2", attention, |_| mlp)
}

fn with_experts(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let n_layers = config.n_layers("num_hidden_layers")?;
    // The reference knows no order of its own.
    let attention = attention(config, n_layers, None)?;
    block::check_scoring(config, Scoring::Sigmoid)?;
    let n_experts = config.opt_count("num_experts")?.unwrap_or(32);
    let experts = MlpSpec::Experts(ExpertsSpec {
        correction: config.flag("use_expert_bias", true)?,
        ..ExpertsSpec::plain(
            Routing {
                weighting: block::weighting(config, "norm_topk_prob", true)?,
                eps: 1e-6,
                scale: config.opt_positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
                ..Routing::sigmoid(n_experts, config.n_active(n_experts, 4)?)
            },
            config.opt_count("moe_intermediate_size")?.unwrap_or(1_792),
            Gate::Of(Activation::Silu),
        )
    });
    let mlp = gated(config.count("intermediate_size")?);
    let n_dense = config.whole("num_dense_layers")?.unwrap_or(2);
    model(config, "lfm2_moe", attention, |i| match i < n_dense {
        true => mlp,
        false => experts,
    })
}

/// A feed-forward of this width.
fn gated(width: usize) -> MlpSpec {
    MlpSpec::Dense(DenseMlp {
        width,
        activation: NonLinearity::Of(Activation::Silu),
        gating: Gating::Separate,
        scales: None,
        cut_off: None,
        bias: false,
    })
}

fn model(
    config: &Config<'_>,
    family: &'static str,
    (attention, attends): (AttentionSpec, Vec<bool>),
    mlp: impl Fn(usize) -> MlpSpec,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 128_000)?;
    let hidden = config.count("hidden_size")?;
    let norm = NormSpec::rms(config.opt_positive("norm_eps")?.unwrap_or(1e-5));
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
    let layer = |(i, attends)| LayerSpec {
        mixer: match attends {
            true => MixerSpec::Attention(attention),
            false => MixerSpec::Conv(conv),
        },
        mlp: mlp(i),
    };
    let layers = attends.into_iter().enumerate().map(layer).collect();
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let is_tied = config.flag("tie_embedding", true)?;
    block::decoder_only(config, family, context, stack, is_tied)
}

/// Heads, and which layers have them. A GGUF tells both by a list of the heads of keys of each layer.
fn attention(
    config: &Config<'_>,
    n_layers: usize,
    by_default: Option<Vec<bool>>,
) -> Result<(AttentionSpec, Vec<bool>), ArchError> {
    let hidden = config.count("hidden_size")?;
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
        (None, None) => match by_default {
            Some(attends) => attends,
            None => return config.bad_value("layer_types", "a list of layers' kinds"),
        },
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
