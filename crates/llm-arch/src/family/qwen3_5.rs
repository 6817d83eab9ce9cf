//! Qwen3.5: three layers of a gated delta rule to one that attends, whose results are gated.

use llm_tensor::{Activation, MAX_TAPS};

use super::block::{self, HeadDefaults, gated};
use super::{Family, llama};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{
    AttentionSpec, DeltaPacking, DeltaSpec, LayerSpec, MixerSpec, ModelSpec, NormSpec, Positions,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["qwen3_5_text"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 16),
        ("vocab_size", 248_320),
    ],
    unread: UNREAD,
    naming: |_| &NAMING,
    gguf: None,
};

const UNREAD: Unread = Unread {
    // Layers that foretell more than the next token, which are left out; and what a training's kernel computed states in.
    any: &[
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
        "mamba_ssm_dtype",
        "mlp_only_layers",
    ],
    off: &[("attn_output_gate", Off::True)],
};

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::DeltaQkv, "linear_attn.in_proj_qkv"),
            (Role::DeltaGate, "linear_attn.in_proj_z"),
            (Role::DeltaStrength, "linear_attn.in_proj_b"),
            (Role::DeltaDecay, "linear_attn.in_proj_a"),
            (Role::ConvTaps, "linear_attn.conv1d"),
            (Role::DeltaRate, "linear_attn.A_log"),
            (Role::DeltaOffset, "linear_attn.dt_bias"),
            (Role::DeltaNorm, "linear_attn.norm"),
            (Role::DeltaOut, "linear_attn.out_proj"),
        ],
        llama::NAMES,
    ],
    bare: &[Role::DeltaRate, Role::DeltaOffset],
    ..llama::NAMING
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 32_768)?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6);
    let heads = HeadDefaults {
        head_dim: Some(256),
        n_kv_heads: Some(4),
    };
    let bias = config.flag("attention_bias", false)?;
    let norm = NormSpec::rms_around_one(eps);
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: norm.of_heads(),
        output_gate: true,
        ..block::attention(config, heads)?
    };
    let delta = delta(config, DeltaPacking::Separate, NormSpec::rms(eps))?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let attends = attends(config)?.into_iter();
    let layers = attends.map(|attends| LayerSpec {
        mixer: match attends {
            true => MixerSpec::Attention(attention),
            false => MixerSpec::Delta(delta),
        },
        mlp,
    });
    let layers = layers.collect();
    let rotary = rotary(
        config,
        RopeDefaults {
            fraction: Some(0.25),
            ..RopeDefaults::new(attention.head_dim, context)
        },
    )?;
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "qwen3_5", context, stack, false)
}

/// The delta rule of layers that do not attend.
fn delta(
    config: &Config<'_>,
    packing: DeltaPacking,
    norm: NormSpec,
) -> Result<DeltaSpec, ArchError> {
    let count = |key, default| Ok::<_, ArchError>(config.opt_count(key)?.unwrap_or(default));
    let spec = DeltaSpec {
        n_key_heads: count("linear_num_key_heads", 16)?,
        n_value_heads: count("linear_num_value_heads", 32)?,
        key_dim: count("linear_key_head_dim", 128)?,
        value_dim: count("linear_value_head_dim", 128)?,
        kernel: count("linear_conv_kernel_dim", 4)?,
        activation: config.activation("hidden_act", Activation::Silu)?,
        packing,
        norm,
    };
    if !spec.n_value_heads.is_multiple_of(spec.n_key_heads) {
        let expected = format!("a multiple of the {} key heads", spec.n_key_heads);
        return config.bad_value("linear_num_value_heads", &expected);
    }
    for (key, dim) in [
        ("linear_key_head_dim", spec.key_dim),
        ("linear_value_head_dim", spec.value_dim),
    ] {
        if dim > MAX_DIM {
            return config.bad_value(key, &format!("heads of at most {MAX_DIM} elements"));
        }
    }
    if !(2..=MAX_TAPS).contains(&spec.kernel) {
        let expected = format!("2 to {MAX_TAPS} positions");
        return config.bad_value("linear_conv_kernel_dim", &expected);
    }
    // What follows a convolution is gated by the same function.
    if spec.activation != Activation::Silu {
        return config.bad_value("hidden_act", "silu");
    }
    Ok(spec)
}

/// Elements of the longest head whose states there are kernels for.
const MAX_DIM: usize = 256;

/// True for each layer that attends: as `layer_types` says, or every so many.
fn attends(config: &Config<'_>) -> Result<Vec<bool>, ArchError> {
    let n_layers = config.n_layers("num_hidden_layers")?;
    let every = config.opt_count("full_attention_interval")?.unwrap_or(4);
    let kinds = config.kinds(
        "layer_types",
        n_layers,
        ["linear_attention", "full_attention"],
    )?;
    Ok(kinds.unwrap_or_else(|| {
        (0..n_layers)
            .map(|i| (i + 1).is_multiple_of(every))
            .collect()
    }))
}
