//! MPT: no biases at all, and distances instead of positions.

use llm_tensor::Activation;
use serde_json::json;

use super::{Family, Gguf, block, llama, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Packing, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["mpt"],
    spec,
    core: &[
        ("d_model", 2_048),
        ("n_heads", 16),
        ("n_layers", 24),
        ("vocab_size", 50_368),
    ],
    unread: Unread {
        any: &[
            // Of training.
            "embedding_fraction",
            "emb_pdrop",
            "init_config",
            "init_device",
            "tokenizer_name",
            "verbose",
            // Positions are known by distances alone, whatever this says.
            "learned_pos_emb",
        ],
        off: &[
            ("norm_type", Off::Word("low_precision_layernorm")),
            ("norm_type", Off::Word("layernorm")),
        ],
    },
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "transformer.wte"),
            (Role::AttnNorm, "norm_1"),
            (Role::Qkv, "attn.Wqkv"),
            (Role::Out, "attn.out_proj"),
            (Role::MlpNorm, "norm_2"),
            (Role::Up, "ffn.up_proj"),
            (Role::Down, "ffn.down_proj"),
            (Role::FinalNorm, "transformer.norm_f"),
            (Role::Head, "lm_head"),
        ]],
        layer: "transformer.blocks.{i}.",
        base_prefix: "transformer.",
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: "mpt",
        keys: &[&[
            ("embedding_length", "d_model"),
            ("block_count", "n_layers"),
            ("context_length", "max_seq_len"),
            ("attention.head_count", "n_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ]],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::config(spec, "MptForCausalLM");
            let attention = written::attention(spec)?;
            let more = json!({
                "d_model": spec.hidden,
                "n_heads": attention.n_heads,
                "n_layers": spec.decoder.n_layers(),
                "max_seq_len": spec.context,
                "layer_norm_epsilon": written::shortest(spec.decoder.norm.eps),
                "attn_config": {"alibi": true, "softmax_scale": attention.scale},
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

/// Of `attn_config`.
const OF_ATTENTION: Unread = Unread {
    any: &[
        "attn_impl",
        "attn_pdrop",
        // A mask between texts of one sequence, which training alone has.
        "attn_uses_sequence_id",
        "dtype",
        "model_type",
    ],
    off: &[
        ("attn_type", Off::Word("multihead_attention")),
        ("clip_qkv", Off::Zero),
        ("prefix_lm", Off::False),
        ("qk_ln", Off::False),
    ],
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = config.opt_count("max_seq_len")?.unwrap_or(2048);
    let heads = block::heads(
        config,
        config.spelling(&["hidden_size", "d_model"])?,
        config.spelling(&["num_attention_heads", "n_heads"])?,
    )?;
    let mut attention = AttentionSpec {
        packing: Packing::Stacked,
        ..heads
    };
    if let Some(own) = config.object("attn_config")? {
        own.only("alibi", true)?;
        if own.opt_count("alibi_bias_max")?.unwrap_or(8) != 8 {
            return own.bad_value("alibi_bias_max", "8");
        }
        if let Some(scale) = own.opt_positive("softmax_scale")? {
            attention.scale = scale as f32;
        }
        own.finish(&OF_ATTENTION);
    }
    // Of a GGUF.
    for (key, expected) in [
        ("attention.max_alibi_bias", 8),
        ("feed_forward_length", 4 * heads.q_width()),
        ("num_key_value_heads", heads.n_heads),
    ] {
        if config.whole_number(key)?.is_some_and(|n| n != expected) {
            return config.bad_value(key, &expected.to_string());
        }
    }
    // The reference reads it, and makes every feed-forward four times as wide as the residual.
    if config.opt_count("expansion_ratio")?.unwrap_or(4) != 4 {
        return config.bad_value("expansion_ratio", "4");
    }
    let mlp = block::plain_mlp(4 * heads.q_width(), Activation::Gelu, false);
    let n_layers = config.n_layers(config.spelling(&["num_hidden_layers", "n_layers"])?)?;
    let layers = block::like_layers(n_layers, attention, mlp);
    let eps = config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5);
    let positions = Positions::Alibi { scale: 1.0 };
    let stack = block::sequential(layers, positions, NormSpec::layer_without_bias(eps));
    block::decoder_only(config, "mpt", context, stack, true)
}
