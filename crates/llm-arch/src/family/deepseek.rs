//! DeepSeek-V2 and V3, and models of their shape (Kimi K2, GLM-4.7-Flash): attention to latents, and experts beside shared ones.

use llm_tensor::{Activation, GroupRank, Pairing, Routing, Scoring};
use serde_json::{Map, Value, json};

use super::block::{self, SCORING, check_scoring, gated};
use super::glm4_moe::{
    ExpertDefaults, SHARED_NAMES, experts, fitting, groups, with_shared, written_experts,
};
use super::{Family, Gguf, GgufKeys, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary, score_growth};
use crate::skeleton::{Names, Naming, Role};
use crate::spec::{
    LatentSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec, NormSpec, Positions, StackSpec,
};

pub(super) static V2: Family = Family {
    model_types: &["deepseek_v2"],
    spec: v2,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 102_400),
    ],
    unread: Unread {
        any: TRAINING,
        off: &[
            ("mlp_bias", Off::False),
            ("moe_layer_freq", Off::One),
            ("scoring_func", Off::Word("softmax")),
        ],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: GGUF,
        keys: &[GGUF_KEYS, llama::GGUF_KEYS],
        flags: GGUF_FLAGS,
        naming: |_| &GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written(spec, "DeepseekV2ForCausalLM")?;
            let groups = written::some_experts(spec)?.routing.groups;
            let method = topk_method(groups.is_some());
            config.insert("topk_method".to_owned(), method.into());
            Ok(config)
        },
    }),
};

pub(super) static V3: Family = Family {
    model_types: &["deepseek_v3", "kimi_k2"],
    spec: v3,
    core: &[
        ("hidden_size", 7_168),
        ("intermediate_size", 18_432),
        ("num_hidden_layers", 61),
        ("num_attention_heads", 128),
        ("vocab_size", 129_280),
    ],
    unread: Unread {
        any: TRAINING,
        off: SIGMOIDS,
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: GGUF,
        keys: GGUF_V3_KEYS,
        flags: GGUF_FLAGS,
        naming: |_| &GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written(spec, "DeepseekV3ForCausalLM")?;
            let n_drafting = spec.n_drafting.into();
            config.insert("num_nextn_predict_layers".to_owned(), n_drafting);
            Ok(config)
        },
    }),
};

pub(super) static GLM4_LITE: Family = Family {
    model_types: &["glm4_moe_lite"],
    spec: glm4_lite,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 10_240),
        ("num_hidden_layers", 47),
        ("num_attention_heads", 20),
        ("vocab_size", 154_880),
    ],
    unread: Unread {
        any: TRAINING,
        off: &[
            // The list of layers says it.
            ("first_k_dense_replace", Off::One),
            ("moe_layer_freq", Off::One),
            ("partial_rotary_factor", Off::One),
            ("scoring_func", Off::Word("sigmoid")),
            ("topk_method", Off::Word("noaux_tc")),
        ],
    },
    naming: |_| &NAMING,
    gguf: None,
};

/// Losses that balance experts, and the machines that they were trained on.
pub(super) const TRAINING: &[&str] = &["aux_loss_alpha", "ep_size", "pretraining_tp", "seq_aux"];

const SIGMOIDS: &[(&str, Off)] = &[
    ("moe_layer_freq", Off::One),
    ("scoring_func", Off::Word("sigmoid")),
    ("topk_method", Off::Word("noaux_tc")),
];

pub(super) const LATENT_NAMES: Names = &[
    (Role::QDown, "self_attn.q_a_proj"),
    (Role::QLatentNorm, "self_attn.q_a_layernorm"),
    (Role::QUp, "self_attn.q_b_proj"),
    (Role::KvDown, "self_attn.kv_a_proj_with_mqa"),
    (Role::KvLatentNorm, "self_attn.kv_a_layernorm"),
    (Role::KvUp, "self_attn.kv_b_proj"),
];

pub(super) const NAMING: Naming = Naming {
    names: &[
        LATENT_NAMES,
        SHARED_NAMES,
        qwen::EXPERTS_NAMES,
        llama::NAMES,
    ],
    bare: &[Role::RouterCorrection],
    ..qwen::EXPERTS_NAMING
};

/// GGUF's name of all of them: their keys tell V3's sigmoids from V2's softmax.
pub(super) const GGUF: &str = "deepseek2";

/// And of models that select positions.
pub(super) const GGUF_SELECTING: [&str; 2] = ["deepseek32", "glm-dsa"];

