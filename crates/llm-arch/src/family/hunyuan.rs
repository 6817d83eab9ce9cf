//! HunYuan, dense and with experts: Llama whose queries and keys are normalised once they were turned.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Names, Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, MlpSpec, ModelSpec, NormOrder, NormSpec,
    Positions, QkNorm, SharedSpec,
};

pub(super) static DENSE: Family = Family {
    model_types: &["hunyuan_v1_dense"],
    spec: dense,
    core: CORE,
    unread: Unread {
        any: NOTES,
        off: &[
            ("norm_type", Off::Word("rms")),
            ("num_experts", Off::One),
            ("use_cla", Off::False),
            ("use_qk_norm", Off::True),
            ("use_rotary_pos_emb", Off::True),
        ],
    },
    naming: |_| &Naming {
        names: &[NORMS, llama::NAMES],
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: "hunyuan-dense",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| written(spec, "HunYuanDenseV1ForCausalLM"),
    }),
};

pub(super) static MOE: Family = Family {
    model_types: &["hunyuan_v1_moe"],
    spec: with_experts,
    core: CORE,
    unread: Unread {
        any: NOTES,
        off: &[
            ("group_limited_greedy", Off::False),
            ("moe_layer_num_skipped", Off::Zero),
            ("n_group", Off::False),
            ("norm_topk_prob", Off::True),
            ("norm_type", Off::Word("rms")),
            ("position_embedding_xdrope", Off::False),
            ("routed_scaling_factor", Off::False),
            ("routed_scaling_factor", Off::One),
            ("topk_group", Off::False),
            ("use_cla", Off::False),
            ("use_mixed_mlp_moe", Off::True),
            ("use_mla", Off::False),
            ("use_qk_norm", Off::True),
            ("use_rotary_pos_emb", Off::True),
        ],
    },
    naming: |_| &Naming {
        names: &[
            &[
                (Role::Router, "mlp.gate.wg"),
                (Role::SharedGate, "mlp.shared_mlp.gate_proj"),
                (Role::SharedUp, "mlp.shared_mlp.up_proj"),
                (Role::SharedDown, "mlp.shared_mlp.down_proj"),
            ],
            NORMS,
            qwen::EXPERTS_NAMES,
            llama::NAMES,
        ],
        ..qwen::EXPERTS_NAMING
    },
    gguf: Some(Gguf {
        architecture: "hunyuan-moe",
        keys: &[
            &[
                ("expert_count", "num_experts"),
                ("expert_used_count", "moe_topk"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
                ("expert_shared_feed_forward_length", SHARED_WIDTH),
                ("expert_shared_count", "num_shared_expert"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: |_| (),
        config: |spec| {
            let experts = written::some_experts(spec)?;
            let mut config = written(spec, "HunYuanMoEV1ForCausalLM")?;
            let more = json!({
                "num_experts": experts.routing.n_experts,
                "moe_topk": experts.routing.n_active,
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

const CORE: &[(&str, u64)] = &[
    ("hidden_size", 4_096),
    ("intermediate_size", 11_008),
    ("num_hidden_layers", 32),
    ("num_attention_heads", 32),
    ("vocab_size", 290_943),
];

const NORMS: Names = &[
    (Role::QNorm, "self_attn.query_layernorm"),
    (Role::KNorm, "self_attn.key_layernorm"),
];

/// Tokens, heads for pictures that these models have none of, training, and extents that the tables of tokens tell better.
const NOTES: &[&str] = &[
    "add_classification_head",
    "anyres_pooling_size",
    "anyres_vit_max_image_size",
    "anyres_vit_two_views",
    "capacity_factor",
    "cla_share_factor",
    "class_num",
    "dense_list",
    "enable_lm_head_fp32",
    "eod_token_id",
    "expert_hidden_dim",
    "im_end_id",
    "im_newline_id",
    "im_start_id",
    "mask_init_id",
    "max_position_embeddings_original",
    "moe_drop_tokens",
    "moe_random_routing_dropped_token",
    "org_vocab_size",
    "pad_id",
    "pool_type",
    "skip_cls_token",
    "text_end_id",
    "text_start_id",
    "video_end_id",
    "video_start_id",
];

/// Only GGUF gives it.
const SHARED_WIDTH: &str = "shared_intermediate_size";

fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let mut config = written::like_llama(spec, architecture)?;
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn dense(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    model(config, "hunyuan_v1_dense", mlp)
}

fn with_experts(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let n_layers = config.n_layers("num_hidden_layers")?;
    let n_experts = config
        .opt_count(config.spelling(&["num_local_experts", "num_experts"])?)?
        .unwrap_or(1);
    let n_active = n_active(config, n_layers, n_experts)?;
    let width = config.count("intermediate_size")?;
    let all_are = |key: &'static str, only: usize| {
        let given = match config.list(key, n_layers)? {
            Some(list) => list,
            None => config.opt_count(key)?.into_iter().collect(),
        };
        match given.iter().all(|n| *n == only) {
            true => Ok(()),
            false => config.bad_value(key, &only.to_string()),
        }
    };
    // The reference makes all experts of one width, and one for all tokens.
    all_are("moe_intermediate_size", width)?;
    all_are(SHARED_WIDTH, width)?;
    all_are("num_shared_expert", 1)?;
    let activation = config.activation("hidden_act", Activation::Silu)?;
    let shared = SharedSpec {
        mlp: DenseMlp {
            width,
            activation: activation.into(),
            gating: Gating::Separate,
            scales: None,
            cut_off: None,
            bias: false,
        },
        join: Join::Plain,
    };
    let experts = MlpSpec::Experts(ExpertsSpec {
        shared: Some(shared),
        ..ExpertsSpec::plain(
            Routing {
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, n_active)
            },
            width,
            Gate::Of(activation),
        )
    });
    model(config, "hunyuan_v1_moe", experts)
}

/// Active experts per token: a number for each layer, or one for all. Those of all layers are chosen into the same rows.
fn n_active(config: &Config<'_>, n_layers: usize, n_experts: usize) -> Result<usize, ArchError> {
    let key = config.spelling(&["num_experts_per_tok", "moe_topk"])?;
    let n_active = match config.list(key, n_layers)? {
        Some(list) => list.iter().all(|n| *n == list[0]).then(|| list[0]),
        None => Some(config.opt_count(key)?.unwrap_or(1)),
    };
    match n_active {
        Some(n_active) if (1..=n_experts).contains(&n_active) => Ok(n_active),
        _ => config.bad_value(
            key,
            &format!("one number up to the {n_experts} experts, for all layers the same"),
        ),
    }
}

fn model(config: &Config<'_>, family: &'static str, mlp: MlpSpec) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let bias = config.flag("attention_bias", false)?;
    let qk_norm = norm.of_heads().map(|norm| QkNorm {
        order: NormOrder::AfterPositions,
        ..norm
    });
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm,
        ..block::attention(config, HeadDefaults::default())?
    };
    if config
        .opt_count("attention_head_dim")?
        .is_some_and(|dim| dim != attention.head_dim)
    {
        return config.bad_value("attention_head_dim", &attention.head_dim.to_string());
    }
    let rotary = rotary(
        config,
        RopeDefaults {
            has_alpha: true,
            ..RopeDefaults::new(attention.head_dim, context)
        },
    )?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, family, context, stack, false)
}
