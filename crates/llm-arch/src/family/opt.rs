//! OPT (Zhang et al. 2022), all sizes, the post-norm 350M with its narrower embedding included.

use llm_tensor::Activation;

use super::{Family, block};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::skeleton::{Matrices, Module, Naming, Role};
use crate::spec::{AttentionSpec, FinalNorm, ModelSpec, NormSpec, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["opt"],
    spec,
    core: &[
        ("hidden_size", 768),
        ("ffn_dim", 3_072),
        ("num_hidden_layers", 12),
        ("num_attention_heads", 12),
        ("vocab_size", 50_272),
    ],
    unread: OF_NONE,
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "model.decoder.embed_tokens.weight"),
            (Role::PositionTable, "model.decoder.embed_positions.weight"),
            (Role::ProjectIn, "model.decoder.project_in.weight"),
            (Role::ProjectOut, "model.decoder.project_out.weight"),
            (
                Role::AttnNorm,
                "model.decoder.layers.{i}.self_attn_layer_norm.weight",
            ),
            (
                Role::AttnNormBias,
                "model.decoder.layers.{i}.self_attn_layer_norm.bias",
            ),
            (Role::Q, "model.decoder.layers.{i}.self_attn.q_proj.weight"),
            (
                Role::QBias,
                "model.decoder.layers.{i}.self_attn.q_proj.bias",
            ),
            (Role::K, "model.decoder.layers.{i}.self_attn.k_proj.weight"),
            (
                Role::KBias,
                "model.decoder.layers.{i}.self_attn.k_proj.bias",
            ),
            (Role::V, "model.decoder.layers.{i}.self_attn.v_proj.weight"),
            (
                Role::VBias,
                "model.decoder.layers.{i}.self_attn.v_proj.bias",
            ),
            (
                Role::Out,
                "model.decoder.layers.{i}.self_attn.out_proj.weight",
            ),
            (
                Role::OutBias,
                "model.decoder.layers.{i}.self_attn.out_proj.bias",
            ),
            (
                Role::MlpNorm,
                "model.decoder.layers.{i}.final_layer_norm.weight",
            ),
            (
                Role::MlpNormBias,
                "model.decoder.layers.{i}.final_layer_norm.bias",
            ),
            (Role::Up, "model.decoder.layers.{i}.fc1.weight"),
            (Role::UpBias, "model.decoder.layers.{i}.fc1.bias"),
            (Role::Down, "model.decoder.layers.{i}.fc2.weight"),
            (Role::DownBias, "model.decoder.layers.{i}.fc2.bias"),
            (Role::FinalNorm, "model.decoder.final_layer_norm.weight"),
            (Role::FinalNormBias, "model.decoder.final_layer_norm.bias"),
            (Role::Head, "lm_head.weight"),
        ]],
        encoder_names: &[],
        base_prefix: "model.",
        matrices: Matrices::OutIn,
        module: Module::Linear,
        wide: &[],
        harmless: &[],
        elsewhere: &[],
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count("hidden_size")?;
    let context = config.opt_count("max_position_embeddings")?.unwrap_or(2048);
    let bias = config.flag("enable_bias", true)?;
    config.only("layer_norm_elementwise_affine", true)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::heads(config)?
    };
    let activation = config.activation("activation_function", Activation::Relu)?;
    let mlp = block::plain_mlp(config.count("ffn_dim")?, activation, bias);
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    // The first two rows stand for padding and its neighbour.
    let positions = Positions::Learned {
        rows: context + 2,
        first: 2,
    };
    let mut stack = block::sequential(layers, positions, NormSpec::layer(1e-5));
    let is_pre_norm = config.flag("do_layer_norm_before", true)?;
    let is_removed = config.flag("_remove_final_layer_norm", false)?;
    if !is_pre_norm {
        stack.residual = Residual::PostNorm;
    }
    if !is_pre_norm || is_removed {
        stack.final_norm = FinalNorm::Absent;
    }
    let mut spec = block::decoder_only(config, "opt", context, stack, true)?;
    let default = match config.mentions("word_embed_proj_dim") {
        true => hidden,
        false => 768,
    };
    let width = config.opt_count("word_embed_proj_dim")?;
    spec.embedding.width = width.unwrap_or(default);
    Ok(spec)
}
