//! Phi 1, 1.5 and 2: one LayerNorm for attention and feed-forward, and half of each head turned.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["phi"],
    spec,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 8_192),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 32),
        ("vocab_size", 51_200),
    ],
    unread: OF_NONE,
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "model.embed_tokens"),
            (Role::AttnNorm, "input_layernorm"),
            (Role::Q, "self_attn.q_proj"),
            (Role::K, "self_attn.k_proj"),
            (Role::V, "self_attn.v_proj"),
            (Role::QNorm, "self_attn.q_layernorm"),
            (Role::KNorm, "self_attn.k_layernorm"),
            (Role::Out, "self_attn.dense"),
            (Role::Up, "mlp.fc1"),
            (Role::Down, "mlp.fc2"),
            (Role::FinalNorm, "model.final_layernorm"),
            (Role::Head, "lm_head"),
        ]],
        layer: "model.layers.{i}.",
        base_prefix: "model.",
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: "phi2",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM, llama::LAYER_NORM_EPS],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "PhiForCausalLM")?;
            written::rename(&mut config, "rms_norm_eps", "layer_norm_eps");
            let has_norms = written::attention(spec)?.qk_norm.is_some();
            config.insert("qk_layernorm".to_owned(), has_norms.into());
            written::add_partial_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let norm = NormSpec::layer(config.opt_positive("layer_norm_eps")?.unwrap_or(1e-5));
    let attention = AttentionSpec {
        qkv_bias: true,
        out_bias: true,
        qk_norm: match config.flag("qk_layernorm", false)? {
            true => norm.of_heads(),
            false => None,
        },
        ..block::attention(config, HeadDefaults::default())?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.5),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let activation = config.activation("hidden_act", Activation::GeluTanh)?;
    let mlp = block::plain_mlp(config.count("intermediate_size")?, activation, true);
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    stack.residual = Residual::ParallelOneNorm;
    let mut spec = block::decoder_only(config, "phi", context, stack, false)?;
    spec.head.bias = true;
    Ok(spec)
}
