//! GPT-J (Wang and Komatsuzaki 2021).

use llm_tensor::{Activation, Pairing};

use super::{Family, block};
use crate::config::Config;
use crate::skeleton::{Matrices, Module, Naming, Role};
use crate::spec::{HeadSpec, ModelSpec, NormSpec, Positions, Residual};
use crate::{ArchError, RopeScaling, RotarySpec};

pub(super) static FAMILY: Family = Family {
    model_types: &["gptj"],
    spec,
    harmless_keys: &[
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "n_ctx",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    ],
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "transformer.wte.weight"),
            (Role::AttnNorm, "transformer.h.{i}.ln_1.weight"),
            (Role::AttnNormBias, "transformer.h.{i}.ln_1.bias"),
            (Role::Q, "transformer.h.{i}.attn.q_proj.weight"),
            (Role::K, "transformer.h.{i}.attn.k_proj.weight"),
            (Role::V, "transformer.h.{i}.attn.v_proj.weight"),
            (Role::Out, "transformer.h.{i}.attn.out_proj.weight"),
            (Role::Up, "transformer.h.{i}.mlp.fc_in.weight"),
            (Role::UpBias, "transformer.h.{i}.mlp.fc_in.bias"),
            (Role::Down, "transformer.h.{i}.mlp.fc_out.weight"),
            (Role::DownBias, "transformer.h.{i}.mlp.fc_out.bias"),
            (Role::FinalNorm, "transformer.ln_f.weight"),
            (Role::FinalNormBias, "transformer.ln_f.bias"),
            (Role::Head, "lm_head.weight"),
            (Role::HeadBias, "lm_head.bias"),
        ]],
        encoder_names: &[],
        base_prefix: "transformer.",
        matrices: Matrices::OutIn,
        module: Module::Linear,
        // The causal mask, its filler, and precomputed angles.
        wide: &[],
        harmless: &[
            "h.{i}.attn.bias",
            "h.{i}.attn.masked_bias",
            "h.{i}.attn.embed_positions",
        ],
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count("n_embd")?;
    let n_heads = config.count("n_head")?;
    let head_dim = block::head_dim(config, "n_head", hidden, n_heads)?;
    let context = config.count("n_positions")?;
    config.only("rotary", true)?;
    config.only("scale_attn_weights", true)?;
    let dim = config.opt_count("rotary_dim")?.unwrap_or(64);
    if dim > head_dim || !dim.is_multiple_of(2) {
        return config.bad_value(
            "rotary_dim",
            &format!("an even part of a head's {head_dim} elements"),
        );
    }
    let rotary = RotarySpec {
        dim,
        series: dim,
        base: 10_000.0,
        pairing: Pairing::Adjacent,
        scaling: RopeScaling::None,
    };
    let attention = block::separate_heads(n_heads, n_heads, head_dim);
    let width = config.opt_count("n_inner")?.unwrap_or(4 * hidden);
    let mlp = block::plain_mlp(
        width,
        config.activation("activation_function", Activation::GeluTanh)?,
        true,
    );
    let layers = block::like_layers(config.n_layers("n_layer")?, &attention, mlp);
    let norm = NormSpec::layer(config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5));
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm, attention);
    stack.block.residual = Residual::ParallelOneNorm;
    let spec = block::decoder_only(config, "gptj", context, stack, false)?;
    Ok(ModelSpec {
        head: HeadSpec {
            bias: true,
            ..spec.head
        },
        ..spec
    })
}
