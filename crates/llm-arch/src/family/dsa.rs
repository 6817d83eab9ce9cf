//! DeepSeek-V3.2 and GLM-5: latent attention to the positions that heads of their own select (DeepSeek Sparse Attention).

use llm_tensor::Pairing;
use serde_json::{Map, Value, json};

use super::deepseek::{
    self, GGUF_FLAGS, GGUF_NAMING, GGUF_SELECTING, GGUF_V3_KEYS, LATENT_NAMES, LatentDefaults,
    TOGETHER, TRAINING, V3_EXPERTS, V3_LATENT, drafting, model,
};
use super::glm4_moe::{ExpertDefaults, SHARED_NAMES, experts};
use super::{Family, Gguf, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::skeleton::{Naming, Role};
use crate::spec::{IndexHeads, IndexSpec, MixerSpec, ModelSpec, NormSpec};

pub(super) static DEEPSEEK: Family = Family {
    model_types: &["deepseek_v32"],
    spec: deepseek,
    core: &[
        ("hidden_size", 7_168),
        ("intermediate_size", 18_432),
        ("num_hidden_layers", 61),
        ("num_attention_heads", 128),
        ("vocab_size", 129_280),
    ],
    unread: Unread {
        any: TRAINING,
        off: &off(Off::False),
    },
    naming: |_| &NAMING,
    gguf: Some(gguf(GGUF_SELECTING[0])),
};

pub(super) static GLM: Family = Family {
    model_types: &["glm_moe_dsa"],
    spec: glm,
    core: &[
        ("hidden_size", 6_144),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 78),
        ("num_attention_heads", 64),
        ("vocab_size", 154_880),
    ],
    unread: Unread {
        any: &[
            "aux_loss_alpha",
            "ep_size",
            // Of layers that guess tokens.
            "index_share_for_mtp_iteration",
            "pretraining_tp",
            "seq_aux",
        ],
        off: &off(Off::True),
    },
    naming: |_| &NAMING,
    gguf: Some(gguf(GGUF_SELECTING[1])),
};

const fn gguf(architecture: &'static str) -> Gguf {
    Gguf {
        architecture,
        keys: GGUF_V3_KEYS,
        flags: GGUF_FLAGS,
        naming: |_| &GGUF_NAMING,
        adjust: |_| (),
        config: |_| written::none(TOGETHER),
    }
}

/// Gathers which layers select: a GGUF has a flag for each where `config.json` has a word. GLM-5.2's first files have none, and its
/// context.
pub(super) fn gather(config: &mut Map<String, Value>) {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let n_layers = number("num_hidden_layers").unwrap_or(0) as usize;
    let context = number("max_position_embeddings").unwrap_or(0);
    let more = match config.shift_remove("attention.indexer.types") {
        Some(Value::Array(flags)) => {
            let selects = |flag: &Value| flag.as_bool() == Some(true) || flag.as_u64() == Some(1);
            let word = |flag| if selects(flag) { "full" } else { "shared" };
            // Those that guess tokens may follow.
            let words: Vec<_> = flags.iter().take(n_layers).map(word).collect();
            json!({"indexer_types": words})
        }
        Some(_) | None if context >= GLM_5_2_CONTEXT => {
            json!({"index_topk_freq": 4, "index_skip_topk_offset": 3})
        }
        Some(_) | None => return,
    };
    written::extend(config, more);
}

const GLM_5_2_CONTEXT: u64 = 1 << 20;

/// Keys with one value that is understood; of the heads that select the pairing is each family's own.
const fn off(pairs: Off) -> [(&'static str, Off); 6] {
    [
        ("indexer_rope_interleave", pairs),
        // What every layer is called.
        ("layer_types", Off::Words("indexed_attention")),
        ("moe_layer_freq", Off::One),
        ("rope_interleave", Off::True),
        ("scoring_func", Off::Word("sigmoid")),
        ("topk_method", Off::Word("noaux_tc")),
    ]
}

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::IndexQ, "self_attn.indexer.wq_b"),
            (Role::IndexK, "self_attn.indexer.wk"),
            (Role::IndexKNorm, "self_attn.indexer.k_norm"),
            (Role::IndexWeights, "self_attn.indexer.weights_proj"),
        ],
        LATENT_NAMES,
        SHARED_NAMES,
        qwen::EXPERTS_NAMES,
        llama::NAMES,
    ],
    ..deepseek::NAMING
};

fn deepseek(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let defaults = LatentDefaults {
        name: "deepseek_v32",
        context: 163_840,
        head_turns: false,
        ..V3_LATENT
    };
    let spec = sparse(config, defaults, (8, 4))?;
    selecting(config, spec, (64, Pairing::Halves), |_| true)
}

