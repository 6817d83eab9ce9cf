//! GPT-2 (Radford et al. 2019), all sizes, DistilGPT-2.

use llm_tensor::Activation;
use serde_json::{Map, Value, json};

use super::{Family, Gguf, GgufKeys, block, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::skeleton::{Matrices, Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Packing, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["gpt2"],
    spec,
    core: CORE,
    unread: Unread {
        any: &[
            // An older name for the number of positions, beside `n_positions`.
            "n_ctx",
            // Only the order of equal operations in half precision.
            "reorder_and_upcast_attn",
            // Of the first versions, about tokens that were added.
            "n_special",
            "predict_special_tokens",
        ],
        off: &[],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "gpt2",
        keys: &[GGUF_KEYS],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| written(spec, "GPT2LMHeadModel"),
    }),
};

/// GGUF's names of its keys.
pub(super) const GGUF_KEYS: GgufKeys = &[
    ("embedding_length", "n_embd"),
    ("block_count", "n_layer"),
    ("feed_forward_length", "n_inner"),
    ("context_length", "n_positions"),
    ("attention.head_count", "n_head"),
    ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
];

/// A configuration with GPT-2's keys.
pub(super) fn written(
    spec: &ModelSpec,
    architecture: &str,
) -> Result<Map<String, Value>, ArchError> {
    let mlp = written::mlp(spec)?;
    let mut config = written::config(spec, architecture);
    let more = json!({
        "n_embd": spec.hidden,
        "n_layer": spec.decoder.n_layers(),
        "n_head": written::attention(spec)?.n_heads,
        "n_inner": mlp.width,
        "n_positions": spec.context,
        "activation_function": written::name(written::activation(&mlp)?),
        "layer_norm_epsilon": written::shortest(spec.decoder.norm.eps),
    });
    written::extend(&mut config, more);
    Ok(config)
}

/// Extents of GPT-2 and its descendants.
pub(super) const CORE: &[(&str, u64)] = &[
    ("n_embd", 768),
    ("n_layer", 12),
    ("n_head", 12),
    ("n_positions", 1_024),
    ("vocab_size", 50_257),
];

/// Names that GPT-2's and its descendants' checkpoints use.
pub(super) const NAMING: Naming = Naming {
    names: &[&[
        (Role::TokenTable, "transformer.wte"),
        (Role::PositionTable, "transformer.wpe"),
        (Role::AttnNorm, "ln_1"),
        (Role::Qkv, "attn.c_attn"),
        (Role::Out, "attn.c_proj"),
        (Role::MlpNorm, "ln_2"),
        (Role::Up, "mlp.c_fc"),
        (Role::Down, "mlp.c_proj"),
        (Role::FinalNorm, "transformer.ln_f"),
        (Role::Head, "lm_head"),
    ]],
    layer: "transformer.h.{i}.",
    base_prefix: "transformer.",
    matrices: Matrices::InOut,
    // The causal mask and its filler.
    harmless: &["h.{i}.attn.bias", "h.{i}.attn.masked_bias"],
    ..Naming::PLAIN
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
    let mut spec = like_gpt2(config, "gpt2", Packing::Stacked, None)?;
    for (i, attention) in spec.decoder.attentions_mut().enumerate() {
        attention.scale /= if by_layer { (i + 1) as f32 } else { 1.0 };
    }
    Ok(spec)
}

/// A model with GPT-2's keys; with `n_kv_heads`, or as many as heads of queries.
pub(super) fn like_gpt2(
    config: &Config<'_>,
    family: &'static str,
    packing: Packing,
    n_kv_heads: Option<usize>,
) -> Result<ModelSpec, ArchError> {
    let heads = block::heads(
        config,
        config.spelling(&["hidden_size", "n_embd"])?,
        config.spelling(&["num_attention_heads", "n_head"])?,
    )?;
    let context = config.count(config.spelling(&["max_position_embeddings", "n_positions"])?)?;
    config.only("add_cross_attention", false)?;
    let attention = AttentionSpec {
        n_kv_heads: n_kv_heads.unwrap_or(heads.n_kv_heads),
        packing,
        qkv_bias: true,
        out_bias: true,
        scale: match config.flag("scale_attn_weights", true)? {
            true => heads.scale,
            false => 1.0,
        },
        ..heads
    };
    let width = config.opt_count("n_inner")?.unwrap_or(4 * heads.q_width());
    let activation = config.activation("activation_function", Activation::GeluTanh)?;
    let mlp = block::plain_mlp(width, activation, true);
    let n_layers = config.n_layers(config.spelling(&["num_hidden_layers", "n_layer"])?)?;
    let layers = block::like_layers(n_layers, attention, mlp);
    let norm = NormSpec::layer(config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5));
    let positions = Positions::Learned {
        rows: context,
        first: 0,
    };
    let stack = block::sequential(layers, positions, norm);
    block::decoder_only(config, family, context, stack, true)
}
