//! Llama 1 to 3 and what shares their shape (SmolLM2, TinyLlama, Vicuna, …).

use llm_tensor::{Activation, Pairing};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, GgufKeys, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Names, Naming, Role, StackRows};
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
        keys: &[GGUF_KEYS, HEAD_DIM, WINDOW],
        flags: BIASES,
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
    (Role::TokenTable, "model.embed_tokens"),
    (Role::AttnNorm, "input_layernorm"),
    (Role::Q, "self_attn.q_proj"),
    (Role::K, "self_attn.k_proj"),
    (Role::V, "self_attn.v_proj"),
    (Role::QNorm, "self_attn.q_norm"),
    (Role::KNorm, "self_attn.k_norm"),
    (Role::Out, "self_attn.o_proj"),
    (Role::MlpNorm, "post_attention_layernorm"),
    (Role::Gate, "mlp.gate_proj"),
    (Role::Up, "mlp.up_proj"),
    (Role::Down, "mlp.down_proj"),
    (Role::FinalNorm, "model.norm"),
    (Role::Head, "lm_head"),
];

/// The names that most families since Llama use.
pub(super) const NAMING: Naming = Naming {
    names: &[NAMES],
    layer: "model.layers.{i}.",
    base_prefix: "model.",
    ..Naming::PLAIN
};

/// GGUF names of the keys of most families since Llama.
pub(super) const GGUF_KEYS: GgufKeys = &[
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("context_length", "max_position_embeddings"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
];

/// Biases of Llama and its like.
pub(super) const BIASES: GgufKeys = &[
    ("attn_q.bias", "attention_bias"),
    ("ffn_down.bias", "mlp_bias"),
];
pub(super) const HEAD_DIM: GgufKeys = &[("attention.key_length", "head_dim")];
pub(super) const LAYER_NORM_EPS: GgufKeys = &[("attention.layer_norm_epsilon", "layer_norm_eps")];
pub(super) const WINDOW: GgufKeys = &[("attention.sliding_window", "sliding_window")];

/// GGUF names of the tensors of most families.
pub(super) const GGUF_NAMES: Names = &[
    (Role::TokenTable, "token_embd"),
    (Role::PositionTable, "position_embd"),
    (Role::EmbedNorm, "token_embd_norm"),
    (Role::RopeFactors, "rope_freqs"),
    (Role::AttnNorm, "attn_norm"),
    (Role::Qkv, "attn_qkv"),
    (Role::Q, "attn_q"),
    (Role::K, "attn_k"),
    (Role::V, "attn_v"),
    (Role::QNorm, "attn_q_norm"),
    (Role::KNorm, "attn_k_norm"),
    (Role::Out, "attn_output"),
    (Role::PostAttnNorm, "post_attention_norm"),
    (Role::MlpNorm, "ffn_norm"),
    (Role::Gate, "ffn_gate"),
    (Role::Up, "ffn_up"),
    (Role::GateUp, "ffn_up"),
    (Role::Down, "ffn_down"),
    (Role::PostMlpNorm, "post_ffw_norm"),
    (Role::FinalNorm, "output_norm"),
    (Role::Head, "output"),
];

/// GGUF names of experts.
pub(super) const GGUF_EXPERTS_NAMES: Names = &[
    (Role::Router, "ffn_gate_inp"),
    (Role::Gate, "ffn_gate.{e}"),
    (Role::Up, "ffn_up.{e}"),
    (Role::Down, "ffn_down.{e}"),
    (Role::RouterCorrection, "exp_probs_b.bias"),
    (Role::SharedScore, "ffn_gate_inp_shexp"),
    (Role::SharedGate, "ffn_gate_shexp"),
    (Role::SharedUp, "ffn_up_shexp"),
    (Role::SharedDown, "ffn_down_shexp"),
];

/// GGUF naming of most families' tensors.
pub(super) const GGUF_NAMING: Naming = Naming {
    names: &[GGUF_NAMES],
    layer: "blk.{i}.",
    // They are read as if they were keys.
    harmless: &["rope_factors_long.weight", "rope_factors_short.weight"],
    ..Naming::PLAIN
};

/// The same where layers have experts, one for all tokens among them: in one tensor each kind of matrix, in older files alone.
pub(super) const GGUF_EXPERTS_NAMING: Naming = Naming {
    names: &[GGUF_EXPERTS_NAMES, GGUF_NAMES],
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
    bare: &[Role::RouterCorrection],
    ..GGUF_NAMING
};

/// The name of a block's second norm in files of newer families.
pub(super) const POST_NORM: Names = &[(Role::MlpNorm, "post_attention_norm")];

/// Rows of queries and keys are stored so that neighbours are turned together.
pub(super) fn adjacent_pairs(spec: &mut ModelSpec) {
    for rotary in spec.decoder.positions.rotary_mut() {
        rotary.pairing = Pairing::Adjacent;
    }
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
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
