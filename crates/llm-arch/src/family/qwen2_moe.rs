//! Qwen1.5 and Qwen2 with experts: Qwen2, and beside the chosen experts one for all tokens, whose result each token weighs.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::{Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, GgufKeys, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::skeleton::{Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, MlpSpec, ModelSpec, SharedSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["qwen2_moe"],
    spec,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 5_632),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
        ("vocab_size", 151_936),
    ],
    unread: Unread {
        any: &[],
        off: &[("use_qkv_bias", Off::True)],
    },
    naming: |_| &Naming {
        names: &[SHARED_NAMES, qwen::EXPERTS_NAMES, llama::NAMES],
        ..qwen::EXPERTS_NAMING
    },
    gguf: Some(Gguf {
        architecture: "qwen2moe",
        keys: &[GGUF_KEYS, llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[("attn_q.bias", "qkv_bias")],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        // llama.cpp does not ask (src/models/qwen2moe.cpp).
        adjust: |spec| block::set_weighting(spec, Weighting::Probability),
        config: |spec| {
            let mut config = qwen::written(spec, "Qwen2MoeForCausalLM")?;
            written::extend(&mut config, written_experts(spec)?);
            let bias = written::attention(spec)?.qkv_bias;
            config.insert("qkv_bias".to_owned(), bias.into());
            Ok(config)
        },
    }),
};

/// Names of an expert for all tokens.
pub(super) const SHARED_NAMES: crate::skeleton::Names = &[
    (Role::SharedScore, "mlp.shared_expert_gate"),
    (Role::SharedGate, "mlp.shared_expert.gate_proj"),
    (Role::SharedUp, "mlp.shared_expert.up_proj"),
    (Role::SharedDown, "mlp.shared_expert.down_proj"),
];

/// GGUF's names of keys.
pub(super) const GGUF_KEYS: GgufKeys = &[
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    (
        "expert_shared_feed_forward_length",
        "shared_expert_intermediate_size",
    ),
];

/// Keys of experts in a written configuration.
fn written_experts(spec: &ModelSpec) -> Result<Value, ArchError> {
    let experts = written::some_experts(spec)?;
    let Some(shared) = experts.shared else {
        return written::none("it has no expert for all tokens");
    };
    Ok(json!({
        "num_experts": experts.routing.n_experts,
        "num_experts_per_tok": experts.routing.n_active,
        "moe_intermediate_size": experts.width,
        "shared_expert_intermediate_size": shared.mlp.width,
        "norm_topk_prob": experts.routing.weighting == Weighting::Normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }))
}

/// Experts where a configuration is silent of them.
pub(super) struct ExpertDefaults {
    pub(super) n_experts: usize,
    pub(super) n_active: usize,
    pub(super) width: usize,
    pub(super) shared_width: usize,
    /// Weights of the chosen ones, by whatever the family reads of that.
    pub(super) weighting: Weighting,
}

/// Experts that a softmax chooses, and one for all tokens, whose result each token weighs.
pub(super) fn experts(config: &Config<'_>, defaults: ExpertDefaults) -> Result<MlpSpec, ArchError> {
    let activation = config.activation("hidden_act", Activation::Silu)?;
    let count = |key, default| Ok::<_, ArchError>(config.opt_count(key)?.unwrap_or(default));
    let key = config.spelling(&["num_local_experts", "num_experts"])?;
    let n_experts = count(key, defaults.n_experts)?;
    Ok(MlpSpec::Experts(ExpertsSpec {
        shared: Some(SharedSpec {
            mlp: DenseMlp {
                width: count("shared_expert_intermediate_size", defaults.shared_width)?,
                activation: activation.into(),
                gating: Gating::Separate,
                scales: None,
                cut_off: None,
                bias: false,
            },
            join: Join::Gated,
        }),
        ..ExpertsSpec::plain(
            Routing {
                weighting: defaults.weighting,
                ..Routing::softmax(n_experts, config.n_active(n_experts, defaults.n_active)?)
            },
            count("moe_intermediate_size", defaults.width)?,
            Gate::Of(activation),
        )
    }))
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let heads = HeadDefaults {
        n_kv_heads: Some(16),
        ..HeadDefaults::default()
    };
    let attention = AttentionSpec {
        qkv_bias: config.flag("qkv_bias", true)?,
        ..block::attention(config, heads)?
    };
    let experts = experts(
        config,
        ExpertDefaults {
            n_experts: 60,
            n_active: 4,
            width: 1_408,
            shared_width: 5_632,
            weighting: block::weighting(config, "norm_topk_prob", false)?,
        },
    )?;
    let dense = gated(config, "hidden_act", Activation::Silu, false)?;
    let is_dense = qwen::dense_layers(config)?;
    qwen::model(config, "qwen2_moe", attention, |i| match is_dense(i) {
        true => dense,
        false => experts,
    })
}
