//! Qwen3.5, dense and with experts, and Qwen3-Next: three layers of a gated delta rule to one that attends, whose results are gated.

use llm_tensor::{Activation, MAX_TAPS, Weighting};

use super::block::{self, HeadDefaults, gated};
use super::qwen2_moe::{self, ExpertDefaults};
use super::{Family, Gguf, GgufKeys, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Names, Naming, Role, Stored};
use crate::spec::{
    AttentionSpec, DeltaPacking, DeltaSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec, NormSpec,
    Positions, ValueOrder,
};

pub(super) static QWEN3_5: Family = Family {
    model_types: &["qwen3_5_text"],
    spec: dense,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 16),
        ("vocab_size", 248_320),
    ],
    unread: UNREAD,
    naming: |_| &Naming {
        names: &[NAMES, llama::NAMES],
        bare: BARE,
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: "qwen35",
        keys: &[GGUF_KEYS, llama::GGUF_KEYS, llama::HEAD_DIM],
        // The first layer does not attend.
        flags: &[],
        naming: |_| &Naming {
            names: &[GGUF_NAMES, llama::POST_NORM, llama::GGUF_NAMES],
            bare: BARE,
            taps: Stored::AsIs,
            rates: Stored::NegatedExp,
            ..llama::GGUF_NAMING
        },
        adjust: across,
        config: |_| written::none(ACROSS),
    }),
};

pub(super) static QWEN3_5_MOE: Family = Family {
    model_types: &["qwen3_5_moe_text"],
    spec: with_experts,
    core: &[
        ("hidden_size", 2_048),
        ("num_hidden_layers", 40),
        ("num_attention_heads", 16),
        ("vocab_size", 248_320),
    ],
    unread: Unread {
        any: &[
            "intermediate_size",
            "mtp_num_hidden_layers",
            "mtp_use_dedicated_embeddings",
            "mamba_ssm_dtype",
        ],
        // All its layers have experts, whose weights are normalised.
        off: &[
            ("attn_output_gate", Off::True),
            ("decoder_sparse_step", Off::One),
            ("norm_topk_prob", Off::True),
        ],
    },
    naming: |_| &Naming {
        names: &[
            NAMES,
            qwen2_moe::SHARED_NAMES,
            qwen::EXPERTS_NAMES,
            llama::NAMES,
        ],
        bare: BARE,
        ..qwen::EXPERTS_NAMING
    },
    gguf: Some(Gguf {
        architecture: "qwen35moe",
        keys: GGUF_EXPERTS_KEYS,
        flags: &[],
        naming: |_| &GGUF_EXPERTS_NAMING,
        adjust: across,
        config: |_| written::none(ACROSS),
    }),
};

pub(super) static QWEN3_NEXT: Family = Family {
    model_types: &["qwen3_next"],
    spec: next,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 5_632),
        ("num_hidden_layers", 48),
        ("num_attention_heads", 16),
        ("vocab_size", 151_936),
    ],
    unread: UNREAD,
    naming: |_| &Naming {
        names: &[
            PACKED_NAMES,
            NAMES,
            qwen2_moe::SHARED_NAMES,
            qwen::EXPERTS_NAMES,
            llama::NAMES,
        ],
        bare: BARE,
        ..qwen::EXPERTS_NAMING
    },
    gguf: Some(Gguf {
        architecture: "qwen3next",
        keys: GGUF_EXPERTS_KEYS,
        // The first layer does not attend.
        flags: &[],
        naming: |_| &GGUF_EXPERTS_NAMING,
        // Gates are in a matrix of their own there.
        adjust: |spec| {
            without_offsets(spec);
            for delta in deltas(spec) {
                delta.packing = DeltaPacking::PairsPerKeyHead;
            }
        },
        config: |_| written::none("the projections of its delta rules are one matrix there"),
    }),
};

/// Metadata keys of delta rules.
const GGUF_KEYS: GgufKeys = &[
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.inner_size", ALL_VALUES),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
];

/// The same of those with experts, and all else.
const GGUF_EXPERTS_KEYS: &[GgufKeys] = &[
    GGUF_KEYS,
    qwen2_moe::GGUF_KEYS,
    llama::GGUF_KEYS,
    llama::HEAD_DIM,
];

const GGUF_EXPERTS_NAMING: Naming = Naming {
    names: &[
        GGUF_NAMES,
        llama::POST_NORM,
        llama::GGUF_EXPERTS_NAMES,
        llama::GGUF_NAMES,
    ],
    bare: BARE,
    taps: Stored::AsIs,
    rates: Stored::NegatedExp,
    ..llama::GGUF_EXPERTS_NAMING
};

const GGUF_NAMES: Names = &[
    (Role::DeltaQkv, "attn_qkv"),
    (Role::DeltaGate, "attn_gate"),
    (Role::DeltaStrength, "ssm_beta"),
    (Role::DeltaDecay, "ssm_alpha"),
    (Role::DeltaStrengthDecay, "ssm_ba"),
    (Role::ConvTaps, "ssm_conv1d"),
    (Role::DeltaRate, "ssm_a"),
    (Role::DeltaOffset, "ssm_dt.bias"),
    (Role::DeltaNorm, "ssm_norm"),
    (Role::DeltaOut, "ssm_out"),
];

/// Qwen3.5 as its converter has it (`_LinearAttentionVReorderBase` in conversion/qwen.py of llama.cpp): heads of values in
/// another order.
fn across(spec: &mut ModelSpec) {
    without_offsets(spec);
    for delta in deltas(spec) {
        delta.order = ValueOrder::Across;
    }
}

