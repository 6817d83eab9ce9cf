//! Falcon-H1: attention and a state space side by side in every layer, and multipliers at every turn.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults, gated};
use super::granite::multiplier;
use super::state_space::{
    self, BARE, GGUF_WIDTH, Keys, MAMBA_KEYS, MAMBA_NAMES, state_space, step_limits,
};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role, SpaceStored, Stored};
use crate::spec::{
    AttentionSpec, HybridSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec, NormSpec, Positions,
    StateSpaceSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["falcon_h1"],
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
            "attn_layer_indices",
            "layer_types",
            "layers_block_type",
            "mamba_chunk_size",
            "mlp_expansion_factor",
            "num_logits_to_keep",
            // How weights were drawn.
            "time_step_floor",
            "time_step_max",
            "time_step_min",
        ],
        off: &[("mamba_use_mlp", Off::True)],
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
    gguf: Some(Gguf {
        architecture: "falcon-h1",
        keys: &[
            &state_space::gguf_keys(&KEYS),
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[
            ("attn_q.bias", "attention_bias"),
            ("ffn_down.bias", "mlp_bias"),
            ("ssm_conv1d.bias", KEYS.conv_bias),
            ("ssm_in.bias", KEYS.bias),
            ("ssm_norm.weight", "mamba_rms_norm"),
            ("ssm_out.bias", "projectors_bias"),
        ],
        // Its converter multiplies matrices by what multiplies their results.
        naming: |_| &Naming {
            names: &[state_space::GGUF_NAMES, llama::GGUF_NAMES],
            // This one too, by the gguf package's table of names.
            bare: &[
                Role::SpaceRate,
                Role::SpaceOffset,
                Role::SpaceSkip,
                Role::MlpNorm,
            ],
            taps: Stored::AsIs,
            space: SpaceStored::Gguf,
            ..llama::GGUF_NAMING
        },
        adjust: |_| (),
        config: |_| written::none("its multipliers are part of matrices there"),
    }),
};

const KEYS: Keys = Keys {
    width: Some(("mamba_d_ssm", 1_024)),
    ..MAMBA_KEYS
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 8_192)?;
    let hidden = config.count("hidden_size")?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5);
    let attention = attention(config)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mixer = MixerSpec::Hybrid(HybridSpec {
        attention,
        space: space(config, (hidden, eps))?,
    });
    let layer = LayerSpec {
        mixer,
        mlp: mlp(config)?,
    };
    let layers = vec![layer; config.n_layers("num_hidden_layers")?];
    let positions = Positions::Rotary(vec![rotary]);
    let stack = block::sequential(layers, positions, NormSpec::rms(eps));
    let mut spec = block::decoder_only(config, "falcon_h1", context, stack, false)?;
    spec.embedding.scale = multiplier(config, "embedding_multiplier")? as f32;
    spec.head.scale = multiplier(config, "lm_head_multiplier")? as f32;
    Ok(spec)
}

/// Attention: what multiplies keys multiplies their products with queries.
fn attention(config: &Config<'_>) -> Result<AttentionSpec, ArchError> {
    let heads = HeadDefaults {
        n_kv_heads: Some(8),
        ..HeadDefaults::default()
    };
    let bias = config.flag("attention_bias", false)?;
    let plain = block::attention(config, heads)?;
    let scale = multiplier(config, "key_multiplier")?;
    Ok(AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        scale: (scale / (plain.head_dim as f64).sqrt()) as f32,
        input_scale: multiplier(config, "attention_in_multiplier")? as f32,
        result_scale: multiplier(config, "attention_out_multiplier")? as f32,
        ..plain
    })
}

/// The state space, whose norm is an option, and of whose projections back the bias has a key of its own.
fn space(config: &Config<'_>, sizes: (usize, f64)) -> Result<StateSpaceSpec, ArchError> {
    let plain = state_space(config, &KEYS, sizes, step_limits(config)?)?;
    if config.flag("projectors_bias", false)? != plain.bias {
        return config.bad_value("projectors_bias", "the same as mamba_proj_bias");
    }
    let normed = config.flag("mamba_rms_norm", false)?;
    // A GGUF's are gated first.
    let gated_first = !config.flag("mamba_norm_before_gate", !config.has(GGUF_WIDTH))?;
    if normed && !gated_first {
        return config.bad_value("mamba_norm_before_gate", "false where there is a norm");
    }
    let scales = multipliers::<5>(config, "ssm_multipliers")?;
    let scales = scales.map(|scale| scale as f32);
    Ok(StateSpaceSpec {
        norm: plain.norm.filter(|_| normed),
        scales: Some(scales).filter(|scales| *scales != [1.0; 5]),
        input_scale: multiplier(config, "ssm_in_multiplier")? as f32,
        result_scale: multiplier(config, "ssm_out_multiplier")? as f32,
        ..plain
    })
}

/// The feed-forward, with what multiplies its gate and its result.
fn mlp(config: &Config<'_>) -> Result<MlpSpec, ArchError> {
    let bias = config.flag("mlp_bias", false)?;
    let scales = multipliers::<2>(config, "mlp_multipliers")?.map(|scale| scale as f32);
    let mut mlp = gated(config, "hidden_act", Activation::Silu, bias)?;
    if let MlpSpec::Dense(dense) = &mut mlp {
        dense.scales = Some(scales).filter(|scales| *scales != [1.0; 2]);
    }
    Ok(mlp)
}

/// So many multipliers, all one if there are none.
fn multipliers<const N: usize>(config: &Config<'_>, key: &str) -> Result<[f64; N], ArchError> {
    if !config.has(key) {
        config.tick(key);
        return Ok([1.0; N]);
    }
    let factors = config.factors(key, N)?;
    Ok(std::array::from_fn(|i| factors[i]))
}
