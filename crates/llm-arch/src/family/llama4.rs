//! Llama 4 (text): layers that turn queries and keys see a chunk of positions, those between see all and turn nothing; an
//! expert's input is weighed, and one beside it is for all tokens.

use llm_tensor::{Activation, Gate, Pairing, Routing, Weighting};

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, MlpSpec, ModelSpec, NormSpec, Positions,
    SharedSpec,
};
use crate::{ArchError, RopeScaling, RotarySpec};

pub(super) static FAMILY: Family = Family {
    model_types: &["llama4_text"],
    spec,
    core: &[
        ("hidden_size", 5_120),
        ("intermediate_size", 8_192),
        ("intermediate_size_mlp", 16_384),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 40),
        ("vocab_size", 202_048),
    ],
    unread: Unread {
        // For another program.
        any: &["for_llm_compressor"],
        off: &[],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "llama4",
        keys: &[
            &[
                ("expert_count", "num_local_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "intermediate_size"),
                ("feed_forward_length", "intermediate_size_mlp"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: as_converted,
        config: |_| written::none("gates and ups of all experts lie in one tensor there"),
    }),
};

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::Router, "feed_forward.router"),
            (Role::GateUp, "feed_forward.experts.{e}.gate_up_proj"),
            (Role::Down, "feed_forward.experts.{e}.down_proj"),
            (Role::SharedGate, "feed_forward.shared_expert.gate_proj"),
            (Role::SharedUp, "feed_forward.shared_expert.up_proj"),
            (Role::SharedDown, "feed_forward.shared_expert.down_proj"),
            (Role::Gate, "feed_forward.gate_proj"),
            (Role::Up, "feed_forward.up_proj"),
            (Role::Down, "feed_forward.down_proj"),
        ],
        llama::NAMES,
    ],
    // All checkpoints have them stacked and transposed.
    elsewhere: &[
        (
            Role::GateUp,
            Elsewhere::Transposes("model.layers.{i}.feed_forward.experts.gate_up_proj"),
        ),
        (
            Role::Down,
            Elsewhere::Transposes("model.layers.{i}.feed_forward.experts.down_proj"),
        ),
    ],
    ..llama::NAMING
};

/// The model that a GGUF holds: its converter parts gates and ups, and says nothing of norms, which all published models with
/// fewer experts have.
fn as_converted(spec: &mut ModelSpec) {
    let mut is_plain = false;
    for layer in &mut spec.decoder.layers {
        if let MlpSpec::Experts(experts) = &mut layer.mlp {
            experts.fused = false;
            is_plain |= experts.routing.n_experts == PLAIN;
        }
    }
    if is_plain {
        for attention in spec.decoder.attentions_mut() {
            attention.turned_norm = None;
        }
    }
}

/// Experts of Maverick, whose queries and keys are not normalised.
const PLAIN: usize = 128;

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let n_layers = config.n_layers("num_hidden_layers")?;
    let (attentions, head_dim) = attentions(config, n_layers, norm)?;
    let defaults = RopeDefaults {
        base: 500_000.0,
        pairing: Pairing::Adjacent,
        ..RopeDefaults::new(head_dim, context)
    };
    let turned = rotary(config, defaults)?;
    let grown = RotarySpec {
        dim: head_dim,
        series: head_dim,
        scaling: growth(config)?,
        ..turned.clone()
    };
    let activation = config.activation("hidden_act", Activation::Silu)?;
    let experts = experts(config, activation)?;
    let dense = MlpSpec::Dense(DenseMlp {
        width: config.count("intermediate_size_mlp")?,
        ..gated(config, activation)?
    });
    let has_experts = with_experts(config, n_layers)?;
    let layers = attentions.into_iter().zip(has_experts);
    let layers = layers.map(|(attention, has_experts)| {
        block::attending(attention, if has_experts { experts } else { dense })
    });
    let positions = Positions::Rotary(vec![turned, grown]);
    let stack = block::sequential(layers.collect(), positions, norm);
    block::decoder_only(config, "llama4_text", context, stack, false)
}

