//! Falcon (Almazrouei et al. 2023): 7B, 11B, 40B, 180B and RefinedWeb's 1B, and the first spelling of their
//! configurations.

use llm_tensor::Activation;
use serde_json::{Map, Value, json};

use super::{Family, Gguf, block, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Module, Names, Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Packing, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["falcon", "RefinedWebModel", "RefinedWeb"],
    spec,
    core: &[
        ("hidden_size", 4_544),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 71),
        ("vocab_size", 65_024),
    ],
    // `ff_factor` says again what `ffn_hidden_size` says.
    unread: Unread {
        any: &["ff_factor"],
        off: &[],
    },
    naming: |spec| match spec.decoder.residual {
        Residual::ParallelTwoNorms => &TWO_NORMS_NAMING,
        _ => &NAMING,
    },
    gguf: Some(Gguf {
        architecture: "falcon",
        keys: &[&[
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "ffn_hidden_size"),
            ("context_length", "max_position_embeddings"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_kv_heads"),
            ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
            ("rope.freq_base", "rope_theta"),
        ]],
        flags: &[],
        naming: |spec| match spec.decoder.residual {
            Residual::ParallelTwoNorms => &GGUF_TWO_NORMS_NAMING,
            _ => &llama::GGUF_NAMING,
        },
        adjust: block::store_stacked,
        config: written_config,
    }),
};

/// Its first norm is the feed-forward's.
const GGUF_TWO_NORMS_NAMING: Naming = Naming {
    names: &[
        &[
            (Role::AttnNorm, "attn_norm_2"),
            (Role::MlpNorm, "attn_norm"),
        ],
        llama::GGUF_NAMES,
    ],
    ..llama::GGUF_NAMING
};

pub(super) const NAMES: Names = &[
    (Role::TokenTable, "transformer.word_embeddings"),
    (Role::AttnNorm, "input_layernorm"),
    (Role::Qkv, "self_attention.query_key_value"),
    (Role::Out, "self_attention.dense"),
    (Role::MlpNorm, "post_attention_layernorm"),
    (Role::Up, "mlp.dense_h_to_4h"),
    (Role::Down, "mlp.dense_4h_to_h"),
    (Role::FinalNorm, "transformer.ln_f"),
    (Role::Head, "lm_head"),
];

const NAMING: Naming = Naming {
    names: &[NAMES],
    layer: "transformer.h.{i}.",
    base_prefix: "transformer.",
    module: Module::Custom("FalconLinear"),
    harmless: &["self_attention.maybe_rotary.inv_freq"],
    ..Naming::PLAIN
};

/// Of the models whose attention and feed-forward have a norm each.
const TWO_NORMS_NAMING: Naming = Naming {
    names: &[
        &[(Role::AttnNorm, "ln_attn"), (Role::MlpNorm, "ln_mlp")],
        NAMES,
    ],
    ..NAMING
};

fn written_config(spec: &ModelSpec) -> Result<Map<String, Value>, ArchError> {
    let (mlp, attention) = (written::mlp(spec)?, written::attention(spec)?);
    let residual = spec.decoder.residual;
    let is_sequential = residual == Residual::Sequential;
    let n_norms = match residual {
        Residual::ParallelTwoNorms => 2,
        _ => 1,
    };
    // One key head is what the older models have, and several what they have not, but for one for each head.
    let is_new = !is_sequential && (n_norms == 2 || attention.n_kv_heads > 1);
    let mut config = written::config(spec, "FalconForCausalLM");
    let more = json!({
        "hidden_size": spec.hidden,
        "ffn_hidden_size": mlp.width,
        "num_hidden_layers": spec.decoder.n_layers(),
        "num_attention_heads": attention.n_heads,
        "num_kv_heads": attention.n_kv_heads,
        "new_decoder_architecture": is_new,
        "multi_query": attention.n_kv_heads == 1,
        "parallel_attn": !is_sequential,
        "bias": attention.qkv_bias,
        "activation": written::name(written::activation(&mlp)?),
        "layer_norm_epsilon": written::shortest(spec.decoder.norm.eps),
        "max_position_embeddings": spec.context,
    });
    written::extend(&mut config, more);
    if is_new {
        config.insert("num_ln_in_parallel_attn".to_owned(), json!(n_norms));
    }
    match &spec.decoder.positions {
        Positions::Alibi { .. } => {
            config.insert("alibi".to_owned(), json!(true));
        }
        Positions::Rotary(_) | Positions::Learned { .. } | Positions::Buckets { .. } => {
            config.insert("alibi".to_owned(), json!(false));
            written::add_rope(&mut config, spec)?;
        }
    }
    Ok(config)
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count(config.spelling(&["n_embed", "hidden_size"])?)?;
    let heads_key = config.spelling(&["n_head", "num_attention_heads"])?;
    let n_heads = config.count(heads_key)?;
    let head_dim = block::head_dim(config, heads_key, hidden, n_heads)?;
    let kv_key = config.spelling(&["n_head_kv", "num_kv_heads"])?;
    let given_kv_heads = config.opt_count(kv_key)?;
    config.only("apply_residual_connection_post_layernorm", false)?;
    // The first spelling of the larger models tells them from the others by their key heads alone, GGUF likewise.
    let told = config.opt_flag("new_decoder_architecture")?;
    let is_gguf = !config.mentions("model_type");
    let is_new =
        told.unwrap_or(kv_key == "n_head_kv" || is_gguf && given_kv_heads.is_some_and(|n| n > 1));
    let multi_query = config.flag("multi_query", true)?;
    let n_kv_heads = match (is_new, multi_query) {
        (true, _) => given_kv_heads.unwrap_or(n_heads),
        (false, true) => 1,
        (false, false) => n_heads,
    };
    if !n_heads.is_multiple_of(n_kv_heads) {
        return config.bad_value(
            kv_key,
            &format!("a divisor of the {n_heads} attention heads"),
        );
    }
    let bias = config.flag("bias", false)?;
    let attention = AttentionSpec {
        packing: Packing::PerGroup,
        qkv_bias: bias,
        out_bias: bias,
        ..block::separate_heads(n_heads, n_kv_heads, head_dim)
    };
    let context = block::context(config, 2048)?;
    let rotary = rotary(config, RopeDefaults::new(head_dim, context))?;
    let positions = match config.flag("alibi", false)? {
        // Added before the scores are scaled, once, as the models were trained; an eager path of the Python library
        // that adds them a second time with its mask is not followed.
        true => Positions::Alibi {
            scale: block::root_scale(head_dim),
        },
        false => Positions::Rotary(vec![rotary]),
    };
    let width = config.opt_count("ffn_hidden_size")?.unwrap_or(4 * hidden);
    let mlp = block::plain_mlp(
        width,
        config.activation("activation", Activation::Gelu)?,
        bias,
    );
    let n_layers = config.n_layers(config.spelling(&["n_layer", "num_hidden_layers"])?)?;
    let layers = block::like_layers(n_layers, attention, mlp);
    let norm = NormSpec::layer(config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5));
    let mut stack = block::sequential(layers, positions, norm);
    let n_norms = config
        .opt_count("num_ln_in_parallel_attn")?
        .unwrap_or(if is_new { 2 } else { 1 });
    let is_parallel = config.flag("parallel_attn", true)?;
    stack.residual = match (is_new || is_parallel, n_norms) {
        (true, 2) if is_new => Residual::ParallelTwoNorms,
        (true, _) => Residual::ParallelOneNorm,
        (false, _) => Residual::Sequential,
    };
    block::decoder_only(config, "falcon", context, stack, true)
}