/// True of all of them.
pub(super) fn is_gguf(architecture: &str) -> bool {
    architecture == GGUF || GGUF_SELECTING.contains(&architecture)
}

pub(super) const GGUF_V3_KEYS: &[GgufKeys] = &[
    &[
        // It tells them from V2's.
        (SCORING, SCORING),
        ("nextn_predict_layers", "num_nextn_predict_layers"),
        ("attention.indexer.head_count", "index_n_heads"),
        ("attention.indexer.key_length", "index_head_dim"),
        ("attention.indexer.top_k", "index_topk"),
    ],
    GGUF_KEYS,
    llama::GGUF_KEYS,
];

pub(super) const GGUF_KEYS: GgufKeys = &[
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("expert_count", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_weights_scale", "routed_scaling_factor"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("rope.dimension_count", ROPE_DIM),
];

const ROPE_DIM: &str = "qk_rope_head_dim";

pub(super) const GGUF_FLAGS: GgufKeys = &[
    ("attn_kv_a_mqa.bias", "attention_bias"),
    (KV_APART, KV_APART),
];

/// Tensor of a GGUF whose keys lie apart from values; in old ones they lie together.
pub(super) const KV_APART: &str = "attn_k_b.weight";

pub(super) const GGUF_LATENT_NAMES: Names = &[
    (Role::QDown, "attn_q_a"),
    (Role::QLatentNorm, "attn_q_a_norm"),
    (Role::QUp, "attn_q_b"),
    (Role::KvDown, "attn_kv_a_mqa"),
    (Role::KvLatentNorm, "attn_kv_a_norm"),
    (Role::KvUp, "attn_kv_b"),
    (Role::KeysUp, "attn_k_b"),
    (Role::ValuesUp, "attn_v_b"),
];

pub(super) const GGUF_NAMING: Naming = Naming {
    names: &[
        GGUF_LATENT_NAMES,
        &[
            (Role::IndexQ, "indexer.attn_q_b"),
            (Role::IndexK, "indexer.attn_k"),
            (Role::IndexKNorm, "indexer.k_norm"),
            (Role::IndexWeights, "indexer.proj"),
        ],
        llama::GGUF_EXPERTS_NAMES,
        llama::GGUF_NAMES,
    ],
    ..llama::GGUF_EXPERTS_NAMING
};

/// Gathers what a GGUF says otherwise: heads as they are where the converter has one of latents for all, and no word of what is
/// off, which defaults of configurations are not.
pub(super) fn gather(config: &mut Map<String, Value>, has_sigmoids: bool) {
    let number = |config: &Map<String, Value>, key: &str| config.get(key)?.as_u64();
    gather_heads(config);
    let n_drafting = number(config, "num_nextn_predict_layers").unwrap_or(0);
    if let Some(all) = number(config, "num_hidden_layers") {
        let n_layers = all.saturating_sub(n_drafting);
        config.insert("num_hidden_layers".to_owned(), n_layers.into());
    }
    let silent = json!({
        "q_lora_rank": null,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": false,
    });
    for (key, value) in silent.as_object().into_iter().flatten() {
        config.entry(key.clone()).or_insert(value.clone());
    }
    let (key, value) = match has_sigmoids {
        true => ("num_nextn_predict_layers", n_drafting.into()),
        false => {
            let has_groups = number(config, "n_group") > Some(1);
            ("topk_method", topk_method(has_groups).into())
        }
    };
    config.insert(key.to_owned(), value);
}

/// Gathers the extents of heads.
pub(super) fn gather_heads(config: &mut Map<String, Value>) {
    let turned = config.get(ROPE_DIM).and_then(Value::as_u64).unwrap_or(0);
    // Old files have a head's own elements under the first key, newer ones those of what is kept of a position.
    let extents = [
        ("attention.key_length", "qk_nope_head_dim", turned),
        ("attention.value_length", "v_head_dim", 0),
    ];
    for (key, name, beside) in extents {
        let own = config.shift_remove(&format!("{key}_mla"));
        let old = config.shift_remove(key);
        if let Some(extent) = own.or(old).and_then(|extent| extent.as_u64()) {
            config.insert(name.to_owned(), extent.saturating_sub(beside).into());
        }
    }
    config.insert("num_key_value_heads".to_owned(), Value::Null);
}

/// Why files with two matrices are not written.
pub(super) const TOGETHER: &str = "one matrix makes keys and values of latents there";

/// V2's word for how it chooses experts.
fn topk_method(has_groups: bool) -> &'static str {
    match has_groups {
        true => "group_limited_greedy",
        false => "greedy",
    }
}

