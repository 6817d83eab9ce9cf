//! GLM-4.5 to 4.7 with experts: half of each head turned, experts chosen by corrected sigmoids within groups, dense first layers.

use llm_tensor::{Activation, ExpertGroups, Gate, GroupRank, Routing, Scoring, Weighting};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Names, Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, MlpSpec, ModelSpec, NormSpec, Positions,
    SharedSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["glm4_moe"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 10_944),
        ("num_hidden_layers", 46),
        ("num_attention_heads", 96),
        ("vocab_size", 151_552),
    ],
    unread: OF_NONE,
    naming: |_| &Naming {
        names: &[SHARED_NAMES, qwen::EXPERTS_NAMES, llama::NAMES],
        bare: &[Role::RouterCorrection],
        ..qwen::EXPERTS_NAMING
    },
    gguf: Some(Gguf {
        architecture: "glm4moe",
        keys: &[
            &[
                // Layers that guess tokens included.
                ("block_count", ALL_LAYERS),
                ("nextn_predict_layers", "num_nextn_predict_layers"),
                ("leading_dense_block_count", "first_k_dense_replace"),
                ("expert_count", "n_routed_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_shared_count", "n_shared_experts"),
                ("expert_group_count", "n_group"),
                ("expert_group_used_count", "topk_group"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
                ("expert_weights_scale", "routed_scaling_factor"),
                ("expert_weights_norm", "norm_topk_prob"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[
            ("attn_q.bias", "attention_bias"),
            ("attn_q_norm.weight", "use_qk_norm"),
        ],
        naming: |_| &Naming {
            names: &[
                llama::POST_NORM,
                llama::GGUF_EXPERTS_NAMES,
                llama::GGUF_NAMES,
            ],
            ..llama::GGUF_EXPERTS_NAMING
        },
        adjust: |_| (),
        config: written,
    }),
};

/// Names of experts for all tokens, which lie side by side in one, and of a router's correction, since DeepSeek-V3.
pub(super) const SHARED_NAMES: Names = &[
    (Role::RouterCorrection, "mlp.gate.e_score_correction_bias"),
    (Role::SharedGate, "mlp.shared_experts.gate_proj"),
    (Role::SharedUp, "mlp.shared_experts.up_proj"),
    (Role::SharedDown, "mlp.shared_experts.down_proj"),
];

/// Key of a GGUF.
const ALL_LAYERS: &str = "block_count";

fn written(spec: &ModelSpec) -> Result<Map<String, Value>, ArchError> {
    let (attention, experts) = (written::attention(spec)?, written::some_experts(spec)?);
    let mut config = written::like_llama(spec, "Glm4MoeForCausalLM")?;
    written::add_partial_rope(&mut config, spec)?;
    let more = json!({
        "attention_bias": attention.qkv_bias,
        "use_qk_norm": attention.qk_norm.is_some(),
        "num_nextn_predict_layers": spec.n_drafting,
    });
    written::extend(&mut config, more);
    written::extend(&mut config, written_experts(spec, &experts)?);
    Ok(config)
}

/// Keys of the choice of experts behind dense first layers, which DeepSeek has alike.
pub(super) fn written_experts(spec: &ModelSpec, experts: &ExpertsSpec) -> Result<Value, ArchError> {
    let layers = spec.decoder.layers.iter();
    let n_dense = layers.take_while(|layer| layer.mlp.experts().is_none());
    let groups = experts.routing.groups;
    Ok(json!({
        "first_k_dense_replace": n_dense.count(),
        "moe_intermediate_size": experts.width,
        "n_routed_experts": experts.routing.n_experts,
        "n_shared_experts": written::n_shared(experts)?,
        "num_experts_per_tok": experts.routing.n_active,
        "n_group": groups.map_or(1, |groups| groups.n_groups),
        "topk_group": groups.map_or(1, |groups| groups.n_active),
        "norm_topk_prob": experts.routing.weighting == Weighting::Normalised,
        "routed_scaling_factor": written::shortest(experts.routing.scale),
    }))
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let heads = HeadDefaults {
        n_kv_heads: Some(8),
        ..HeadDefaults::default()
    };
    let normed = config.flag("use_qk_norm", false)?;
    let attention = AttentionSpec {
        qkv_bias: config.flag("attention_bias", false)?,
        qk_norm: norm.of_heads().filter(|_| normed),
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.5),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let experts = experts(
        config,
        ExpertDefaults {
            n_experts: 128,
            groups: (1, 1),
            n_active: 8,
            scale: 1.0,
            width: 1_408,
        },
    )?;
    let dense = gated(config, "hidden_act", Activation::Silu, false)?;
    let n_dense = config.whole("first_k_dense_replace")?.unwrap_or(1);
    let all_layers = config.opt_count(ALL_LAYERS)?;
    // A GGUF that says nothing of them has none.
    let n_drafting = config.whole("num_nextn_predict_layers")?;
    let n_drafting = n_drafting.unwrap_or(usize::from(all_layers.is_none()));
    let n_layers = match all_layers.and_then(|all| all.checked_sub(n_drafting)) {
        Some(n_layers) => n_layers,
        None => config.n_layers("num_hidden_layers")?,
    };
    let mlp = |i| if i < n_dense { dense } else { experts };
    let layers = (0..n_layers).map(|i| block::attending(attention, mlp(i)));
    let positions = Positions::Rotary(vec![rotary]);
    let stack = block::sequential(layers.collect(), positions, norm);
    let mut spec = block::decoder_only(config, "glm4_moe", context, stack, false)?;
    spec.n_drafting = n_drafting;
    Ok(spec)
}

/// Defaults of the experts of a family.
pub(super) struct ExpertDefaults {
    pub(super) n_experts: usize,
    /// Groups, and how many are open to a token.
    pub(super) groups: (usize, usize),
    pub(super) n_active: usize,
    /// Multiplies weights.
    pub(super) scale: f64,
    /// Features of an expert.
    pub(super) width: usize,
}

/// Experts chosen by corrected sigmoids within groups, as DeepSeek-V3 has them, and those beside them for all tokens.
pub(super) fn experts(config: &Config<'_>, defaults: ExpertDefaults) -> Result<MlpSpec, ArchError> {
    let n_experts = config
        .opt_count(config.spelling(&["num_experts", "n_routed_experts", "num_local_experts"])?)?
        .unwrap_or(defaults.n_experts);
    let (n_groups, n_open) = defaults.groups;
    let scale = config.opt_positive("routed_scaling_factor")?;
    let routing = Routing {
        groups: groups(config, (n_experts, n_groups, n_open), GroupRank::FirstTwo)?,
        weighting: {
            let key = config.spelling(&["moe_renormalize", "norm_topk_prob"])?;
            block::weighting(config, key, true)?
        },
        eps: 1e-20,
        scale: scale.unwrap_or(defaults.scale) as f32,
        ..Routing::sigmoid(n_experts, config.n_active(n_experts, defaults.n_active)?)
    };
    block::check_scoring(config, Scoring::Sigmoid)?;
    let routing = fitting(config, routing)?;
    with_shared(config, routing, true, (defaults.width, 1))
}

/// Experts of a router, by default of `width`, with `n_shared` as wide for all tokens, which lie side by side in one.
pub(super) fn with_shared(
    config: &Config<'_>,
    routing: Routing,
    correction: bool,
    (width, n_shared): (usize, usize),
) -> Result<MlpSpec, ArchError> {
    let activation = config.activation("hidden_act", Activation::Silu)?;
    let width = config.opt_count("moe_intermediate_size")?.unwrap_or(width);
    let n_shared = {
        let key = config.spelling(&["num_shared_experts", "n_shared_experts"])?;
        config.opt_count(key)?.unwrap_or(n_shared)
    };
    Ok(MlpSpec::Experts(ExpertsSpec {
        correction,
        shared: Some(SharedSpec {
            mlp: DenseMlp {
                width: n_shared * width,
                activation: activation.into(),
                gating: Gating::Separate,
                scales: None,
                cut_off: None,
                bias: false,
            },
            join: Join::Plain,
        }),
        ..ExpertsSpec::plain(routing, width, Gate::Of(activation))
    }))
}

/// Groups of `n_experts`, by the keys of DeepSeek, whose defaults follow.
pub(super) fn groups(
    config: &Config<'_>,
    (n_experts, n_groups, n_active): (usize, usize, usize),
    rank: GroupRank,
) -> Result<Option<ExpertGroups>, ArchError> {
    let key = config.spelling(&["num_expert_group", "n_group"])?;
    let n_groups = config.opt_count(key)?.unwrap_or(n_groups);
    let n_active = config.opt_count("topk_group")?.unwrap_or(n_active);
    let least = match rank {
        GroupRank::First => 1,
        GroupRank::FirstTwo => 2,
    };
    let is_whole = n_experts.is_multiple_of(n_groups) && n_experts / n_groups >= least;
    if !is_whole || n_groups > ExpertGroups::MOST {
        let most = ExpertGroups::MOST;
        let expected = format!(
            "a divisor of the {n_experts} experts up to {most}, with {least} or more a group"
        );
        return config.bad_value(key, &expected);
    }
    if n_active > n_groups {
        return config.bad_value(
            "topk_group",
            &format!("a number up to the {n_groups} groups"),
        );
    }
    let groups = ExpertGroups {
        n_groups,
        n_active,
        rank,
    };
    Ok(Some(groups).filter(|_| n_active < n_groups))
}

/// The same choice, if the groups that are open have experts enough.
pub(super) fn fitting(config: &Config<'_>, routing: Routing) -> Result<Routing, ArchError> {
    let open = routing.groups.map_or(routing.n_experts, |groups| {
        routing.n_experts / groups.n_groups * groups.n_active
    });
    match routing.n_active <= open {
        true => Ok(routing),
        false => config.bad_value(
            "num_experts_per_tok",
            &format!("a number up to the {open} experts of the groups that are chosen"),
        ),
    }
}
