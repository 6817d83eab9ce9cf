//! GLM 4: Llama with half of each head turned, by pairs of neighbours; since GLM-4-0414 results are normalised, too.

use llm_tensor::{Activation, Pairing};

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, Gating, MlpSpec, ModelSpec, NonLinearity, NormSpec, Packing,
    Positions, Residual,
};

pub(super) static GLM: Family = Family {
    model_types: &["glm"],
    spec: |config| {
        // `null` shares the hidden size among the heads.
        let head_dim = (!config.mentions("head_dim")).then_some(128);
        model(config, "glm", head_dim, Residual::Sequential)
    },
    core: CORE,
    unread: OF_NONE,
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "chatglm",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        // One of these: files of the older repositories have queries, keys and values in one matrix.
        flags: &[
            ("attn_q.bias", "attention_bias"),
            (QKV_BIAS, QKV_BIAS),
            (QKV, QKV),
        ],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "GlmForCausalLM")?;
            let attention = written::attention(spec)?;
            match attention.packing {
                Packing::Separate => {}
                Packing::Stacked | Packing::PerGroup | Packing::KeysAreValues => {
                    return written::none("queries, keys and values are one matrix there");
                }
            }
            config.insert("attention_bias".to_owned(), attention.qkv_bias.into());
            written::add_partial_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

/// Tensors of a GGUF that has queries, keys and values in one.
const QKV: &str = "attn_qkv.weight";
const QKV_BIAS: &str = "attn_qkv.bias";

pub(super) static GLM4: Family = Family {
    model_types: &["glm4"],
    spec: |config| model(config, "glm4", Some(128), Residual::Sandwich),
    core: CORE,
    unread: OF_NONE,
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "glm4",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "Glm4ForCausalLM")?;
            let bias = written::attention(spec)?.qkv_bias;
            config.insert("attention_bias".to_owned(), bias.into());
            written::add_partial_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

const CORE: &[(&str, u64)] = &[
    ("hidden_size", 4_096),
    ("intermediate_size", 13_696),
    ("num_hidden_layers", 40),
    ("num_attention_heads", 32),
    ("vocab_size", 151_552),
];

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::PostAttnNorm, "post_self_attn_layernorm"),
            (Role::GateUp, "mlp.gate_up_proj"),
            (Role::PostMlpNorm, "post_mlp_layernorm"),
        ],
        llama::NAMES,
    ],
    ..llama::NAMING
};

fn model(
    config: &Config<'_>,
    family: &'static str,
    head_dim: Option<usize>,
    residual: Residual,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let heads = HeadDefaults {
        head_dim,
        n_kv_heads: Some(2),
    };
    let (apart, stacked) = (
        config.flag("attention_bias", true)?,
        config.flag(QKV_BIAS, false)?,
    );
    let attention = AttentionSpec {
        qkv_bias: apart || stacked,
        packing: match config.flag(QKV, false)? {
            true => Packing::Stacked,
            false => Packing::Separate,
        },
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.5),
        pairing: Pairing::Adjacent,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let mlp = MlpSpec::Dense(DenseMlp {
        width: config.count("intermediate_size")?,
        activation: NonLinearity::Of(config.activation("hidden_act", Activation::Silu)?),
        gating: Gating::Fused,
        scales: None,
        cut_off: None,
        bias: false,
    });
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1.5625e-7));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    stack.residual = residual;
    block::decoder_only(config, family, context, stack, false)
}
