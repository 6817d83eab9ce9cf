//! Kimi Linear: a delta rule whose channels decay by themselves, and latent attention without positions in some layers.

use llm_tensor::{Activation, MAX_TAPS, Weighting};
use serde_json::{Map, Value};

use super::block::{self, gated};
use super::deepseek::{self, LATENT_NAMES, LatentDefaults, latent};
use super::glm4_moe::{ExpertDefaults, experts};
use super::qwen3_5::MAX_DIM;
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::skeleton::{Elsewhere, Naming, Role, Stored};
use crate::spec::{
    DeltaPacking, DeltaSpec, LatentSpec, LayerSpec, MixerSpec, ModelSpec, NormSpec, Positions,
    ValueOrder,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["kimi_linear"],
    spec,
    core: &[
        ("hidden_size", 2_304),
        ("intermediate_size", 9_216),
        ("num_hidden_layers", 27),
        ("num_attention_heads", 32),
        ("vocab_size", 163_840),
    ],
    unread: Unread {
        any: &[
            // Nothing is turned.
            "head_dim",
            "rope_scaling",
            "rope_theta",
            "pretraining_tp",
        ],
        off: &[
            ("mla_use_nope", Off::True),
            ("moe_layer_freq", Off::One),
            ("moe_router_activation_func", Off::Word("sigmoid")),
            // Transformers does not read it, the code beside the published files does.
            ("use_grouped_topk", Off::True),
        ],
    },
    naming: |_| &Naming {
        names: &[
            LATENT_NAMES,
            &[
                (Role::QTaps, "self_attn.q_conv1d"),
                (Role::KTaps, "self_attn.k_conv1d"),
                (Role::VTaps, "self_attn.v_conv1d"),
                (Role::DeltaStrength, "self_attn.b_proj"),
                (Role::DeltaGateDown, "self_attn.g_a_proj"),
                (Role::DeltaGateUp, "self_attn.g_b_proj"),
                (Role::DeltaDecayDown, "self_attn.f_a_proj"),
                (Role::DeltaDecayUp, "self_attn.f_b_proj"),
                (Role::DeltaRate, "self_attn.A_log"),
                (Role::DeltaOffset, "self_attn.dt_bias"),
                (Role::DeltaNorm, "self_attn.o_norm"),
                (Role::DeltaOut, "self_attn.o_proj"),
                (Role::Router, "block_sparse_moe.gate"),
                (
                    Role::RouterCorrection,
                    "block_sparse_moe.gate.e_score_correction_bias",
                ),
                (Role::Gate, "block_sparse_moe.experts.{e}.w1"),
                (Role::Up, "block_sparse_moe.experts.{e}.w3"),
                (Role::Down, "block_sparse_moe.experts.{e}.w2"),
                (
                    Role::SharedGate,
                    "block_sparse_moe.shared_experts.gate_proj",
                ),
                (Role::SharedUp, "block_sparse_moe.shared_experts.up_proj"),
                (
                    Role::SharedDown,
                    "block_sparse_moe.shared_experts.down_proj",
                ),
            ],
            llama::NAMES,
        ],
        bare: &[Role::RouterCorrection, Role::DeltaRate, Role::DeltaOffset],
        rates: Stored::Channel,
        // As transformers 5.24 saves dense layers, which are no experts.
        elsewhere: &[
            (
                Role::Gate,
                Elsewhere::Name("model.layers.{i}.block_sparse_moe.gate_proj.weight"),
            ),
            (
                Role::Up,
                Elsewhere::Name("model.layers.{i}.block_sparse_moe.up_proj.weight"),
            ),
            (
                Role::Down,
                Elsewhere::Name("model.layers.{i}.block_sparse_moe.down_proj.weight"),
            ),
        ],
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: GGUF,
        keys: &[
            &[
                ("kda.head_dim", "linear_head_dim"),
                ("ssm.conv_kernel", "linear_conv_kernel_dim"),
                // Of no meaning where nothing is turned, but an extent.
                ("rope.dimension_count", "qk_rope_head_dim"),
            ],
            deepseek::GGUF_KEYS,
            llama::GGUF_KEYS,
        ],
        flags: &[],
        naming: |_| &Naming {
            names: &[
                &[
                    (Role::QTaps, "ssm_conv1d_q"),
                    (Role::KTaps, "ssm_conv1d_k"),
                    (Role::VTaps, "ssm_conv1d_v"),
                    (Role::DeltaStrength, "ssm_beta"),
                    (Role::DeltaGateDown, "ssm_g_a"),
                    (Role::DeltaGateUp, "ssm_g_b"),
                    (Role::DeltaDecayDown, "ssm_f_a"),
                    (Role::DeltaDecayUp, "ssm_f_b"),
                    (Role::DeltaRate, "ssm_a"),
                    (Role::DeltaOffset, "ssm_dt.bias"),
                    (Role::DeltaNorm, "ssm_norm"),
                    (Role::DeltaOut, "attn_output"),
                ],
                deepseek::GGUF_LATENT_NAMES,
                llama::GGUF_EXPERTS_NAMES,
                llama::GGUF_NAMES,
            ],
            bare: &[Role::RouterCorrection, Role::DeltaRate, Role::DeltaOffset],
            rates: Stored::NegatedExpColumn,
            ..llama::GGUF_EXPERTS_NAMING
        },
        // llama.cpp does not ask.
        adjust: |spec| block::set_weighting(spec, Weighting::Normalised),
        config: |_| written::none(deepseek::TOGETHER),
    }),
};

