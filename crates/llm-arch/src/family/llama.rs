//! Llama 1 to 3 and what shares their shape (SmolLM2, TinyLlama, Vicuna, …).

use llm_tensor::{Activation, Pairing};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Matrices, Module, Names, Naming, Role, StackRows};
use crate::spec::{ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["llama"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: Unread {
        any: &[
            "is_llama_config",
            // Of the models that it shares its shape with; its own layers never slide.
            "max_window_layers",
            "sliding_window",
        ],
        off: &[],
    },
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "llama",
        keys: GGUF_KEYS,
        naming: |_| &GGUF_NAMING,
        adjust: adjacent_pairs,
        config: |spec| {
            let attention = written::attention(spec)?;
            let mut config = written::like_llama(spec, "LlamaForCausalLM")?;
            config.insert("attention_bias".to_owned(), attention.qkv_bias.into());
            config.insert("mlp_bias".to_owned(), written::mlp(spec)?.bias.into());
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

/// The names that most families since Llama use.
pub(super) const NAMES: Names = &[
    (Role::TokenTable, "model.embed_tokens.weight"),
    (Role::AttnNorm, "model.layers.{i}.input_layernorm.weight"),
    (Role::Q, "model.layers.{i}.self_attn.q_proj.weight"),
    (Role::QBias, "model.layers.{i}.self_attn.q_proj.bias"),
    (Role::K, "model.layers.{i}.self_attn.k_proj.weight"),
    (Role::KBias, "model.layers.{i}.self_attn.k_proj.bias"),
    (Role::V, "model.layers.{i}.self_attn.v_proj.weight"),
    (Role::VBias, "model.layers.{i}.self_attn.v_proj.bias"),
    (Role::QNorm, "model.layers.{i}.self_attn.q_norm.weight"),
    (Role::KNorm, "model.layers.{i}.self_attn.k_norm.weight"),
    (Role::Out, "model.layers.{i}.self_attn.o_proj.weight"),
    (Role::OutBias, "model.layers.{i}.self_attn.o_proj.bias"),
    (
        Role::MlpNorm,
        "model.layers.{i}.post_attention_layernorm.weight",
    ),
    (Role::Gate, "model.layers.{i}.mlp.gate_proj.weight"),
    (Role::GateBias, "model.layers.{i}.mlp.gate_proj.bias"),
    (Role::Up, "model.layers.{i}.mlp.up_proj.weight"),
    (Role::UpBias, "model.layers.{i}.mlp.up_proj.bias"),
    (Role::Down, "model.layers.{i}.mlp.down_proj.weight"),
    (Role::DownBias, "model.layers.{i}.mlp.down_proj.bias"),
    (Role::FinalNorm, "model.norm.weight"),
    (Role::Head, "lm_head.weight"),
];

/// The names that most families since Llama use.
pub(super) const NAMING: Naming = Naming {
    names: &[NAMES],
    encoder_names: &[],
    base_prefix: "model.",
    matrices: Matrices::OutIn,
    module: Module::Linear,
    wide: &[],
    harmless: &["self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"],
    elsewhere: &[],
};

/// GGUF names of the keys of most families since Llama.
pub(super) const GGUF_KEYS: &[(&str, &str)] = &[
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("context_length", "max_position_embeddings"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("attention.sliding_window", "sliding_window"),
    ("rope.freq_base", "rope_theta"),
];

/// GGUF names of the tensors of most families.
pub(super) const GGUF_NAMES: Names = &[
    (Role::TokenTable, "token_embd.weight"),
    (Role::PositionTable, "position_embd.weight"),
    (Role::EmbedNorm, "token_embd_norm.weight"),
    (Role::EmbedNormBias, "token_embd_norm.bias"),
    (Role::RopeFactors, "rope_freqs.weight"),
    (Role::AttnNorm, "blk.{i}.attn_norm.weight"),
    (Role::AttnNormBias, "blk.{i}.attn_norm.bias"),
    (Role::Qkv, "blk.{i}.attn_qkv.weight"),
    (Role::QkvBias, "blk.{i}.attn_qkv.bias"),
    (Role::Q, "blk.{i}.attn_q.weight"),
    (Role::QBias, "blk.{i}.attn_q.bias"),
    (Role::K, "blk.{i}.attn_k.weight"),
    (Role::KBias, "blk.{i}.attn_k.bias"),
    (Role::V, "blk.{i}.attn_v.weight"),
    (Role::VBias, "blk.{i}.attn_v.bias"),
    (Role::QNorm, "blk.{i}.attn_q_norm.weight"),
    (Role::KNorm, "blk.{i}.attn_k_norm.weight"),
    (Role::Out, "blk.{i}.attn_output.weight"),
    (Role::OutBias, "blk.{i}.attn_output.bias"),
    (Role::PostAttnNorm, "blk.{i}.post_attention_norm.weight"),
    (Role::MlpNorm, "blk.{i}.ffn_norm.weight"),
    (Role::MlpNormBias, "blk.{i}.ffn_norm.bias"),
    (Role::Gate, "blk.{i}.ffn_gate.weight"),
    (Role::Up, "blk.{i}.ffn_up.weight"),
    (Role::UpBias, "blk.{i}.ffn_up.bias"),
    (Role::GateUp, "blk.{i}.ffn_up.weight"),
    (Role::Down, "blk.{i}.ffn_down.weight"),
    (Role::DownBias, "blk.{i}.ffn_down.bias"),
    (Role::PostMlpNorm, "blk.{i}.post_ffw_norm.weight"),
    (Role::FinalNorm, "output_norm.weight"),
    (Role::FinalNormBias, "output_norm.bias"),
    (Role::Head, "output.weight"),
];

/// GGUF naming of most families' tensors.
pub(super) const GGUF_NAMING: Naming = Naming {
    names: &[GGUF_NAMES],
    encoder_names: &[],
    base_prefix: "",
    matrices: Matrices::OutIn,
    module: Module::Linear,
    wide: &[],
    // They are read as if they were keys.
    harmless: &["rope_factors_long.weight", "rope_factors_short.weight"],
    elsewhere: &[],
};

/// The same where layers have experts: in one tensor each kind of matrix, in older files alone.
pub(super) const GGUF_EXPERTS_NAMING: Naming = Naming {
    names: &[
        &[
            (Role::Router, "blk.{i}.ffn_gate_inp.weight"),
            (Role::Gate, "blk.{i}.ffn_gate.{e}.weight"),
            (Role::Up, "blk.{i}.ffn_up.{e}.weight"),
            (Role::Down, "blk.{i}.ffn_down.{e}.weight"),
        ],
        GGUF_NAMES,
    ],
    elsewhere: &[
        (
            Role::Gate,
            Elsewhere::Stack("blk.{i}.ffn_gate_exps.weight", StackRows::All),
        ),
        (
            Role::Up,
            Elsewhere::Stack("blk.{i}.ffn_up_exps.weight", StackRows::All),
        ),
        (
            Role::Gate,
            Elsewhere::Stack("blk.{i}.ffn_gate_up_exps.weight", StackRows::First),
        ),
        (
            Role::Up,
            Elsewhere::Stack("blk.{i}.ffn_gate_up_exps.weight", StackRows::Second),
        ),
        (
            Role::Down,
            Elsewhere::Stack("blk.{i}.ffn_down_exps.weight", StackRows::All),
        ),
    ],
    ..GGUF_NAMING
};

/// Rows of queries and keys are stored so that neighbours are turned together.
pub(super) fn adjacent_pairs(spec: &mut ModelSpec) {
    if let Positions::Rotary(kinds) = &mut spec.decoder.positions {
        for rotary in kinds {
            rotary.pairing = Pairing::Adjacent;
        }
    }
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = config.opt_count("max_position_embeddings")?.unwrap_or(2048);
    let mut attention = block::attention(config, HeadDefaults::default())?;
    (attention.qkv_bias, attention.out_bias) = match config.flag("attention_bias", false)? {
        true => (true, true),
        false => (false, false),
    };
    config.only("rope_interleaved", false)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = gated(
        config,
        "hidden_act",
        Activation::Silu,
        config.flag("mlp_bias", false)?,
    )?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "llama", context, stack, false)
}
