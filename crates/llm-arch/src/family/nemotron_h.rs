//! Nemotron-H: blocks that are each one thing, a state space, attention, a feed-forward or experts without gates.

use llm_tensor::{Activation, Gate, GroupRank, Routing, Scoring};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults};
use super::glm4_moe;
use super::mamba2::{NAMES, UNREAD};
use super::state_space::{self, Keys, state_space, step_limits};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::skeleton::{Naming, Role, SpaceStored, Stored};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, LayerSpec, MixerSpec, MlpSpec, ModelSpec,
    NonLinearity, NormSpec, Positions, SharedSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["nemotron_h"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 21_504),
        ("num_attention_heads", 32),
        ("vocab_size", 131_072),
    ],
    unread: Unread {
        any: &[
            "expand",
            "hidden_dropout",
            "mamba_proj_bias",
            "mamba_ssm_cache_dtype",
            "rms_norm_eps",
            // Of experts, which no block may have.
            "moe_intermediate_size",
            "moe_latent_size",
            "moe_shared_expert_intermediate_size",
            // When it computes. One there always is.
            "moe_shared_expert_overlap",
            "mtp_hybrid_override_pattern",
            "mtp_layers_block_type",
            "n_group",
            "n_routed_experts",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            "routed_scaling_factor",
            "topk_group",
            // A GGUF turns nothing either.
            "rope.dimension_count",
            "rope_theta",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[
            &[
                (Role::AttnNorm, "norm"),
                (Role::MlpNorm, "norm"),
                (Role::Q, "mixer.q_proj"),
                (Role::K, "mixer.k_proj"),
                (Role::V, "mixer.v_proj"),
                (Role::Out, "mixer.o_proj"),
                (Role::Up, "mixer.up_proj"),
                (Role::Down, "mixer.down_proj"),
                (Role::Router, "mixer.gate"),
                (Role::ExpertsIn, "mixer.fc1_latent_proj"),
                (Role::ExpertsOut, "mixer.fc2_latent_proj"),
                (Role::RouterCorrection, "mixer.gate.e_score_correction_bias"),
                (Role::Up, "mixer.experts.{e}.up_proj"),
                (Role::Down, "mixer.experts.{e}.down_proj"),
                (Role::SharedUp, "mixer.shared_experts.up_proj"),
                (Role::SharedDown, "mixer.shared_experts.down_proj"),
            ],
            NAMES,
        ],
        layer: "backbone.layers.{i}.",
        base_prefix: "backbone.",
        bare: &[
            Role::SpaceRate,
            Role::SpaceOffset,
            Role::SpaceSkip,
            Role::RouterCorrection,
        ],
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: GGUF,
        keys: &[
            &[
                ("attention.layer_norm_rms_epsilon", "layer_norm_epsilon"),
                ("expert_count", "n_routed_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_shared_count", "n_shared_experts"),
                ("expert_group_count", "n_group"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
                (
                    "expert_shared_feed_forward_length",
                    "moe_shared_expert_intermediate_size",
                ),
                ("expert_weights_norm", "norm_topk_prob"),
                ("expert_weights_scale", "routed_scaling_factor"),
            ],
            &state_space::gguf_keys(&KEYS),
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        // The first layer is a state space.
        flags: &state_space::gguf_flags(&KEYS),
        naming: |_| &Naming {
            names: &[
                state_space::GGUF_NAMES,
                &[(Role::MlpNorm, "attn_norm")],
                llama::GGUF_EXPERTS_NAMES,
                llama::GGUF_NAMES,
            ],
            bare: &[
                Role::SpaceRate,
                Role::SpaceOffset,
                Role::SpaceSkip,
                Role::RouterCorrection,
            ],
            taps: Stored::AsIs,
            space: SpaceStored::Gguf,
            ..llama::GGUF_EXPERTS_NAMING
        },
        adjust: |_| (),
        config: |spec| {
            let mut config = written::config(spec, "NemotronHForCausalLM");
            let space = state_space::written(spec, &KEYS)?;
            written::extend(&mut config, space);
            let (attention, layers) = (written::attention(spec)?, &spec.decoder.layers);
            let experts = layers.iter().find_map(|layer| layer.mlp.experts().copied());
            let of_all = experts.and_then(|experts| experts.shared);
            let mlp = layers.iter().find_map(|layer| match layer.mlp {
                MlpSpec::Dense(mlp) => Some(mlp),
                MlpSpec::Experts(_) | MlpSpec::Absent => None,
            });
            // Where all have experts its width says nothing.
            let Some(mlp) = mlp.or(of_all.map(|of| of.mlp)) else {
                return written::none("none of its layers is a feed-forward");
            };
            let word = |layer: &LayerSpec| match layer.mixer {
                MixerSpec::StateSpace(_) => "mamba",
                MixerSpec::Absent if layer.mlp.experts().is_some() => "moe",
                MixerSpec::Absent => "mlp",
                MixerSpec::Attention(_)
                | MixerSpec::Latent(_)
                | MixerSpec::SharedKey(_)
                | MixerSpec::Conv(_)
                | MixerSpec::Delta(_)
                | MixerSpec::Hybrid(_) => "attention",
            };
            let more = json!({
                "hidden_size": spec.hidden,
                "intermediate_size": mlp.width,
                "num_hidden_layers": layers.len(),
                "layers_block_type": layers.iter().map(word).collect::<Vec<_>>(),
                "num_attention_heads": attention.n_heads,
                "num_key_value_heads": attention.n_kv_heads,
                "head_dim": attention.head_dim,
                "attention_bias": attention.qkv_bias,
                "mlp_bias": mlp.bias,
                "mlp_hidden_act": written::name(written::activation(&mlp)?),
                "max_position_embeddings": spec.context,
                "layer_norm_epsilon": written::shortest(spec.decoder.norm.eps),
            });
            written::extend(&mut config, more);
            if let (Some(experts), Some(of_all)) = (experts, of_all) {
                let same = ExpertsSpec {
                    shared: None,
                    ..experts
                };
                let choice = glm4_moe::written_experts(spec, &same)?;
                written::extend(&mut config, choice);
                config.shift_remove("first_k_dense_replace");
                config.insert("n_shared_experts".to_owned(), 1.into());
                let key = "moe_shared_expert_intermediate_size";
                config.insert(key.to_owned(), of_all.mlp.width.into());
            }
            Ok(config)
        },
    }),
};

/// GGUF's name of those without experts; those with them have another.
pub(super) const GGUF: &str = "nemotron_h";

/// Gathers what a GGUF says otherwise: what each block is, by its heads of keys and by its features.
pub(super) fn gather(config: &mut Map<String, Value>) {
    let attends = block::gguf_attends(config);
    let widths = config.get("intermediate_size").and_then(Value::as_array);
    let widths: Vec<_> = widths.into_iter().flatten().map(Value::as_u64).collect();
    let widest = widths.iter().copied().flatten().max();
    let n_experts = config.get("n_routed_experts").and_then(Value::as_u64);
    let wide = match n_experts {
        None | Some(0) => "mlp",
        Some(_) => "moe",
    };
    // The last, which guess tokens, are of several kinds at once.
    let drafting = config.get(block::GGUF_DRAFTING).and_then(Value::as_u64);
    let n_layers = (attends.len() as u64).saturating_sub(drafting.unwrap_or(0));
    let blocks = attends.iter().zip(&widths).take(n_layers as usize);
    let words: Vec<_> = blocks
        .map(|(attends, width)| match (attends, width) {
            (true, _) => "attention",
            (false, None | Some(0)) => "mamba",
            (false, Some(_)) => wide,
        })
        .collect();
    config.insert("layers_block_type".to_owned(), words.into());
    config.insert("num_hidden_layers".to_owned(), n_layers.into());
    config.extend(widest.map(|width| ("intermediate_size".to_owned(), width.into())));
    block::gather_kv_heads(config);
}

const KEYS: Keys = Keys {
    n_heads: ("mamba_num_heads", 128),
    head_dim: ("mamba_head_dim", Some(64)),
    n_groups: ("n_groups", 8),
    state_dim: ("ssm_state_size", 128),
    kernel: ("conv_kernel", 4),
    width: None,
    expand: None,
    activation: "mamba_hidden_act",
    conv_bias: "use_conv_bias",
    bias: "use_bias",
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    config.tick_all(UNREAD);
    let context = block::context(config, 4096)?;
    let hidden = config.count("hidden_size")?;
    let eps = config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5);
    let space = state_space(config, &KEYS, (hidden, eps), step_limits(config)?)?;
    let heads = HeadDefaults {
        head_dim: Some(128),
        n_kv_heads: Some(8),
    };
    let bias = config.flag("attention_bias", false)?;
    // An older name, which says the same where both are there.
    config.tick(config.spelling(&["attention_head_dim", "head_dim"])?);
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        rotary_idx: None,
        ..block::attention(config, heads)?
    };
    let activation = config.activation("mlp_hidden_act", Activation::ReluSquared)?;
    let mlp = DenseMlp {
        width: config.count("intermediate_size")?,
        activation: NonLinearity::Of(activation),
        gating: Gating::None,
        scales: None,
        cut_off: None,
        bias: config.flag("mlp_bias", false)?,
    };
    let kinds = kinds(config)?;
    let experts = match kinds.iter().any(|kind| matches!(kind, Kind::Experts)) {
        true => experts(config, activation, mlp)?,
        false => MlpSpec::Absent,
    };
    let layers = kinds.into_iter().map(|kind| {
        let (mixer, mlp) = match kind {
            Kind::Space => (MixerSpec::StateSpace(space), MlpSpec::Absent),
            Kind::Attention => (MixerSpec::Attention(attention), MlpSpec::Absent),
            Kind::Mlp => (MixerSpec::Absent, MlpSpec::Dense(mlp)),
            Kind::Experts => (MixerSpec::Absent, experts),
        };
        LayerSpec { mixer, mlp }
    });
    let positions = Positions::Rotary(Vec::new());
    let stack = block::sequential(layers.collect(), positions, NormSpec::rms(eps));
    let mut spec = block::decoder_only(config, "nemotron_h", context, stack, false)?;
    spec.n_drafting = block::gguf_drafting(config)?;
    Ok(spec)
}

