//! Mixtral: Mistral with experts.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::json;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Names, Naming, Role, StackRows};
use crate::spec::{ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions, SharedSpec};

pub(super) static FAMILY: Family = Family {
    model_types: &["mixtral"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: OF_NONE,
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "llama",
        keys: &[
            &[
                ("expert_count", "num_local_experts"),
                ("expert_used_count", "num_experts_per_tok"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::WINDOW,
        ],
        flags: &[],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| {
            let mut config = written::like_llama(spec, "MixtralForCausalLM")?;
            written::add_rope(&mut config, spec)?;
            let Some(experts) = written::experts(spec) else {
                return written::none("its layers have no experts");
            };
            let window = written::attention(spec)?.window;
            let more = json!({
                "num_local_experts": experts.routing.n_experts,
                "num_experts_per_tok": experts.routing.n_active,
                "sliding_window": window,
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

/// Names of a router and of experts.
pub(super) const NAMES: Names = &[
    (Role::Router, "block_sparse_moe.gate"),
    (Role::Gate, "block_sparse_moe.experts.{e}.w1"),
    (Role::Up, "block_sparse_moe.experts.{e}.w3"),
    (Role::Down, "block_sparse_moe.experts.{e}.w2"),
];

pub(super) const NAMING: Naming = Naming {
    names: &[NAMES, llama::NAMES],
    // As transformers holds them since version 5, and saves them if asked to.
    elsewhere: &[
        (
            Role::Router,
            Elsewhere::Name("model.layers.{i}.mlp.gate.weight"),
        ),
        (
            Role::RouterCorrection,
            Elsewhere::Name("model.layers.{i}.mlp.e_score_correction_bias"),
        ),
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

/// Experts' gates above their ups, `[experts, 2 · width, hidden]`.
pub(super) const STACKED_GATE_UP: &str = "model.layers.{i}.mlp.experts.gate_up_proj";
/// `[experts, hidden, width]`.
pub(super) const STACKED_DOWN: &str = "model.layers.{i}.mlp.experts.down_proj";

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let mut attention = block::attention(
        config,
        HeadDefaults {
            n_kv_heads: Some(8),
            ..HeadDefaults::default()
        },
    )?;
    attention.window = config.window("sliding_window", None)?;
    let rotary = rotary(
        config,
        RopeDefaults {
            base: 1e6,
            ..RopeDefaults::new(attention.head_dim, context)
        },
    )?;
    let experts = experts(config, None)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, experts);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "mixtral", context, stack, false)
}

/// Experts by the softmax of the chosen ones' scores, which is that of all brought to a sum of one.
pub(super) fn experts(
    config: &Config<'_>,
    shared: Option<SharedSpec>,
) -> Result<MlpSpec, ArchError> {
    let n_experts = config
        .opt_count(config.spelling(&["num_local_experts", "num_experts"])?)?
        .unwrap_or(8);
    Ok(MlpSpec::Experts(ExpertsSpec {
        shared,
        ..ExpertsSpec::plain(
            Routing {
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, config.n_active(n_experts, 2)?)
            },
            config.count("intermediate_size")?,
            Gate::Of(config.activation("hidden_act", Activation::Silu)?),
        )
    }))
}
