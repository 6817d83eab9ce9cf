//! Apertus: Llama with norms of queries and keys, and a feed-forward without a gate whose non-linearity each layer learned.

use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::RopeScaling;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role, Stored};
use crate::spec::{
    AttentionSpec, DenseMlp, Gating, MlpSpec, ModelSpec, NonLinearity, NormSpec, Positions,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["apertus"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 131_072),
    ],
    unread: Unread {
        any: &[],
        off: &[("post_norm", Off::False), ("qk_norm", Off::True)],
    },
    naming: |_| &Naming {
        names: &[
            &[
                (Role::AttnNorm, "attention_layernorm"),
                (Role::MlpNorm, "feedforward_layernorm"),
                (Role::XieluAlphaP, "mlp.act_fn.alpha_p"),
                (Role::XieluAlphaN, "mlp.act_fn.alpha_n"),
                (Role::XieluBeta, "mlp.act_fn.beta"),
                (Role::XieluEps, "mlp.act_fn.eps"),
            ],
            llama::NAMES,
        ],
        bare: NUMBERS,
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: "apertus",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &Naming {
            names: &[
                // As the reader of GGUF calls what its metadata have for each layer.
                &[
                    (Role::XieluAlphaP, "xielu.alpha_p"),
                    (Role::XieluAlphaN, "xielu.alpha_n"),
                    (Role::XieluBeta, "xielu.beta"),
                    (Role::XieluEps, "xielu.eps"),
                ],
                llama::GGUF_NAMES,
            ],
            bare: NUMBERS,
            buffers: Stored::AsIs,
            ..llama::GGUF_NAMING
        },
        adjust: |_| (),
        config: written,
    }),
};

/// The numbers of a layer's curve.
const NUMBERS: &[Role] = &[
    Role::XieluAlphaP,
    Role::XieluAlphaN,
    Role::XieluBeta,
    Role::XieluEps,
];

/// The configuration of a GGUF's model.
fn written(spec: &ModelSpec) -> Result<Map<String, Value>, ArchError> {
    let attention = written::attention(spec)?;
    let width = written::mlp(spec)?.width;
    let mut config = written::extents(spec, "ApertusForCausalLM", (width, "xielu"))?;
    let more = json!({
        "attention_bias": attention.qkv_bias,
        // What is left out would mean a scaling.
        "rope_scaling": {"rope_type": "default"},
    });
    written::extend(&mut config, more);
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 65_536)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: norm.of_heads(),
        ..block::attention(config, HeadDefaults::default())?
    };
    let mut rotary = rotary(
        config,
        RopeDefaults {
            base: 12_000_000.0,
            ..RopeDefaults::new(attention.head_dim, context)
        },
    )?;
    if !config.has("rope_parameters") && !config.has("rope_scaling") {
        // What the reference means where it is told nothing.
        rotary.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
    }
    let activation = match config.is_word("hidden_act", "xielu") || !config.has("hidden_act") {
        true => NonLinearity::Xielu,
        false => return config.bad_value("hidden_act", "xielu"),
    };
    let mlp = MlpSpec::Dense(DenseMlp {
        width: config.count("intermediate_size")?,
        activation,
        gating: Gating::None,
        scales: None,
        cut_off: None,
        bias: false,
    });
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "apertus", context, stack, false)
}
