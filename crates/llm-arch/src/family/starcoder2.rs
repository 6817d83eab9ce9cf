//! StarCoder 2: Llama's attention with LayerNorm, biases and a feed-forward without a gate.

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["starcoder2"],
    spec,
    core: &[
        ("hidden_size", 3_072),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 24),
        ("vocab_size", 49_152),
    ],
    unread: Unread {
        any: &[
            // Beside `hidden_act`, which counts.
            "activation_function",
            // Only the order of equal operations in half precision.
            "attention_softmax_in_fp32",
            "scale_attention_softmax_in_fp32",
        ],
        off: &[
            ("mlp_type", Off::Word("default")),
            ("norm_type", Off::Word("layer_norm")),
        ],
    },
    naming: |_| &Naming {
        names: &[
            &[(Role::Up, "mlp.c_fc"), (Role::Down, "mlp.c_proj")],
            llama::NAMES,
        ],
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: "starcoder2",
        keys: &[
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::WINDOW,
            &[("attention.layer_norm_epsilon", "norm_epsilon")],
        ],
        flags: &[("attn_q.bias", "use_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let attention = written::attention(spec)?;
            let mut config = written::like_llama(spec, "Starcoder2ForCausalLM")?;
            written::rename(&mut config, "rms_norm_eps", "norm_epsilon");
            let more = json!({
                "use_bias": attention.qkv_bias,
                "sliding_window": attention.window,
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 4096)?;
    let bias = config.flag("use_bias", true)?;
    let heads = HeadDefaults {
        n_kv_heads: Some(2),
        ..HeadDefaults::default()
    };
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        window: config.window("sliding_window", None)?,
        ..block::attention(config, heads)?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let activation = config.activation("hidden_act", Activation::GeluTanh)?;
    let mlp = block::plain_mlp(config.count("intermediate_size")?, activation, bias);
    let norm = NormSpec::layer(config.opt_positive("norm_epsilon")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "starcoder2", context, stack, true)
}
