//! gpt-oss: experts with clamped gates, attention with sinks.

use llm_tensor::{ClampedGate, Gate, GateOrder, Routing, Weighting};
use serde_json::{Value, json};

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{self, RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Naming, Role, StackRows};
use crate::spec::{AttentionSpec, ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["gpt_oss"],
    spec,
    core: &[
        ("hidden_size", 2_880),
        ("intermediate_size", 2_880),
        ("num_hidden_layers", 36),
        ("num_attention_heads", 64),
        ("vocab_size", 201_088),
    ],
    unread: Unread {
        // Second names, which nothing reads, of the experts of a token and of YaRN's first context.
        any: &["experts_per_token", "initial_context_length"],
        off: &[("hidden_act", Off::Word("silu"))],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "gpt-oss",
        keys: &[
            &[
                ("expert_count", "num_local_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "intermediate_size"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::WINDOW,
        ],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &Naming {
            names: &[
                &[(Role::Sinks, "attn_sinks")],
                llama::POST_NORM,
                llama::GGUF_EXPERTS_NAMES,
                llama::GGUF_NAMES,
            ],
            elsewhere: GGUF_STACKS,
            ..llama::GGUF_EXPERTS_NAMING
        },
        // Its converter parts the rows that alternate (conversion/gpt_oss.py of llama.cpp).
        adjust: |spec| {
            for layer in &mut spec.decoder.layers {
                if let MlpSpec::Experts(experts) = &mut layer.mlp
                    && let Gate::Clamped(gate) = &mut experts.gate
                {
                    gate.order = GateOrder::Halves;
                }
            }
        },
        config: |_| written::none("gates and ups of its experts alternate in one tensor there"),
    }),
};

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::Sinks, "self_attn.sinks"),
            (Role::Router, "mlp.router"),
            (Role::GateUp, "mlp.experts.{e}.gate_up_proj"),
            (Role::Down, "mlp.experts.{e}.down_proj"),
        ],
        llama::NAMES,
    ],
    bare: &[Role::Sinks],
    // All checkpoints have them stacked: transposed, or in MXFP4 as they are.
    elsewhere: &[
        (
            Role::GateUp,
            Elsewhere::Transposes("model.layers.{i}.mlp.experts.gate_up_proj"),
        ),
        (
            Role::GateUpBias,
            Elsewhere::Stack(
                "model.layers.{i}.mlp.experts.gate_up_proj_bias",
                StackRows::All,
            ),
        ),
        (
            Role::Down,
            Elsewhere::Transposes("model.layers.{i}.mlp.experts.down_proj"),
        ),
        (
            Role::DownBias,
            Elsewhere::Stack(
                "model.layers.{i}.mlp.experts.down_proj_bias",
                StackRows::All,
            ),
        ),
    ],
    ..llama::NAMING
};

const GGUF_STACKS: &[(Role, Elsewhere)] = &[
    (
        Role::Gate,
        Elsewhere::Stack("blk.{i}.ffn_gate_exps.weight", StackRows::All),
    ),
    (
        Role::GateBias,
        Elsewhere::Stack("blk.{i}.ffn_gate_exps.bias", StackRows::All),
    ),
    (
        Role::Up,
        Elsewhere::Stack("blk.{i}.ffn_up_exps.weight", StackRows::All),
    ),
    (
        Role::UpBias,
        Elsewhere::Stack("blk.{i}.ffn_up_exps.bias", StackRows::All),
    ),
    (
        Role::Down,
        Elsewhere::Stack("blk.{i}.ffn_down_exps.weight", StackRows::All),
    ),
    (
        Role::DownBias,
        Elsewhere::Stack("blk.{i}.ffn_down_exps.bias", StackRows::All),
    ),
];

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let heads = HeadDefaults {
        head_dim: Some(64),
        n_kv_heads: Some(8),
    };
    let bias = config.flag("attention_bias", true)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        sinks: true,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        base: 150_000.0,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = match config.has("rope_scaling") || config.has("rope_parameters") {
        true => rotary(config, defaults)?,
        false => {
            let yarn = trained_for();
            let yarn = yarn
                .as_object()
                .map(|yarn| Config::new(yarn, "rope_parameters."));
            let base = config.opt_positive("rope_theta")?;
            rope_config::of_object(config, yarn.as_ref(), defaults, base)?
        }
    };
    let n_experts = config
        .opt_count(config.spelling(&["num_local_experts", "num_experts"])?)?
        .unwrap_or(128);
    let experts = MlpSpec::Experts(ExpertsSpec {
        bias: true,
        ..ExpertsSpec::plain(
            Routing {
                // The softmax of the chosen ones' scores is that of all, brought to a sum of one.
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, config.n_active(n_experts, 4)?)
            },
            config.count("intermediate_size")?,
            Gate::Clamped(ClampedGate {
                alpha: config.opt_positive("swiglu_alpha")?.unwrap_or(1.702) as f32,
                limit: config.opt_positive("swiglu_limit")?.unwrap_or(7.0) as f32,
                added: 1.0,
                order: GateOrder::Pairs,
            }),
        )
    });
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, experts);
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let slides = config.sliding(stack.n_layers(), |i| i % 2 == 0)?;
    let window = config.window("sliding_window", Some(128))?;
    block::slide(&mut stack, &slides, window);
    block::decoder_only(config, "gpt_oss", context, stack, false)
}

/// YaRN as the reference has it where a configuration says nothing of positions.
fn trained_for() -> Value {
    json!({
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": false,
        "original_max_position_embeddings": 4096,
    })
}