/// Keys of both.
fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let (experts, rotary) = (written::some_experts(spec)?, written::rotary(spec)?);
    let Some(latent) = spec.decoder.latents().next() else {
        return written::none("it has no latents");
    };
    if latent.kv_apart {
        return written::none(TOGETHER);
    }
    let dense = |layer: &LayerSpec| match layer.mlp {
        MlpSpec::Dense(mlp) => Some(mlp.width),
        MlpSpec::Experts(_) | MlpSpec::Absent => None,
    };
    let width = spec.decoder.layers.iter().find_map(dense);
    let mut config = written::config(spec, architecture);
    let more = json!({
        "hidden_size": spec.hidden,
        // Of no layer where all have experts.
        "intermediate_size": width.unwrap_or(experts.width),
        "num_hidden_layers": spec.decoder.n_layers(),
        "num_attention_heads": latent.n_heads,
        "num_key_value_heads": latent.n_heads,
        "hidden_act": written::gate(&experts)?,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": written::shortest(spec.decoder.norm.eps),
        "attention_bias": latent.bias,
        "q_lora_rank": latent.q_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "rope_theta": rotary.base,
    });
    written::extend(&mut config, more);
    written::extend(&mut config, written_experts(spec, &experts)?);
    written::add_scaling(&mut config, rotary)?;
    Ok(config)
}

fn v2(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let n_experts = config
        .opt_count(config.spelling(&["n_routed_experts", "num_experts"])?)?
        .unwrap_or(64);
    // The reference has no default.
    let n_active = config.count("num_experts_per_tok")?;
    check_scoring(config, Scoring::Softmax)?;
    let routing = Routing::softmax(n_experts, config.n_active(n_experts, n_active)?);
    let open = groups(config, (n_experts, 1, 1), GroupRank::First);
    let routing = Routing {
        groups: match config.text("topk_method")? {
            None | Some("greedy") => None,
            Some("group_limited_greedy") => open?,
            Some(_) => return config.bad_value("topk_method", "greedy or group_limited_greedy"),
        },
        scale: config.opt_positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        ..routing
    };
    // DeepSeek's own code and transformers differ in what else it would mean, and no model has it.
    config.only("norm_topk_prob", false)?;
    let experts = with_shared(config, fitting(config, routing)?, false, (1_407, 2))?;
    let n_dense = config.whole("first_k_dense_replace")?.unwrap_or(0);
    let defaults = LatentDefaults {
        name: "deepseek_v2",
        context: 2_048,
        eps: 1e-6,
        n_kv_heads: None,
        q_rank: Some(1_536),
        nope_dim: 128,
        value_dim: 128,
        head_turns: true,
    };
    model(config, defaults, Pairing::Adjacent, experts, |i| {
        i < n_dense
    })
}

fn v3(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let experts = experts(config, V3_EXPERTS)?;
    let n_dense = config.whole("first_k_dense_replace")?.unwrap_or(3);
    let spec = model(config, V3_LATENT, pairing(config)?, experts, |i| {
        i < n_dense
    })?;
    drafting(config, spec)
}

/// Defaults of the V3's.
pub(super) const V3_EXPERTS: ExpertDefaults = ExpertDefaults {
    n_experts: 256,
    groups: (8, 4),
    n_active: 8,
    scale: 2.5,
    width: 2_048,
};
pub(super) const V3_LATENT: LatentDefaults = LatentDefaults {
    name: "deepseek_v3",
    context: 4_096,
    eps: 1e-6,
    n_kv_heads: Some(128),
    q_rank: Some(1_536),
    nope_dim: 128,
    value_dim: 128,
    head_turns: true,
};

fn glm4_lite(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let experts = experts(
        config,
        ExpertDefaults {
            n_experts: 64,
            groups: (1, 1),
            n_active: 4,
            scale: 1.8,
            width: 1_536,
        },
    )?;
    let n_layers = config.n_layers("num_hidden_layers")?;
    let sparse = config.kinds("mlp_layer_types", n_layers, ["dense", "sparse"])?;
    let sparse = sparse.unwrap_or_else(|| (0..n_layers).map(|i| i > 0).collect());
    let defaults = LatentDefaults {
        name: "glm4_moe_lite",
        context: 202_752,
        eps: 1e-5,
        n_kv_heads: Some(20),
        q_rank: Some(768),
        nope_dim: 192,
        value_dim: 256,
        head_turns: true,
    };
    let spec = model(config, defaults, pairing(config)?, experts, |i| !sparse[i])?;
    drafting(config, spec)
}