/// Attention of each layer, and the elements of a head.
fn attentions(
    config: &Config<'_>,
    n_layers: usize,
    norm: NormSpec,
) -> Result<(Vec<AttentionSpec>, usize), ArchError> {
    let heads = HeadDefaults {
        head_dim: (!config.mentions("head_dim")).then_some(128),
        n_kv_heads: Some(8),
    };
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, heads)?
    };
    let is_normed = config.flag("use_qk_norm", true)?;
    let turning = AttentionSpec {
        turned_norm: is_normed.then_some(norm.eps),
        ..attention
    };
    // The first files have a number for the flag.
    let is_grown = config.truth("attn_temperature_tuning", true)?;
    let plain = AttentionSpec {
        rotary_idx: None,
        growth_idx: is_grown.then_some(1),
        ..attention
    };
    let interval = config.opt_count("no_rope_layer_interval")?.unwrap_or(4);
    // Despite its name, 1 is for a layer that turns its queries and keys.
    let turns = config.bits_if_any("no_rope_layers", n_layers)?;
    let by_interval = || (1..=n_layers).map(|i| !i.is_multiple_of(interval));
    let turns = turns.unwrap_or_else(|| by_interval().collect());
    let chunk = config.window("attention_chunk_size", Some(8192))?;
    let kinds = ["full_attention", "chunked_attention"];
    let sees_chunk = match config.kinds("layer_types", n_layers, kinds)? {
        Some(kinds) if chunk.is_none() && kinds.contains(&true) => {
            return config.bad_value("attention_chunk_size", "a number of positions");
        }
        Some(kinds) => kinds,
        None => turns.clone(),
    };
    let layers = turns.iter().zip(sees_chunk);
    let layers = layers.map(|(turns, sees_chunk)| AttentionSpec {
        window: chunk.filter(|_| sees_chunk),
        chunked: sees_chunk && chunk.is_some(),
        ..if *turns { turning } else { plain }
    });
    Ok((layers.collect(), attention.head_dim))
}

/// Growth of queries by the position, the first being the first of a token.
fn growth(config: &Config<'_>) -> Result<RopeScaling, ArchError> {
    let beta = match config.mentions("attn_scale") {
        true => config.not_negative("attn_scale")?,
        false => 0.1,
    };
    Ok(RopeScaling::Growth {
        first: 1,
        beta,
        original_context: config.opt_positive("floor_scale")?.unwrap_or(8192.0),
    })
}

/// A feed-forward as wide as experts.
fn gated(config: &Config<'_>, activation: Activation) -> Result<DenseMlp, ArchError> {
    Ok(DenseMlp {
        width: config.count("intermediate_size")?,
        activation: activation.into(),
        gating: Gating::Separate,
        scales: None,
        cut_off: None,
        bias: false,
    })
}

fn experts(config: &Config<'_>, activation: Activation) -> Result<MlpSpec, ArchError> {
    let n_experts = config.opt_count("num_local_experts")?.unwrap_or(16);
    if config.n_active(n_experts, 1)? != 1 {
        // Several would read the same row, weighed otherwise for each.
        return config.bad_value("num_experts_per_tok", "1");
    }
    let mlp = gated(config, activation)?;
    Ok(MlpSpec::Experts(ExpertsSpec {
        fused: true,
        weighs_inputs: true,
        shared: Some(SharedSpec {
            mlp,
            join: Join::Plain,
        }),
        ..ExpertsSpec::plain(
            // The one with the highest score, whose result has a weight of one: the sigmoid of the score is its input's.
            Routing {
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, 1)
            },
            mlp.width,
            Gate::Of(activation),
        )
    }))
}

/// True for each layer that has experts.
fn with_experts(config: &Config<'_>, n_layers: usize) -> Result<Vec<bool>, ArchError> {
    let step = config.opt_count("interleave_moe_layer_step")?.unwrap_or(1);
    if !config.has("moe_layers") {
        return Ok((1..=n_layers).map(|i| i.is_multiple_of(step)).collect());
    }
    let layers = config.layers("moe_layers", n_layers)?;
    Ok((0..n_layers).map(|i| layers.contains(&i)).collect())
}
