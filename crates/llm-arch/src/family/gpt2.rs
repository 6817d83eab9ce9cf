//! GPT-2 (Radford et al. 2019), all sizes, DistilGPT-2.

use llm_tensor::{Activation, Norm};

use super::Family;
use crate::ArchError;
use crate::config::Config;
use crate::skeleton::{Matrices, Naming, Role};
use crate::spec::{
    AttentionSpec, BlockSpec, Head, MlpSpec, ModelSpec, NormSpec, Packing, Positions, StackSpec,
};

pub(super) static FAMILY: Family = Family {
    model_type: "gpt2",
    spec,
    harmless_keys: &[
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        // An older name for the number of positions, beside `n_positions`.
        "n_ctx",
        // Only the order of equal operations in half precision.
        "reorder_and_upcast_attn",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    naming: Naming {
        names: &[
            (Role::TokenTable, "transformer.wte.weight"),
            (Role::PositionTable, "transformer.wpe.weight"),
            (Role::AttnNorm, "transformer.h.{i}.ln_1.weight"),
            (Role::AttnNormBias, "transformer.h.{i}.ln_1.bias"),
            (Role::Qkv, "transformer.h.{i}.attn.c_attn.weight"),
            (Role::QkvBias, "transformer.h.{i}.attn.c_attn.bias"),
            (Role::Out, "transformer.h.{i}.attn.c_proj.weight"),
            (Role::OutBias, "transformer.h.{i}.attn.c_proj.bias"),
            (Role::MlpNorm, "transformer.h.{i}.ln_2.weight"),
            (Role::MlpNormBias, "transformer.h.{i}.ln_2.bias"),
            (Role::Up, "transformer.h.{i}.mlp.c_fc.weight"),
            (Role::UpBias, "transformer.h.{i}.mlp.c_fc.bias"),
            (Role::Down, "transformer.h.{i}.mlp.c_proj.weight"),
            (Role::DownBias, "transformer.h.{i}.mlp.c_proj.bias"),
            (Role::FinalNorm, "transformer.ln_f.weight"),
            (Role::FinalNormBias, "transformer.ln_f.bias"),
            (Role::Head, "lm_head.weight"),
        ],
        base_prefix: "transformer.",
        matrices: Matrices::InOut,
        // The causal mask and its filler.
        harmless: &["h.{i}.attn.bias", "h.{i}.attn.masked_bias"],
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count("n_embd")?;
    let n_heads = config.count("n_head")?;
    if hidden % n_heads != 0 {
        return config.bad_value("n_head", &format!("a divisor of the hidden size {hidden}"));
    }
    let head_dim = hidden / n_heads;
    let context = config.count("n_positions")?;
    config.only("add_cross_attention", false)?;
    config.only("scale_attn_by_inverse_layer_idx", false)?;
    let scaled = config.flag("scale_attn_weights", true)?;
    Ok(ModelSpec {
        family: "gpt2",
        hidden,
        vocab: config.count("vocab_size")?,
        context,
        decoder: StackSpec {
            n_layers: config.n_layers("n_layer")?,
            positions: Positions::Learned { max: context },
            norm: NormSpec {
                norm: Norm::Layer,
                eps: config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
            },
            block: BlockSpec {
                attention: AttentionSpec {
                    n_heads,
                    n_kv_heads: n_heads,
                    head_dim,
                    scale: if scaled {
                        (head_dim as f32).sqrt().recip()
                    } else {
                        1.0
                    },
                    packing: Packing::Stacked,
                    qkv_bias: true,
                    out_bias: true,
                },
                mlp: MlpSpec {
                    width: config.opt_count("n_inner")?.unwrap_or(4 * hidden),
                    activation: config.activation("activation_function", Activation::GeluTanh)?,
                    gated: false,
                    bias: true,
                },
            },
        },
        head: if config.flag("tie_word_embeddings", true)? {
            Head::Tied
        } else {
            Head::Separate
        },
        dtype: config.dtype()?,
    })
}
