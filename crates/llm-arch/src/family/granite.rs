//! Granite 3, dense and with experts: Llama with a multiplier at the embedding, at the scores, at each result and at the logits.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, GgufKeys, llama, mixtral, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Names, Naming, Role, StackRows};
use crate::spec::{
    AttentionSpec, DenseMlp, Gating, Join, MlpSpec, ModelSpec, NonLinearity, NormSpec, Positions,
    SharedSpec,
};

pub(super) static GRANITE: Family = Family {
    model_types: &["granite"],
    spec: dense,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "granite",
        keys: &[GGUF_KEYS, llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: llama::BIASES,
        naming: |_| &llama::GGUF_NAMING,
        adjust: llama::adjacent_pairs,
        config: |spec| {
            let attention = written::attention(spec)?;
            let mut config = written::like_llama(spec, "GraniteForCausalLM")?;
            // The multiplier of results is part of the others and of `rms_norm_eps`.
            let more = json!({
                "attention_bias": attention.qkv_bias,
                "mlp_bias": written::mlp(spec)?.bias,
                "attention_multiplier": written::shortest(attention.scale),
                "embedding_multiplier": written::shortest(spec.embedding.scale),
                "residual_multiplier": 1.0,
                "logits_scaling": 1.0 / f64::from(spec.head.scale),
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

pub(super) static GRANITE_MOE: Family = Family {
    model_types: &["granitemoe"],
    spec: |config| with_experts(config, "granitemoe", None),
    core: CORE,
    unread: OF_NONE,
    naming: |_| &EXPERTS_NAMING,
    gguf: Some(Gguf {
        architecture: "granitemoe",
        keys: &[
            GGUF_EXPERTS_KEYS,
            GGUF_KEYS,
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: llama::adjacent_pairs,
        config: |_| written::none("its experts lie in one matrix a layer there"),
    }),
};

pub(super) static GRANITE_MOE_SHARED: Family = Family {
    model_types: &["granitemoeshared"],
    spec: |config| {
        let width = config.whole("shared_intermediate_size")?;
        let shared = width.filter(|width| *width > 0).map(|width| {
            Ok::<_, ArchError>(SharedSpec {
                mlp: DenseMlp {
                    width,
                    activation: NonLinearity::Of(
                        config.activation("hidden_act", Activation::Silu)?,
                    ),
                    gating: Gating::Fused,
                    scales: None,
                    cut_off: None,
                    bias: false,
                },
                join: Join::Plain,
            })
        });
        with_experts(config, "granitemoeshared", shared.transpose()?)
    },
    core: CORE,
    unread: OF_NONE,
    naming: |_| &EXPERTS_NAMING,
    gguf: Some(Gguf {
        architecture: "granitemoe",
        keys: &[
            &[(
                "expert_shared_feed_forward_length",
                "shared_intermediate_size",
            )],
            GGUF_EXPERTS_KEYS,
            GGUF_KEYS,
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        // Its converter parts gate and up of the shared expert.
        adjust: |spec| {
            llama::adjacent_pairs(spec);
            for layer in &mut spec.decoder.layers {
                if let MlpSpec::Experts(experts) = &mut layer.mlp
                    && let Some(shared) = &mut experts.shared
                {
                    shared.mlp.gating = Gating::Separate;
                }
            }
        },
        config: |_| written::none("gate and up of its shared experts are one matrix there"),
    }),
};

/// GGUF's names of multipliers.
pub(super) const GGUF_KEYS: GgufKeys = &[
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
];

pub(super) const GGUF_EXPERTS_KEYS: GgufKeys = &[
    ("expert_count", "num_local_experts"),
    ("expert_used_count", "num_experts_per_tok"),
];

pub(super) const CORE: &[(&str, u64)] = &[
    ("hidden_size", 4_096),
    ("intermediate_size", 11_008),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 32),
    ("vocab_size", 32_000),
];

const EXPERTS_NAMING: Naming = Naming {
    names: &[EXPERTS_NAMES, llama::NAMES],
    elsewhere: STACKED_EXPERTS,
    ..llama::NAMING
};

/// Names of experts as llm-run writes them, and of what is beside them.
pub(super) const EXPERTS_NAMES: Names = &[
    (Role::Router, "block_sparse_moe.router.layer"),
    (Role::Gate, "block_sparse_moe.experts.{e}.gate_proj"),
    (Role::Up, "block_sparse_moe.experts.{e}.up_proj"),
    (Role::Down, "block_sparse_moe.experts.{e}.down_proj"),
    (Role::SharedGateUp, "shared_mlp.input_linear"),
    (Role::SharedDown, "shared_mlp.output_linear"),
];

/// Experts as they are published, and as transformers holds them since version 5 and saves them if asked to.
pub(super) const STACKED_EXPERTS: &[(Role, Elsewhere)] = &[
    (Role::Gate, Elsewhere::Stack(INPUT_LINEAR, StackRows::First)),
    (Role::Up, Elsewhere::Stack(INPUT_LINEAR, StackRows::Second)),
    (
        Role::Down,
        Elsewhere::Stack(
            "model.layers.{i}.block_sparse_moe.output_linear.weight",
            StackRows::All,
        ),
    ),
    (
        Role::Router,
        Elsewhere::Name("model.layers.{i}.block_sparse_moe.router.weight"),
    ),
    (
        Role::Gate,
        Elsewhere::Stack(STACKED_GATE_UP, StackRows::First),
    ),
    (
        Role::Up,
        Elsewhere::Stack(STACKED_GATE_UP, StackRows::Second),
    ),
    (
        Role::Down,
        Elsewhere::Stack(
            "model.layers.{i}.block_sparse_moe.experts.down_proj",
            StackRows::All,
        ),
    ),
];

const INPUT_LINEAR: &str = "model.layers.{i}.block_sparse_moe.input_linear.weight";
const STACKED_GATE_UP: &str = "model.layers.{i}.block_sparse_moe.experts.gate_up_proj";

fn dense(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let mlp_bias = config.flag("mlp_bias", false)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, mlp_bias)?;
    model(config, "granite", mlp)
}

fn with_experts(
    config: &Config<'_>,
    family: &'static str,
    shared: Option<SharedSpec>,
) -> Result<ModelSpec, ArchError> {
    let experts = mixtral::experts(config, shared)?;
    model(config, family, experts)
}

fn model(config: &Config<'_>, family: &'static str, mlp: MlpSpec) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        scale: multiplier(config, "attention_multiplier")? as f32,
        ..block::attention(config, HeadDefaults::default())?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let norm = residual_norm(config)?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    let mut spec = block::decoder_only(config, family, context, stack, false)?;
    multiply(config, &mut spec)?;
    Ok(spec)
}

/// A multiplier of that name.
pub(super) fn multiplier(config: &Config<'_>, key: &str) -> Result<f64, ArchError> {
    Ok(config.opt_positive(key)?.unwrap_or(1.0))
}

/// Norm of the residual, which is held divided by the multiplier of what is added to it. All that reads it normalises it
/// first, which a factor changes nothing about but for what is added under the root.
pub(super) fn residual_norm(config: &Config<'_>) -> Result<NormSpec, ArchError> {
    let of_results = multiplier(config, "residual_multiplier")?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6);
    Ok(NormSpec::rms(eps / (of_results * of_results)))
}

/// Multiplies what goes into the residual so held, and the logits.
pub(super) fn multiply(config: &Config<'_>, spec: &mut ModelSpec) -> Result<(), ArchError> {
    let of_results = multiplier(config, "residual_multiplier")?;
    let of_embeddings = multiplier(config, "embedding_multiplier")?;
    spec.embedding.scale = (of_embeddings / of_results) as f32;
    spec.head.scale = (1.0 / multiplier(config, "logits_scaling")?) as f32;
    Ok(())
}
