//! OPT (Zhang et al. 2022), all sizes, the post-norm 350M with its narrower embedding included.

use llm_tensor::Activation;

use super::{Family, block};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::skeleton::{Naming, Role};
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
            (Role::TokenTable, "model.decoder.embed_tokens"),
            (Role::PositionTable, "model.decoder.embed_positions"),
            (Role::ProjectIn, "model.decoder.project_in"),
            (Role::ProjectOut, "model.decoder.project_out"),
            (Role::AttnNorm, "self_attn_layer_norm"),
            (Role::Q, "self_attn.q_proj"),
            (Role::K, "self_attn.k_proj"),
            (Role::V, "self_attn.v_proj"),
            (Role::Out, "self_attn.out_proj"),
            (Role::MlpNorm, "final_layer_norm"),
            (Role::Up, "fc1"),
            (Role::Down, "fc2"),
            (Role::FinalNorm, "model.decoder.final_layer_norm"),
            (Role::Head, "lm_head"),
        ]],
        layer: "model.decoder.layers.{i}.",
        base_prefix: "model.",
        ..Naming::PLAIN
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count("hidden_size")?;
    let context = block::context(config, 2048)?;
    let bias = config.flag("enable_bias", true)?;
    config.only("layer_norm_elementwise_affine", true)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::heads(config, "hidden_size", "num_attention_heads")?
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
