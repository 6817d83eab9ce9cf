//! GPT-J (Wang and Komatsuzaki 2021).

use llm_tensor::{Activation, Pairing};

use super::{Family, block};
use crate::config::{Config, Unread};
use crate::skeleton::{Naming, Role};
use crate::spec::{HeadSpec, ModelSpec, NormSpec, Positions, Residual};
use crate::{ArchError, RopeScaling, RotarySpec};

pub(super) static FAMILY: Family = Family {
    model_types: &["gptj"],
    spec,
    core: &[
        ("n_embd", 4_096),
        ("n_layer", 28),
        ("n_head", 16),
        ("n_positions", 2_048),
        ("vocab_size", 50_400),
    ],
    unread: Unread {
        any: &["n_ctx"],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "transformer.wte"),
            (Role::AttnNorm, "ln_1"),
            (Role::Q, "attn.q_proj"),
            (Role::K, "attn.k_proj"),
            (Role::V, "attn.v_proj"),
            (Role::Out, "attn.out_proj"),
            (Role::Up, "mlp.fc_in"),
            (Role::Down, "mlp.fc_out"),
            (Role::FinalNorm, "transformer.ln_f"),
            (Role::Head, "lm_head"),
        ]],
        layer: "transformer.h.{i}.",
        base_prefix: "transformer.",
        // The causal mask, its filler, and precomputed angles.
        harmless: &[
            "h.{i}.attn.bias",
            "h.{i}.attn.masked_bias",
            "h.{i}.attn.embed_positions",
        ],
        ..Naming::PLAIN
    },
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let attention = block::heads(
        config,
        config.spelling(&["hidden_size", "n_embd"])?,
        config.spelling(&["num_attention_heads", "n_head"])?,
    )?;
    let context = config.count(config.spelling(&["max_position_embeddings", "n_positions"])?)?;
    config.only("rotary", true)?;
    config.only("scale_attn_weights", true)?;
    if config.mentions("rotary_dim") && !config.has("rotary_dim") {
        return config.bad_value("rotary_dim", "a number");
    }
    let dim = config.opt_count("rotary_dim")?.unwrap_or(64);
    let head_dim = attention.head_dim;
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
        turns_back: false,
    };
    let width = config
        .opt_count("n_inner")?
        .unwrap_or(4 * attention.q_width());
    let mlp = block::plain_mlp(
        width,
        config.activation("activation_function", Activation::GeluTanh)?,
        true,
    );
    let layers = block::like_layers(
        config.n_layers(config.spelling(&["num_hidden_layers", "n_layer"])?)?,
        attention,
        mlp,
    );
    let norm = NormSpec::layer(config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-5));
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    stack.residual = Residual::ParallelOneNorm;
    let spec = block::decoder_only(config, "gptj", context, stack, false)?;
    Ok(ModelSpec {
        head: HeadSpec {
            bias: true,
            ..spec.head
        },
        ..spec
    })
}
