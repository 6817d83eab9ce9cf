//! Llama 1 to 3 and what shares their shape (SmolLM2, TinyLlama, Vicuna, …).

use llm_tensor::{Activation, Norm, Pairing};

use super::{Family, Gguf};
use crate::config::Config;
use crate::skeleton::{Matrices, Naming, Role};
use crate::spec::{
    AttentionSpec, BlockSpec, Head, MlpSpec, ModelSpec, NormSpec, Packing, Positions, StackSpec,
};
use crate::{ArchError, RotarySpec};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    spec,
    harmless_keys: &[
        "attention_dropout",
        "pretraining_tp",
        "is_llama_config",
        "rope_interleaved",
    ],
    naming: Naming {
        names: &[
            (Role::TokenTable, "model.embed_tokens.weight"),
            (Role::AttnNorm, "model.layers.{i}.input_layernorm.weight"),
            (Role::Q, "model.layers.{i}.self_attn.q_proj.weight"),
            (Role::QBias, "model.layers.{i}.self_attn.q_proj.bias"),
            (Role::K, "model.layers.{i}.self_attn.k_proj.weight"),
            (Role::KBias, "model.layers.{i}.self_attn.k_proj.bias"),
            (Role::V, "model.layers.{i}.self_attn.v_proj.weight"),
            (Role::VBias, "model.layers.{i}.self_attn.v_proj.bias"),
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
        ],
        base_prefix: "model.",
        matrices: Matrices::OutIn,
        harmless: &["self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"],
    },
    gguf: Some(Gguf {
        architecture: "llama",
        keys: &[
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
            ("context_length", "max_position_embeddings"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
            ("rope.freq_base", "rope_theta"),
        ],
        constants: &[],
        naming: Naming {
            names: &[
                (Role::TokenTable, "token_embd.weight"),
                (Role::RopeFactors, "rope_freqs.weight"),
                (Role::AttnNorm, "blk.{i}.attn_norm.weight"),
                (Role::Q, "blk.{i}.attn_q.weight"),
                (Role::K, "blk.{i}.attn_k.weight"),
                (Role::V, "blk.{i}.attn_v.weight"),
                (Role::Out, "blk.{i}.attn_output.weight"),
                (Role::MlpNorm, "blk.{i}.ffn_norm.weight"),
                (Role::Gate, "blk.{i}.ffn_gate.weight"),
                (Role::Up, "blk.{i}.ffn_up.weight"),
                (Role::Down, "blk.{i}.ffn_down.weight"),
                (Role::FinalNorm, "output_norm.weight"),
                (Role::Head, "output.weight"),
            ],
            base_prefix: "",
            matrices: Matrices::RotaryAdjacent,
            harmless: &[],
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count("hidden_size")?;
    let n_heads = config.count("num_attention_heads")?;
    let n_kv_heads = config.opt_count("num_key_value_heads")?.unwrap_or(n_heads);
    if n_heads % n_kv_heads != 0 {
        return config.bad_value(
            "num_key_value_heads",
            &format!("a divisor of the {n_heads} attention heads"),
        );
    }
    let head_dim = match config.opt_count("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden % n_heads == 0 => hidden / n_heads,
        None => {
            return config.bad_value(
                "num_attention_heads",
                &format!("a divisor of the hidden size {hidden}"),
            );
        }
    };
    if head_dim % 2 != 0 {
        return config.bad_value("head_dim", "an even number");
    }
    // Only GGUF says these; another extent would be a partial rotation or values of another width.
    for key in ["rope.dimension_count", "attention.value_length"] {
        if config.opt_count(key)?.is_some_and(|dim| dim != head_dim) {
            return config.bad_value(key, &head_dim.to_string());
        }
    }
    config.only("rope_interleaved", false)?;
    let (base, scaling) = config.rope(10_000.0)?;
    let attention_bias = config.flag("attention_bias", false)?;
    Ok(ModelSpec {
        family: "llama",
        hidden,
        vocab: config.count("vocab_size")?,
        context: config.opt_count("max_position_embeddings")?.unwrap_or(2048),
        decoder: StackSpec {
            n_layers: config.n_layers("num_hidden_layers")?,
            positions: Positions::Rotary(RotarySpec {
                dim: head_dim,
                base,
                pairing: Pairing::Halves,
                scaling,
            }),
            norm: NormSpec {
                norm: Norm::Rms,
                eps: config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            },
            block: BlockSpec {
                attention: AttentionSpec {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    scale: (head_dim as f32).sqrt().recip(),
                    packing: Packing::Separate,
                    qkv_bias: attention_bias,
                    out_bias: attention_bias,
                },
                mlp: MlpSpec {
                    width: config.count("intermediate_size")?,
                    activation: config.activation("hidden_act", Activation::Silu)?,
                    gated: true,
                    bias: config.flag("mlp_bias", false)?,
                },
            },
        },
        head: if config.flag("tie_word_embeddings", false)? {
            Head::Tied
        } else {
            Head::Separate
        },
        dtype: config.dtype()?,
    })
}