/// What a block is.
#[derive(Clone, Copy)]
enum Kind {
    Space,
    Attention,
    Mlp,
    Experts,
}

/// Experts as DeepSeek-V3 chooses them, which nothing gates, and one for all tokens, like `dense` but for its width.
fn experts(
    config: &Config<'_>,
    activation: Activation,
    dense: DenseMlp,
) -> Result<MlpSpec, ArchError> {
    let count = |key, default| Ok::<_, ArchError>(config.opt_count(key)?.unwrap_or(default));
    if dense.bias {
        return config.bad_value("mlp_bias", "false in a model with experts");
    }
    let hidden = config.count("hidden_size")?;
    let latent = config.opt_count("moe_latent_size")?;
    if latent.is_some_and(|latent| latent > hidden) {
        let expected = format!("at most the hidden size {hidden}");
        return config.bad_value("moe_latent_size", &expected);
    }
    let key = config.spelling(&["n_routed_experts", "num_local_experts"])?;
    let n_experts = count(key, 8)?;
    let scale = config.opt_positive("routed_scaling_factor")?;
    let routing = Routing {
        groups: glm4_moe::groups(config, (n_experts, 1, 1), GroupRank::FirstTwo)?,
        weighting: block::weighting(config, "norm_topk_prob", true)?,
        eps: 1e-20,
        scale: scale.unwrap_or(1.0) as f32,
        ..Routing::sigmoid(n_experts, config.n_active(n_experts, 2)?)
    };
    block::check_scoring(config, Scoring::Sigmoid)?;
    Ok(MlpSpec::Experts(ExpertsSpec {
        correction: true,
        latent,
        shared: Some(SharedSpec {
            mlp: DenseMlp {
                width: count("moe_shared_expert_intermediate_size", 7_688)?,
                ..dense
            },
            join: Join::Plain,
        }),
        ..ExpertsSpec::plain(
            glm4_moe::fitting(config, routing)?,
            count("moe_intermediate_size", 7_688)?,
            Gate::Absent(activation),
        )
    }))
}