/// Why files with these are not written.
const ACROSS: &str = "the heads of values of its delta rules are in another order there";

/// One is added to gains, the delta rule's own apart (Qwen3NextModel in conversion/qwen.py of llama.cpp).
fn without_offsets(spec: &mut ModelSpec) {
    spec.decoder.norm.gain_offset = 0.0;
    for attention in spec.decoder.attentions_mut() {
        if let Some(qk) = &mut attention.qk_norm {
            qk.norm.gain_offset = 0.0;
        }
    }
}

fn deltas(spec: &mut ModelSpec) -> impl Iterator<Item = &mut DeltaSpec> {
    let layers = spec.decoder.layers.iter_mut();
    layers.filter_map(|layer| match &mut layer.mixer {
        MixerSpec::Delta(delta) => Some(delta),
        MixerSpec::Attention(_)
        | MixerSpec::Latent(_)
        | MixerSpec::SharedKey(_)
        | MixerSpec::Conv(_)
        | MixerSpec::StateSpace(_)
        | MixerSpec::Hybrid(_)
        | MixerSpec::Absent => None,
    })
}

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

const NAMES: Names = &[
    (Role::DeltaQkv, "linear_attn.in_proj_qkv"),
    (Role::DeltaGate, "linear_attn.in_proj_z"),
    (Role::DeltaStrength, "linear_attn.in_proj_b"),
    (Role::DeltaDecay, "linear_attn.in_proj_a"),
    (Role::ConvTaps, "linear_attn.conv1d"),
    (Role::DeltaRate, "linear_attn.A_log"),
    (Role::DeltaOffset, "linear_attn.dt_bias"),
    (Role::DeltaNorm, "linear_attn.norm"),
    (Role::DeltaOut, "linear_attn.out_proj"),
];

const PACKED_NAMES: Names = &[
    (Role::DeltaQkvGate, "linear_attn.in_proj_qkvz"),
    (Role::DeltaStrengthDecay, "linear_attn.in_proj_ba"),
];

const BARE: &[Role] = &[Role::DeltaRate, Role::DeltaOffset];

fn dense(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let kind = ("qwen3_5", 4, DeltaPacking::Separate);
    model(config, kind, |_| mlp)
}

fn with_experts(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let experts = qwen2_moe::experts(
        config,
        ExpertDefaults {
            n_experts: 256,
            n_active: 8,
            width: 512,
            shared_width: 512,
            weighting: Weighting::Normalised,
        },
    )?;
    let kind = ("qwen3_5_moe", 2, DeltaPacking::Separate);
    model(config, kind, |_| experts)
}

fn next(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let experts = qwen2_moe::experts(
        config,
        ExpertDefaults {
            n_experts: 512,
            n_active: 10,
            width: 512,
            shared_width: 512,
            weighting: block::weighting(config, "norm_topk_prob", true)?,
        },
    )?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let is_dense = qwen::dense_layers(config)?;
    let kind = ("qwen3_next", 2, DeltaPacking::PerKeyHead);
    model(config, kind, |i| if is_dense(i) { mlp } else { experts })
}

/// A model by its family, the heads of keys of one that does not say, and the storage of its delta rules.
fn model(
    config: &Config<'_>,
    (family, n_kv_heads, packing): (&'static str, usize, DeltaPacking),
    mlp: impl Fn(usize) -> MlpSpec,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 32_768)?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6);
    let heads = HeadDefaults {
        head_dim: Some(256),
        n_kv_heads: Some(n_kv_heads),
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
    let delta = delta(config, packing, NormSpec::rms(eps))?;
    let attends = attends(config)?.into_iter().enumerate();
    let layers = attends.map(|(i, attends)| LayerSpec {
        mixer: match attends {
            true => MixerSpec::Attention(attention),
            false => MixerSpec::Delta(delta),
        },
        mlp: mlp(i),
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
    let mut spec = block::decoder_only(config, family, context, stack, false)?;
    spec.n_drafting = block::gguf_drafting(config)?;
    Ok(spec)
}

/// The delta rule of layers that do not attend.
fn delta(
    config: &Config<'_>,
    packing: DeltaPacking,
    norm: NormSpec,
) -> Result<DeltaSpec, ArchError> {
    let count = |key, default| Ok::<_, ArchError>(config.opt_count(key)?.unwrap_or(default));
    let n_value_heads = count("linear_num_value_heads", 32)?;
    let value_dim = match config.opt_count(ALL_VALUES)? {
        Some(all) if all.is_multiple_of(n_value_heads) => all / n_value_heads,
        Some(_) => {
            let expected = format!("a multiple of the {n_value_heads} value heads");
            return config.bad_value(ALL_VALUES, &expected);
        }
        None => count("linear_value_head_dim", 128)?,
    };
    let spec = DeltaSpec {
        n_key_heads: count("linear_num_key_heads", 16)?,
        n_value_heads,
        order: ValueOrder::ByKeyHead,
        key_dim: count("linear_key_head_dim", 128)?,
        value_dim,
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

/// Key of a GGUF: features of all values.
const ALL_VALUES: &str = "ssm.inner_size";

/// Elements of the longest head whose states there are kernels for.
pub(super) const MAX_DIM: usize = 256;

/// True for each layer that attends: as `layer_types` says, or every so many.
fn attends(config: &Config<'_>) -> Result<Vec<bool>, ArchError> {
    let all_layers = config.n_layers("num_hidden_layers")?;
    let n_layers = all_layers
        .saturating_sub(block::gguf_drafting(config)?)
        .max(1);
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
