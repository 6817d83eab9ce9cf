//! Mamba-2: blocks of a state space and nothing else.

use serde_json::json;

use super::block;
use super::state_space::{self, BARE, Keys, state_space, step_limits};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::skeleton::{Elsewhere, Names, Naming, Role, SpaceStored, Stored};
use crate::spec::{LayerSpec, MixerSpec, MlpSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["mamba2"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("num_hidden_layers", 64),
        ("vocab_size", 32_768),
    ],
    unread: Unread {
        any: UNREAD,
        // A GGUF says so.
        off: &[("num_attention_heads", Off::Zero)],
    },
    naming: |_| &Naming {
        names: &[&[(Role::AttnNorm, "norm")], NAMES],
        layer: "backbone.layers.{i}.",
        base_prefix: "backbone.",
        bare: BARE,
        elsewhere: &[(
            Role::TokenTable,
            Elsewhere::Name("backbone.embedding.weight"),
        )],
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: "mamba2",
        keys: &[
            &[("attention.layer_norm_rms_epsilon", "layer_norm_epsilon")],
            &state_space::gguf_keys(&KEYS),
            llama::GGUF_KEYS,
        ],
        flags: &state_space::gguf_flags(&KEYS),
        naming: |_| &Naming {
            names: &[state_space::GGUF_NAMES, llama::GGUF_NAMES],
            bare: BARE,
            taps: Stored::AsIs,
            space: SpaceStored::Gguf,
            ..llama::GGUF_NAMING
        },
        adjust: |_| (),
        config: |spec| {
            let mut config = written::config(spec, "Mamba2ForCausalLM");
            let space = state_space::written(spec, &KEYS)?;
            written::extend(&mut config, space);
            let more = json!({
                "expand": null,
                "hidden_size": spec.hidden,
                "num_hidden_layers": spec.decoder.n_layers(),
                "max_position_embeddings": spec.context,
                "layer_norm_epsilon": written::shortest(spec.decoder.norm.eps),
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

/// Keys of state spaces that no forward pass reads.
pub(super) const UNREAD: &[&str] = &[
    // In what pieces a prompt is computed, and in what types.
    "chunk_size",
    "residual_in_fp32",
    "num_logits_to_keep",
    "use_mamba_kernels",
    // That of all heads together, which two other keys give.
    "intermediate_size",
    // How weights were drawn.
    "rescale_prenorm_residual",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    "time_step_scale",
    // The reference gates before it normalises whatever this says, as the models were trained.
    "norm_before_gate",
];

/// Names of blocks that have one mixer, of whatever kind, and of what is around them.
pub(super) const NAMES: Names = &[
    (Role::TokenTable, "backbone.embeddings"),
    (Role::SpaceIn, "mixer.in_proj"),
    (Role::ConvTaps, "mixer.conv1d"),
    (Role::SpaceRate, "mixer.A_log"),
    (Role::SpaceOffset, "mixer.dt_bias"),
    (Role::SpaceSkip, "mixer.D"),
    (Role::SpaceNorm, "mixer.norm"),
    (Role::SpaceOut, "mixer.out_proj"),
    (Role::FinalNorm, "backbone.norm_f"),
    (Role::Head, "lm_head"),
];

const KEYS: Keys = Keys {
    n_heads: ("num_heads", 128),
    head_dim: ("head_dim", Some(64)),
    n_groups: ("n_groups", 8),
    state_dim: ("state_size", 128),
    kernel: ("conv_kernel", 4),
    width: None,
    expand: Some(("expand", 2)),
    activation: "hidden_act",
    conv_bias: "use_conv_bias",
    bias: "use_bias",
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, CONTEXT)?;
    let hidden = config.count("hidden_size")?;
    let eps = config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5);
    let space = state_space(config, &KEYS, (hidden, eps), step_limits(config)?)?;
    let layer = LayerSpec {
        mixer: MixerSpec::StateSpace(space),
        mlp: MlpSpec::Absent,
    };
    let layers = vec![layer; config.n_layers("num_hidden_layers")?];
    let positions = Positions::Rotary(Vec::new());
    let stack = block::sequential(layers, positions, NormSpec::rms(eps));
    block::decoder_only(config, "mamba2", context, stack, false)
}

/// Positions of a model whose states take no more for more of them: a bound for what is kept of tokens.
const CONTEXT: usize = 1 << 20;
