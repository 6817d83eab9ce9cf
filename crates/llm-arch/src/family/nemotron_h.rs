//! Nemotron-H: blocks that are each one thing, a state space, attention or a feed-forward.

use llm_tensor::Activation;

use super::Family;
use super::block::{self, HeadDefaults};
use super::mamba2::{NAMES, UNREAD};
use super::state_space::{BARE, Keys, state_space, step_limits};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::skeleton::{Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, Gating, LayerSpec, MixerSpec, MlpSpec, ModelSpec, NonLinearity,
    NormSpec, Positions,
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
            // Of experts, which no block of a model that is read has.
            "moe_intermediate_size",
            "moe_latent_size",
            "moe_shared_expert_intermediate_size",
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
            ],
            NAMES,
        ],
        layer: "backbone.layers.{i}.",
        base_prefix: "backbone.",
        bare: BARE,
        ..Naming::PLAIN
    },
    gguf: None,
};

const KEYS: Keys = Keys {
    n_heads: ("mamba_num_heads", 128),
    head_dim: ("mamba_head_dim", Some(64)),
    n_groups: ("n_groups", 8),
    state_dim: ("ssm_state_size", 128),
    kernel: ("conv_kernel", 4),
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
    let mlp = DenseMlp {
        width: config.count("intermediate_size")?,
        activation: NonLinearity::Of(config.activation("mlp_hidden_act", Activation::ReluSquared)?),
        gating: Gating::None,
        bias: config.flag("mlp_bias", false)?,
    };
    let layers = kinds(config)?.into_iter().map(|kind| {
        let (mixer, mlp) = match kind {
            Kind::Space => (MixerSpec::StateSpace(space), MlpSpec::Absent),
            Kind::Attention => (MixerSpec::Attention(attention), MlpSpec::Absent),
            Kind::Mlp => (MixerSpec::Absent, MlpSpec::Dense(mlp)),
        };
        LayerSpec { mixer, mlp }
    });
    let positions = Positions::Rotary(Vec::new());
    let stack = block::sequential(layers.collect(), positions, NormSpec::rms(eps));
    block::decoder_only(config, "nemotron_h", context, stack, false)
}

/// What a block is.
#[derive(Clone, Copy)]
enum Kind {
    Space,
    Attention,
    Mlp,
}

/// Kinds of all blocks, by a word or by a letter for each. Experts are not read yet.
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
                _ => None,
            };
            let kinds: Option<Vec<_>> = letters.chars().map(kind).collect();
            let fits = |kinds: &Vec<_>| n_layers.is_none_or(|n| n == kinds.len());
            match kinds.filter(fits) {
                Some(kinds) => kinds,
                None => return config.bad_value(pattern, "M, * or - for each layer"),
            }
        }
        (None, None) => return config.bad_value(pattern, "M, * or - for each layer"),
    };
    match kinds.is_empty() {
        true => config.bad_value(key, "a list of layers"),
        false => Ok(kinds),
    }
}
