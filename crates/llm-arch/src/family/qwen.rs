//! Qwen2 (and 2.5) and Qwen3, dense and with experts.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::mixtral::{STACKED_DOWN, STACKED_GATE_UP};
use super::{Family, Gguf, GgufKeys, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Names, Naming, Role, StackRows};
use crate::spec::{AttentionSpec, ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions};

pub(super) static QWEN2: Family = Family {
    model_types: &["qwen2"],
    spec: qwen2,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 151_936),
    ],
    unread: UNREAD,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "qwen2",
        keys: GGUF_KEYS,
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| written(spec, "Qwen2ForCausalLM"),
    }),
};

pub(super) static QWEN3: Family = Family {
    model_types: &["qwen3"],
    spec: qwen3,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 151_936),
    ],
    unread: Unread {
        off: &[("qk_norm", Off::True), ("use_qk_norm", Off::True)],
        ..UNREAD
    },
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "qwen3",
        keys: GGUF_KEYS,
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| written(spec, "Qwen3ForCausalLM"),
    }),
};

pub(super) static QWEN3_MOE: Family = Family {
    model_types: &["qwen3_moe"],
    spec: qwen3_moe,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 6_144),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 32),
        ("vocab_size", 151_936),
    ],
    unread: Unread {
        // All its layers slide, or none.
        any: &[
            "dual_chunk_attention_config",
            "layer_types",
            "max_window_layers",
        ],
        off: &[("qk_norm", Off::True), ("use_qk_norm", Off::True)],
    },
    naming: |_| &EXPERTS_NAMING,
    gguf: Some(Gguf {
        architecture: "qwen3moe",
        keys: &[
            &[
                ("expert_count", "num_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        // llama.cpp does not ask.
        adjust: |spec| block::set_weighting(spec, Weighting::Normalised),
        config: |spec| {
            let mut config = written(spec, "Qwen3MoeForCausalLM")?;
            let Some(experts) = written::experts(spec) else {
                return written::none("its layers have no experts");
            };
            let more = json!({
                "num_experts": experts.routing.n_experts,
                "num_experts_per_tok": experts.routing.n_active,
                "moe_intermediate_size": experts.width,
                "norm_topk_prob": true,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

/// Names of a router and of experts, each by itself.
pub(super) const EXPERTS_NAMES: Names = &[
    (Role::Router, "mlp.gate"),
    (Role::Gate, "mlp.experts.{e}.gate_proj"),
    (Role::Up, "mlp.experts.{e}.up_proj"),
    (Role::Down, "mlp.experts.{e}.down_proj"),
];

/// Names of experts, each by itself or stacked, since Qwen2.
pub(super) const EXPERTS_NAMING: Naming = Naming {
    names: &[EXPERTS_NAMES, llama::NAMES],
    elsewhere: &[
        (
            Role::Gate,
            Elsewhere::Stack(STACKED_GATE_UP, StackRows::First),
        ),
        (
            Role::Up,
            Elsewhere::Stack(STACKED_GATE_UP, StackRows::Second),
        ),
        (Role::Down, Elsewhere::Stack(STACKED_DOWN, StackRows::All)),
    ],
    ..llama::NAMING
};

const GGUF_KEYS: &[GgufKeys] = &[llama::GGUF_KEYS, llama::HEAD_DIM, llama::WINDOW];

const UNREAD: Unread = Unread {
    // For other programs, which read a million tokens with it; the context by its first name.
    any: &["dual_chunk_attention_config", "seq_length"],
    off: &[("qkv_bias", Off::True), ("use_qkv_bias", Off::True)],
};

pub(super) fn written(
    spec: &ModelSpec,
    architecture: &str,
) -> Result<Map<String, Value>, ArchError> {
    let mut config = written::like_llama(spec, architecture)?;
    written::add_rope(&mut config, spec)?;
    config.insert("use_sliding_window".to_owned(), json!(false));
    Ok(config)
}

fn qwen2(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let attention = AttentionSpec {
        qkv_bias: true,
        ..block::attention(
            config,
            HeadDefaults {
                n_kv_heads: Some(32),
                ..HeadDefaults::default()
            },
        )?
    };
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    model(config, "qwen2", attention, |_| mlp)
}

fn qwen3(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let heads = HeadDefaults {
        head_dim: Some(128),
        n_kv_heads: Some(32),
    };
    model(config, "qwen3", normed_heads(config, heads)?, |_| mlp)
}

fn qwen3_moe(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let dense = gated(config, "hidden_act", Activation::Silu, false)?;
    let n_experts = config
        .opt_count(config.spelling(&["num_local_experts", "num_experts"])?)?
        .unwrap_or(128);
    let experts = MlpSpec::Experts(ExpertsSpec::plain(
        Routing {
            weighting: block::weighting(config, "norm_topk_prob", false)?,
            ..Routing::softmax(n_experts, config.n_active(n_experts, 8)?)
        },
        config.opt_count("moe_intermediate_size")?.unwrap_or(768),
        Gate::Of(config.activation("hidden_act", Activation::Silu)?),
    ));
    let is_dense = dense_layers(config)?;
    let heads = HeadDefaults {
        n_kv_heads: Some(4),
        ..HeadDefaults::default()
    };
    model(config, "qwen3_moe", normed_heads(config, heads)?, |i| {
        if is_dense(i) { dense } else { experts }
    })
}

/// Layers without experts.
pub(super) fn dense_layers(config: &Config<'_>) -> Result<impl Fn(usize) -> bool, ArchError> {
    let every = config.opt_count("decoder_sparse_step")?.unwrap_or(1);
    let dense_layers = config.layers("mlp_only_layers", config.n_layers("num_hidden_layers")?)?;
    Ok(move |i: usize| dense_layers.contains(&i) || !(i + 1).is_multiple_of(every))
}

/// Each head of queries and keys is normalised.
fn normed_heads(config: &Config<'_>, heads: HeadDefaults) -> Result<AttentionSpec, ArchError> {
    let bias = config.flag("attention_bias", false)?;
    let attention = block::attention(config, heads)?;
    Ok(AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: norm(config)?.of_heads(),
        ..attention
    })
}

fn norm(config: &Config<'_>) -> Result<NormSpec, ArchError> {
    Ok(NormSpec::rms(
        config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6),
    ))
}

pub(super) fn model(
    config: &Config<'_>,
    family: &'static str,
    attention: AttentionSpec,
    mlp: impl Fn(usize) -> MlpSpec,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 32_768)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let n_layers = config.n_layers("num_hidden_layers")?;
    let layers = (0..n_layers).map(|i| block::attending(attention, mlp(i)));
    let positions = Positions::Rotary(vec![rotary]);
    let mut stack = block::sequential(layers.collect(), positions, norm(config)?);
    let window = match config.flag("use_sliding_window", false)? {
        true => config.window("sliding_window", Some(4096))?,
        false => {
            // The reference writes 0 then.
            config.whole("sliding_window")?;
            None
        }
    };
    let slides = match family {
        "qwen3_moe" => vec![true; n_layers],
        // Every other one of the first.
        "qwen2_moe" => {
            let end = config.whole("max_window_layers")?.unwrap_or(28);
            config.sliding(n_layers, |i| i.is_multiple_of(2) && i < end)?
        }
        _ => {
            let first = config.whole("max_window_layers")?.unwrap_or(28);
            config.sliding(n_layers, |i| i >= first)?
        }
    };
    block::slide(&mut stack, &slides, window);
    block::decoder_only(config, family, context, stack, false)
}