/// Defaults of a family, but for experts.
pub(super) struct LatentDefaults {
    pub(super) name: &'static str,
    pub(super) context: usize,
    /// Of the norms of the residual.
    pub(super) eps: f64,
    /// Heads of keys where nothing is said of them; else as many as of queries, which `null` always means.
    pub(super) n_kv_heads: Option<usize>,
    pub(super) q_rank: Option<usize>,
    pub(super) nope_dim: usize,
    pub(super) value_dim: usize,
    /// True if `head_dim` is that of what is turned; else nothing reads it.
    pub(super) head_turns: bool,
}

/// The model, with dense layers where `is_dense` says so.
pub(super) fn model(
    config: &Config<'_>,
    defaults: LatentDefaults,
    pairing: Pairing,
    experts: MlpSpec,
    is_dense: impl Fn(usize) -> bool,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, defaults.context)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(defaults.eps));
    let latent = latent(config, &defaults)?;
    let rope = RopeDefaults {
        pairing,
        ..RopeDefaults::new(latent.rope_dim, context)
    };
    let positions = Positions::Rotary(vec![rotary(config, rope)?]);
    let dense = gated(config, "hidden_act", Activation::Silu, false)?;
    let layer = |i| LayerSpec {
        mixer: MixerSpec::Latent(latent),
        mlp: if is_dense(i) { dense } else { experts },
    };
    let layers = (0..config.n_layers("num_hidden_layers")?).map(layer);
    let stack: StackSpec = block::sequential(layers.collect(), positions, norm);
    block::decoder_only(config, defaults.name, context, stack, false)
}

/// Heads and ranks of latent attention.
pub(super) fn latent(
    config: &Config<'_>,
    defaults: &LatentDefaults,
) -> Result<LatentSpec, ArchError> {
    let n_heads = config.count("num_attention_heads")?;
    let extent = |key, default| -> Result<usize, ArchError> {
        Ok(config.opt_count(key)?.unwrap_or(default))
    };
    let rope_dim = extent("qk_rope_head_dim", 64)?;
    let nope_dim = extent("qk_nope_head_dim", defaults.nope_dim)?;
    if !rope_dim.is_multiple_of(2) {
        return config.bad_value("qk_rope_head_dim", "an even number");
    }
    // Keys and values are made for each head, and the two others are what newer versions write beside these.
    let n_kv_heads = match config.mentions("num_key_value_heads") {
        true => config.opt_count("num_key_value_heads")?,
        false => defaults.n_kv_heads,
    };
    let same = [
        ("num_key_value_heads", n_kv_heads, n_heads),
        (
            "qk_head_dim",
            config.opt_count("qk_head_dim")?,
            nope_dim + rope_dim,
        ),
        (
            "head_dim",
            config
                .opt_count("head_dim")?
                .filter(|_| defaults.head_turns),
            rope_dim,
        ),
    ];
    for (key, given, expected) in same {
        if given.is_some_and(|given| given != expected) {
            return config.bad_value(key, &expected.to_string());
        }
    }
    let q_rank = match config.mentions("q_lora_rank") {
        true => config.opt_count("q_lora_rank")?,
        false => defaults.q_rank,
    };
    let plain = block::root_scale(nope_dim + rope_dim);
    Ok(LatentSpec {
        n_heads,
        q_rank,
        kv_rank: extent("kv_lora_rank", 512)?,
        nope_dim,
        rope_dim,
        value_dim: extent("v_head_dim", defaults.value_dim)?,
        bias: config.flag("attention_bias", false)?,
        // Whatever `rms_norm_eps` says.
        norm: NormSpec::rms(1e-6),
        scale: (f64::from(plain) * score_growth(config)?) as f32,
        rotary_idx: Some(0),
        index: None,
        kv_apart: config.flag(KV_APART, false)?,
    })
}

/// Elements that are turned together: neighbours, unless a checkpoint has its rows in another order.
fn pairing(config: &Config<'_>) -> Result<Pairing, ArchError> {
    Ok(match config.flag("rope_interleave", true)? {
        true => Pairing::Adjacent,
        false => Pairing::Halves,
    })
}

/// Tells of the layers that guess further tokens.
pub(super) fn drafting(config: &Config<'_>, mut spec: ModelSpec) -> Result<ModelSpec, ArchError> {
    let key = config.spelling(&["num_mtp_layers", "num_nextn_predict_layers"])?;
    spec.n_drafting = config.whole(key)?.unwrap_or(1);
    Ok(spec)
}
