//! BLOOM and BLOOMZ (Le Scao et al. 2022).

use llm_tensor::Activation;
use serde_json::json;

use super::{Family, Gguf, block, falcon, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Packing, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["bloom"],
    spec,
    core: &[
        ("hidden_size", 64),
        ("n_layer", 2),
        ("n_head", 8),
        ("vocab_size", 250_880),
    ],
    unread: Unread {
        any: &[
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "masked_softmax_fusion",
            "offset_alibi",
            "skip_bias_add",
            "skip_bias_add_qkv",
            // The order in which equal sums are taken.
            "slow_but_exact",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[
            &[(Role::EmbedNorm, "transformer.word_embeddings_layernorm")],
            falcon::NAMES,
        ],
        layer: "transformer.h.{i}.",
        base_prefix: "transformer.",
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: "bloom",
        keys: &[&[
            ("embedding_length", "hidden_size"),
            ("block_count", "n_layer"),
            ("feed_forward_length", "n_inner"),
            ("context_length", "seq_length"),
            ("attention.head_count", "n_head"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ]],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: block::store_stacked,
        config: |spec| {
            // The libraries know of no other width.
            if written::mlp(spec)?.width != 4 * spec.hidden {
                return written::none("its feed-forward is not four times as wide as its stream");
            }
            let mut config = written::config(spec, "BloomForCausalLM");
            let more = json!({
                "hidden_size": spec.hidden,
                "n_layer": spec.decoder.n_layers(),
                "n_head": written::attention(spec)?.n_heads,
                "layer_norm_epsilon": written::shortest(spec.decoder.norm.eps),
                "apply_residual_connection_post_layernorm": spec.decoder.residual == Residual::Normed,
                "seq_length": spec.context,
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let heads = block::heads(
        config,
        config.spelling(&["n_embed", "hidden_size"])?,
        config.spelling(&["num_attention_heads", "n_head"])?,
    )?;
    if config
        .opt_count("num_key_value_heads")?
        .is_some_and(|n| n != heads.n_heads)
    {
        return config.bad_value("num_key_value_heads", &heads.n_heads.to_string());
    }
    let attention = AttentionSpec {
        packing: Packing::PerGroup,
        qkv_bias: true,
        out_bias: true,
        ..heads
    };
    let width = config.opt_count("n_inner")?.unwrap_or(4 * heads.q_width());
    let mlp = block::plain_mlp(width, Activation::GeluTanh, true);
    let n_layers = config.n_layers(config.spelling(&["num_hidden_layers", "n_layer"])?)?;
    let layers = block::like_layers(n_layers, attention, mlp);
    let norm = NormSpec::layer(config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5));
    let mut stack = block::sequential(layers, Positions::Alibi { scale: 1.0 }, norm);
    if config.flag("apply_residual_connection_post_layernorm", false)? {
        stack.residual = Residual::Normed;
    }
    // Its positions have no bound: this is how far the models were trained.
    let context = config.opt_count("seq_length")?.unwrap_or(2048);
    let mut spec = block::decoder_only(config, "bloom", context, stack, true)?;
    spec.embedding.norm = Some(norm);
    Ok(spec)
}