/// GGUF's name of the family.
pub(super) const GGUF: &str = "kimi-linear";

/// Gathers what a GGUF says otherwise: which layers attend by how many heads of keys they have, and the heads of its delta rules,
/// of which it has no word, as those of attention.
pub(super) fn gather(config: &mut Map<String, Value>, has_tensor: impl Fn(&str) -> bool) {
    let attends = block::gguf_attends(config);
    let first = attends.iter().position(|&attends| attends);
    let apart = first.is_some_and(|i| has_tensor(&format!("blk.{i}.{}", deepseek::KV_APART)));
    config.insert(deepseek::KV_APART.to_owned(), apart.into());
    let word = |&attends: &bool| WORDS[usize::from(attends)];
    let words: Vec<_> = attends.iter().map(word).collect();
    config.insert("layer_types".to_owned(), words.into());
    let of_rules = config.get("num_attention_heads").cloned();
    config.extend(of_rules.map(|heads| ("linear_num_heads".to_owned(), heads)));
    deepseek::gather_heads(config);
    // Where nothing is said of them there are none.
    config.entry("q_lora_rank").or_insert(Value::Null);
    config.entry("first_k_dense_replace").or_insert(0.into());
}

/// Kinds of layers: those that attend are of the second.
const WORDS: [&str; 2] = ["linear_attention", "full_attention"];

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let key = config.spelling(&["model_max_length", "max_position_embeddings"])?;
    let context = config.opt_count(key)?.unwrap_or(1 << 20);
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let defaults = LatentDefaults {
        name: "kimi_linear",
        context,
        eps: 1e-5,
        n_kv_heads: Some(32),
        q_rank: None,
        nope_dim: 128,
        value_dim: 128,
        head_turns: false,
    };
    let latent = LatentSpec {
        rotary_idx: None,
        ..latent(config, &defaults)?
    };
    let n_layers = config.n_layers("num_hidden_layers")?;
    let inner = config.object("linear_attn_config")?;
    let attends = attends(config, inner.as_ref(), n_layers)?;
    let delta = delta(config, inner.as_ref(), norm)?;
    if let Some(inner) = &inner {
        inner.finish(&Unread { any: &[], off: &[] });
    }
    let sparse = config.kinds("mlp_layer_types", n_layers, ["dense", "sparse"])?;
    let n_dense = config.whole("first_k_dense_replace")?.unwrap_or(1);
    let sparse = sparse.unwrap_or_else(|| (0..n_layers).map(|i| i >= n_dense).collect());
    let experts = experts(
        config,
        ExpertDefaults {
            n_experts: 256,
            groups: (1, 1),
            n_active: 8,
            scale: 2.446,
            width: 1_024,
        },
    )?;
    let dense = gated(config, "hidden_act", Activation::Silu, false)?;
    let layer = |i: usize| LayerSpec {
        mixer: match attends[i] {
            true => MixerSpec::Latent(latent),
            false => MixerSpec::Delta(delta),
        },
        mlp: if sparse[i] { experts } else { dense },
    };
    let layers = (0..n_layers).map(layer).collect();
    let stack = block::sequential(layers, Positions::Rotary(Vec::new()), norm);
    let mut spec = block::decoder_only(config, "kimi_linear", context, stack, false)?;
    spec.n_drafting = config.whole("num_nextn_predict_layers")?.unwrap_or(0);
    Ok(spec)
}

