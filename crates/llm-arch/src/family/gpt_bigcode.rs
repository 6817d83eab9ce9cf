//! GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one head of keys and values.

use llm_tensor::Activation;

use super::{Family, block, gpt2};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::skeleton::{Matrices, Naming};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Packing, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["gpt_bigcode"],
    spec,
    core: &[
        ("n_embd", 768),
        ("n_layer", 12),
        ("n_head", 12),
        ("n_positions", 1_024),
        ("vocab_size", 50_257),
    ],
    unread: Unread {
        any: &[
            // Only the order of equal operations in half precision.
            "attention_softmax_in_fp32",
            "scale_attention_softmax_in_fp32",
            // Follows from `multi_query`.
            "num_key_value_heads",
            // Of the inference code that the first models were published with.
            "inference_runner",
            "max_batch_size",
            "pad_key_length",
            "pre_allocate_kv_cache",
            "validate_runner_input",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        matrices: Matrices::OutIn,
        ..gpt2::NAMING
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let heads = block::heads(
        config,
        config.spelling(&["hidden_size", "n_embd"])?,
        config.spelling(&["num_attention_heads", "n_head"])?,
    )?;
    let context = config.count(config.spelling(&["max_position_embeddings", "n_positions"])?)?;
    config.only("add_cross_attention", false)?;
    let mut attention = AttentionSpec {
        packing: Packing::PerGroup,
        qkv_bias: true,
        out_bias: true,
        ..heads
    };
    if config.flag("multi_query", true)? {
        attention.n_kv_heads = 1;
    }
    if !config.flag("scale_attn_weights", true)? {
        attention.scale = 1.0;
    }
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
    block::decoder_only(config, "gpt_bigcode", context, stack, true)
}
