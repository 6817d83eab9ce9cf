//! Bamba: Llama's feed-forward, and state spaces in all layers but a few.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults, gated};
use super::state_space::{BARE, MAMBA_KEYS, MAMBA_NAMES, state_space, step_limits};
use super::{Family, llama};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, LayerSpec, MixerSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["bamba"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 128_000),
    ],
    unread: Unread {
        any: &[
            // Of the code that the models were made with, and in what pieces a prompt is computed.
            "attn_rotary_emb",
            "mamba_chunk_size",
            "mamba_dt_rank",
            "num_logits_to_keep",
            "use_mamba_kernels",
            "z_loss_coefficient",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[
            MAMBA_NAMES,
            &[
                (Role::MlpNorm, "pre_ff_layernorm"),
                (Role::Gate, "feed_forward.gate_proj"),
                (Role::Up, "feed_forward.up_proj"),
                (Role::Down, "feed_forward.down_proj"),
                (Role::FinalNorm, "model.final_layernorm"),
            ],
            llama::NAMES,
        ],
        bare: BARE,
        ..llama::NAMING
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 262_144)?;
    let hidden = config.count("hidden_size")?;
    let heads = HeadDefaults {
        n_kv_heads: Some(8),
        ..HeadDefaults::default()
    };
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.5),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5);
    let space = state_space(config, &MAMBA_KEYS, (hidden, eps), step_limits(config)?)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, mlp_bias)?;
    let n_layers = config.n_layers("num_hidden_layers")?;
    let attends = config.layers("attn_layer_indices", n_layers)?;
    let layers = (0..n_layers).map(|i| LayerSpec {
        mixer: match attends.contains(&i) {
            true => MixerSpec::Attention(attention),
            false => MixerSpec::StateSpace(space),
        },
        mlp,
    });
    let positions = Positions::Rotary(vec![rotary]);
    let stack = block::sequential(layers.collect(), positions, NormSpec::rms(eps));
    block::decoder_only(config, "bamba", context, stack, false)
}