/// True for each layer that attends: by two lists of numbers from one, by words, or every fourth but the first.
fn attends(
    config: &Config<'_>,
    inner: Option<&Config<'_>>,
    n_layers: usize,
) -> Result<Vec<bool>, ArchError> {
    let listed = config.kinds("layer_types", n_layers, WORDS)?;
    let by_number = match inner {
        Some(inner) if inner.has("full_attn_layers") && inner.has("kda_layers") => {
            let [full, linear] = ["full_attn_layers", "kda_layers"]
                .map(|key| inner.layers(key, n_layers + 1).map(|layers| (key, layers)));
            let ((key, full), (_, linear)) = (full?, linear?);
            let attends = (1..=n_layers).map(|i| full.contains(&i));
            let attends: Vec<_> = attends.collect();
            let is_other = |i: usize| linear.contains(&i) != attends[i - 1];
            if !(1..=n_layers).all(is_other) {
                return inner.bad_value(key, "the layers from 1 on that are not in kda_layers");
            }
            Some(attends)
        }
        _ => None,
    };
    Ok(listed
        .or(by_number)
        .unwrap_or_else(|| (0..n_layers).map(|i| i > 0 && i % 4 == 0).collect()))
}

/// The delta rule, whose sizes an object of their own has in published files, and which have keys of their own in saved ones.
fn delta(
    config: &Config<'_>,
    inner: Option<&Config<'_>>,
    norm: NormSpec,
) -> Result<DeltaSpec, ArchError> {
    let count = |inside: &str, key: &'static str, default| {
        let own = config.opt_count(key)?;
        let inside = inner.map(|inner| inner.opt_count(inside)).transpose()?;
        // What the object says counts, as in transformers.
        Ok::<_, ArchError>(inside.flatten().or(own).unwrap_or(default))
    };
    let head_dim = count("head_dim", "linear_head_dim", 128)?;
    let n_heads = count("num_heads", "linear_num_heads", 32)?;
    let kernel = count("short_conv_kernel_size", "linear_conv_kernel_dim", 4)?;
    if head_dim > MAX_DIM {
        let expected = format!("heads of at most {MAX_DIM} elements");
        return config.bad_value("linear_head_dim", &expected);
    }
    if !(2..=MAX_TAPS).contains(&kernel) {
        let expected = format!("2 to {MAX_TAPS} positions");
        return config.bad_value("linear_conv_kernel_dim", &expected);
    }
    Ok(DeltaSpec {
        n_key_heads: n_heads,
        n_value_heads: n_heads,
        order: ValueOrder::ByKeyHead,
        key_dim: head_dim,
        value_dim: head_dim,
        kernel,
        activation: config.activation("hidden_act", Activation::Silu)?,
        packing: DeltaPacking::Channels { rank: head_dim },
        norm,
    })
}
