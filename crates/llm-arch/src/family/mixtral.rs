//! Mixtral: Mistral with experts.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults};
use super::{Family, llama};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions, Weighting};

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
    naming: |_| &Naming {
        names: &[
            &[
                (
                    Role::Router,
                    "model.layers.{i}.block_sparse_moe.gate.weight",
                ),
                (
                    Role::Gate,
                    "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight",
                ),
                (
                    Role::Up,
                    "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight",
                ),
                (
                    Role::Down,
                    "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight",
                ),
            ],
            llama::NAMES,
        ],
        wide: &[],
        harmless: &["self_attn.rotary_emb.inv_freq"],
        ..llama::NAMING
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = config
        .opt_count("max_position_embeddings")?
        .unwrap_or(131_072);
    let attention = block::attention(
        config,
        HeadDefaults {
            n_kv_heads: Some(8),
            ..HeadDefaults::default()
        },
    )?;
    let rotary = rotary(
        config,
        RopeDefaults {
            base: 1e6,
            ..RopeDefaults::new(attention.head_dim, context)
        },
    )?;
    let n_experts = config
        .opt_count(config.spelling(&["num_local_experts", "num_experts"])?)?
        .unwrap_or(8);
    let experts = MlpSpec::Experts(ExpertsSpec {
        n_experts,
        n_active: config.n_active(n_experts, 2)?,
        width: config.count("intermediate_size")?,
        activation: config.activation("hidden_act", Activation::Silu)?,
        weighting: Weighting::Normalised,
    });
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let mut layers = block::like_layers(config.n_layers("num_hidden_layers")?, &attention, experts);
    let window = config.window("sliding_window", None)?;
    let slides = vec![true; layers.len()];
    block::slide(&mut layers, &slides, window);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm, attention);
    block::decoder_only(config, "mixtral", context, stack, false)
}
