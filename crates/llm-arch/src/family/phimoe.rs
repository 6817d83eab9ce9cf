//! Phi-3.5 with experts: LayerNorms, biases, and two experts of a token, each weighed among those that are nearly as good.

use llm_tensor::{Activation, Gate, Routing, Scoring, Weighting};

use super::block::{self, HeadDefaults};
use super::{Family, llama, mixtral};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Naming, Role, StackRows};
use crate::spec::{AttentionSpec, ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["phimoe"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 6_400),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_064),
    ],
    unread: Unread {
        // Of training.
        any: &["input_jitter_noise"],
        off: &[],
    },
    naming: |_| &NAMING,
    // llama.cpp normalises its rows and weighs its experts otherwise than the model does, and its converter writes what the
    // lengths of a longrope make it multiply by, 1.19, where the published model says 1.2432.
    gguf: None,
};

const NAMING: Naming = Naming {
    names: &[mixtral::NAMES, llama::NAMES],
    // As transformers holds them since version 5, and saves them if asked to.
    elsewhere: &[
        (
            Role::Router,
            Elsewhere::Name("model.layers.{i}.mlp.router.weight"),
        ),
        (
            Role::Gate,
            Elsewhere::Stack(mixtral::STACKED_GATE_UP, StackRows::First),
        ),
        (
            Role::Up,
            Elsewhere::Stack(mixtral::STACKED_GATE_UP, StackRows::Second),
        ),
        (
            Role::Down,
            Elsewhere::Stack(mixtral::STACKED_DOWN, StackRows::All),
        ),
    ],
    ..llama::NAMING
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    // Read with a longer rope; it says nothing without one.
    config.opt_count("original_max_position_embeddings")?;
    let heads = HeadDefaults {
        n_kv_heads: Some(8),
        ..HeadDefaults::default()
    };
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        window: config.window("sliding_window", None)?,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        base: 1e6,
        has_mscales: true,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let norm = NormSpec::layer(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let n_layers = config.n_layers("num_hidden_layers")?;
    let layers = block::like_layers(n_layers, attention, experts(config)?);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let mut spec = block::decoder_only(config, "phimoe", context, stack, false)?;
    spec.head.bias = config.flag("lm_head_bias", false)?;
    Ok(spec)
}

fn experts(config: &Config<'_>) -> Result<MlpSpec, ArchError> {
    let n_experts = config.opt_count("num_local_experts")?.unwrap_or(16);
    if config.n_active(n_experts, 2)? != 2 {
        // The reference chooses two, whatever is said.
        return config.bad_value("num_experts_per_tok", "2");
    }
    // Noise of training by its name, and what counts as a tie in all passes.
    let jitter = match config.mentions("router_jitter_noise") {
        true => config.not_negative("router_jitter_noise")?,
        false => 0.01,
    };
    Ok(MlpSpec::Experts(ExpertsSpec::plain(
        Routing {
            scoring: Scoring::Plain,
            weighting: Weighting::NearTies {
                tolerance: (2.0 * jitter) as f32,
            },
            ..Routing::softmax(n_experts, 2)
        },
        config.count("intermediate_size")?,
        Gate::Of(config.activation("hidden_act", Activation::Silu)?),
    )))
}