/// Kinds of all blocks, by a word or by a letter for each.
fn kinds(config: &Config<'_>) -> Result<Vec<Kind>, ArchError> {
    let n_layers = match config.has("num_hidden_layers") {
        true => Some(config.n_layers("num_hidden_layers")?),
        false => None,
    };
    let words = [
        ("mamba", Kind::Space),
        ("linear_attention", Kind::Space),
        ("attention", Kind::Attention),
        ("full_attention", Kind::Attention),
        ("mlp", Kind::Mlp),
        ("moe", Kind::Experts),
    ];
    let key = config.spelling(&["layer_types", "layers_block_type"])?;
    let listed = config.indices(key, n_layers, &words)?;
    let pattern = "hybrid_override_pattern";
    let kinds = match (listed, config.text(pattern)?) {
        (Some(kinds), _) => kinds,
        (None, Some(letters)) => {
            let kind = |letter| match letter {
                'M' => Some(Kind::Space),
                '*' => Some(Kind::Attention),
                '-' => Some(Kind::Mlp),
                'E' => Some(Kind::Experts),
                _ => None,
            };
            let kinds: Option<Vec<_>> = letters.chars().map(kind).collect();
            let fits = |kinds: &Vec<_>| n_layers.is_none_or(|n| n == kinds.len());
            match kinds.filter(fits) {
                Some(kinds) => kinds,
                None => return config.bad_value(pattern, LETTERS),
            }
        }
        // The reference's, however many layers are asked for.
        (None, None) if n_layers.is_none_or(|n| n == 4) => {
            vec![Kind::Space, Kind::Experts, Kind::Attention, Kind::Mlp]
        }
        (None, None) => return config.bad_value(pattern, LETTERS),
    };
    match kinds.is_empty() {
        true => config.bad_value(key, "a list of layers"),
        false => Ok(kinds),
    }
}

/// A pattern of blocks.
const LETTERS: &str = "M, *, - or E for each layer";