fn glm(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let defaults = LatentDefaults {
        name: "glm_moe_dsa",
        context: 202_752,
        eps: 1e-5,
        n_kv_heads: Some(64),
        q_rank: Some(2_048),
        nope_dim: 192,
        value_dim: 256,
        head_turns: false,
    };
    let spec = sparse(config, defaults, (1, 1))?;
    let selects = selects(config, spec.decoder.n_layers())?;
    selecting(config, spec, (32, Pairing::Adjacent), |i| selects[i])
}

/// The model, but for what selects positions.
fn sparse(
    config: &Config<'_>,
    defaults: LatentDefaults,
    groups: (usize, usize),
) -> Result<ModelSpec, ArchError> {
    let defaults_of_experts = ExpertDefaults {
        groups,
        ..V3_EXPERTS
    };
    let experts = experts(config, defaults_of_experts)?;
    let n_layers = config.n_layers("num_hidden_layers")?;
    let sparse = config.kinds("mlp_layer_types", n_layers, ["dense", "sparse"])?;
    // Saved files keep the default beside a list that says otherwise.
    let n_dense = config.whole("first_k_dense_replace")?.unwrap_or(3);
    let sparse = sparse.unwrap_or_else(|| (0..n_layers).map(|i| i >= n_dense).collect());
    let spec = model(config, defaults, Pairing::Adjacent, experts, |i| !sparse[i])?;
    drafting(config, spec)
}

/// The same with layers that attend to what is selected: by heads of their own, or by those of a layer before.
fn selecting(
    config: &Config<'_>,
    mut spec: ModelSpec,
    (n_heads, pairing): (usize, Pairing),
    selects: impl Fn(usize) -> bool,
) -> Result<ModelSpec, ArchError> {
    let n_selected = config.opt_count("index_topk")?.unwrap_or(2_048);
    let heads = IndexHeads {
        n_heads: config.opt_count("index_n_heads")?.unwrap_or(n_heads),
        head_dim: config.opt_count("index_head_dim")?.unwrap_or(128),
        pairing,
        // Whatever `rms_norm_eps` says.
        norm: NormSpec::layer(1e-6),
    };
    for (i, layer) in spec.decoder.layers.iter_mut().enumerate() {
        let MixerSpec::Latent(latent) = &mut layer.mixer else {
            continue;
        };
        if latent.q_rank.is_none() {
            return config.bad_value(
                "q_lora_rank",
                "a number: positions are selected by what it makes",
            );
        }
        if heads.head_dim < latent.rope_dim {
            let expected = format!("{} or more, which are turned", latent.rope_dim);
            return config.bad_value("index_head_dim", &expected);
        }
        latent.index = Some(IndexSpec {
            n_selected,
            heads: selects(i).then_some(heads),
        });
    }
    Ok(spec)
}

/// True for each layer that selects positions itself: by a list, a pattern of letters, or every so many layers from one on.
fn selects(config: &Config<'_>, n_layers: usize) -> Result<Vec<bool>, ArchError> {
    let own = config.kinds("indexer_types", n_layers, ["shared", "full"])?;
    let pattern = pattern(config, n_layers)?;
    let every = config.whole("index_topk_freq")?.unwrap_or(1).max(1);
    let first = config.whole("index_skip_topk_offset")?.unwrap_or(2);
    let by_number = |i: usize| (i + 1).saturating_sub(first).is_multiple_of(every);
    let selects =
        (own.or(pattern)).unwrap_or_else(|| (0..n_layers).map(by_number).collect::<Vec<_>>());
    if selects.first() == Some(&false) {
        return config.bad_value("indexer_types", "full first: nothing is selected before");
    }
    Ok(selects)
}

/// The layers that a pattern tells: by letters in one word, or by words.
fn pattern(config: &Config<'_>, n_layers: usize) -> Result<Option<Vec<bool>>, ArchError> {
    const KEY: &str = "index_topk_pattern";
    if !config.is_text(KEY) {
        return config.kinds(KEY, n_layers, ["shared", "full"]);
    }
    let letters = config.text(KEY)?.unwrap_or_default();
    let kinds = letters.chars().map(|letter| match letter {
        'F' => Some(true),
        'S' => Some(false),
        _ => None,
    });
    match kinds.collect::<Option<Vec<_>>>() {
        Some(kinds) if kinds.len() == n_layers => Ok(Some(kinds)),
        _ => config.bad_value(KEY, &format!("{n_layers} letters F or S")),
    }
}
