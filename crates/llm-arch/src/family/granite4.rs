//! Granite 4: Granite with state spaces in most layers, and in some models experts beside the feed-forward of all tokens.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::{Map, Value};

use super::block::{self, HeadDefaults};
use super::granite::{self, multiplier, multiply, residual_norm};
use super::state_space::{self, BARE, MAMBA_KEYS, MAMBA_NAMES, state_space, step_limits};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role, SpaceStored, Stored};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, LayerSpec, MixerSpec, MlpSpec, ModelSpec,
    Positions, SharedSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["granitemoehybrid"],
    spec,
    core: granite::CORE,
    unread: Unread {
        // How weights were drawn, and in what pieces a prompt is computed.
        any: &["init_method", "mamba_chunk_size"],
        off: &[("normalization_function", Off::Word("rmsnorm"))],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: GGUF,
        keys: &[
            &[
                (
                    "expert_shared_feed_forward_length",
                    "shared_intermediate_size",
                ),
                ("rope.scaling.finetuned", GGUF_TURNS),
            ],
            granite::GGUF_EXPERTS_KEYS,
            granite::GGUF_KEYS,
            &state_space::gguf_keys(&MAMBA_KEYS),
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        // The first layer does not attend, and published models have no biases where others do.
        flags: &state_space::gguf_flags(&MAMBA_KEYS),
        naming: |_| &Naming {
            names: &[
                state_space::GGUF_NAMES,
                llama::GGUF_EXPERTS_NAMES,
                llama::GGUF_NAMES,
            ],
            bare: BARE,
            taps: Stored::AsIs,
            space: SpaceStored::Gguf,
            ..llama::GGUF_EXPERTS_NAMING
        },
        // Its converter parts gates and ups. It pairs rows of queries and keys, too, which changes no score where nothing is turned.
        adjust: |spec| {
            for layer in &mut spec.decoder.layers {
                let mlp = match &mut layer.mlp {
                    MlpSpec::Dense(mlp) => Some(mlp),
                    MlpSpec::Experts(experts) => experts.shared.as_mut().map(|of| &mut of.mlp),
                    MlpSpec::Absent => None,
                };
                if let Some(mlp) = mlp {
                    mlp.gating = Gating::Separate;
                }
            }
        },
        config: |_| written::none("gates and ups are one matrix there"),
    }),
};

/// GGUF's name of the family, and of Bamba, whose rows of half-turned heads its converter pairs as if all of them were turned:
/// files that say so are not read.
pub(super) const GGUF: &str = "granitehybrid";

/// Key of a GGUF: true where heads are turned.
const GGUF_TURNS: &str = "rope.finetuned";

/// Gathers what a GGUF says otherwise: which layers attend, by how many heads of keys they have.
pub(super) fn gather(config: &mut Map<String, Value>) {
    let word = |attends| if attends { "attention" } else { "mamba" };
    let words: Vec<_> = block::gguf_attends(config).into_iter().map(word).collect();
    config.insert("layer_types".to_owned(), words.into());
    block::gather_kv_heads(config);
    config.entry("num_local_experts").or_insert(0.into());
}

const NAMING: Naming = Naming {
    names: &[
        MAMBA_NAMES,
        granite::EXPERTS_NAMES,
        &[
            // Where there are no experts.
            (Role::GateUp, "shared_mlp.input_linear"),
            (Role::Down, "shared_mlp.output_linear"),
        ],
        llama::NAMES,
    ],
    bare: BARE,
    elsewhere: granite::STACKED_EXPERTS,
    ..llama::NAMING
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    config.only(GGUF_TURNS, false)?;
    let hidden = config.count("hidden_size")?;
    let norm = residual_norm(config)?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6);
    let bias = config.flag("attention_bias", false)?;
    let mut attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        scale: multiplier(config, "attention_multiplier")? as f32,
        ..block::attention(config, HeadDefaults::default())?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let turns = config.is_word("position_embedding_type", "rope");
    attention.rotary_idx = turns.then_some(0);
    let positions = Positions::Rotary(match turns {
        true => vec![rotary],
        false => Vec::new(),
    });
    let space = state_space(config, &MAMBA_KEYS, (hidden, eps), step_limits(config)?)?;
    let mlp = mlp(config)?;
    let attends = attends(config)?.into_iter();
    let layers = attends.map(|attends| LayerSpec {
        mixer: match attends {
            true => MixerSpec::Attention(attention),
            false => MixerSpec::StateSpace(space),
        },
        mlp,
    });
    let stack = block::sequential(layers.collect(), positions, norm);
    let mut spec = block::decoder_only(config, "granitemoehybrid", context, stack, false)?;
    multiply(config, &mut spec)?;
    Ok(spec)
}

/// The feed-forward of all tokens, and experts beside it if there are any.
fn mlp(config: &Config<'_>) -> Result<MlpSpec, ArchError> {
    let activation = config.activation("hidden_act", Activation::Silu)?;
    let of_all = DenseMlp {
        width: (config.opt_count("shared_intermediate_size")?).unwrap_or(1_024),
        activation: activation.into(),
        gating: Gating::Fused,
        scales: None,
        cut_off: None,
        bias: false,
    };
    let n_experts = config.whole("num_local_experts")?.unwrap_or(8);
    let width = config.count("intermediate_size")?;
    if n_experts == 0 {
        config.tick("num_experts_per_tok");
        return Ok(MlpSpec::Dense(of_all));
    }
    Ok(MlpSpec::Experts(ExpertsSpec {
        shared: Some(SharedSpec {
            mlp: of_all,
            join: Join::Plain,
        }),
        ..ExpertsSpec::plain(
            Routing {
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, config.n_active(n_experts, 2)?)
            },
            width,
            Gate::Of(activation),
        )
    }))
}

/// True for each layer that attends, by either of its names.
fn attends(config: &Config<'_>) -> Result<Vec<bool>, ArchError> {
    let n_layers = config.n_layers("num_hidden_layers")?;
    let words = [
        ("mamba", false),
        ("linear_attention", false),
        ("attention", true),
        ("full_attention", true),
    ];
    let key = config.spelling(&["layers_block_type", "layer_types"])?;
    let attends = config.indices(key, Some(n_layers), &words)?;
    Ok(attends.unwrap_or_else(|| vec![false; n_layers]))
}
