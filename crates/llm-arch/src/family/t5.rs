//! T5 (Raffel et al. 2020): version 1.0, 1.1, FLAN-T5.

use llm_tensor::Activation;

use super::{Family, block};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::skeleton::{Elsewhere, Names, Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, EmbeddingSpec, EncoderSpec, Gating, HeadSpec, LayerSpec, MlpSpec,
    ModelSpec, NormSpec, Positions,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["t5"],
    spec,
    core: &[
        ("d_model", 512),
        ("d_kv", 64),
        ("d_ff", 2_048),
        ("num_layers", 6),
        ("num_heads", 8),
        ("vocab_size", 32_128),
    ],
    unread: Unread {
        any: &[],
        off: &[("is_encoder_decoder", Off::True)],
    },
    naming: |spec| {
        if is_gated(spec) {
            &GATED_NAMING
        } else {
            &NAMING
        }
    },
    gguf: None,
};

const ENCODER_NAMES: Names = &[
    (Role::AttnNorm, "layer.0.layer_norm"),
    (Role::Q, "layer.0.SelfAttention.q"),
    (Role::K, "layer.0.SelfAttention.k"),
    (Role::V, "layer.0.SelfAttention.v"),
    (Role::Out, "layer.0.SelfAttention.o"),
    (
        Role::RelativeBias,
        "layer.0.SelfAttention.relative_attention_bias",
    ),
    (Role::MlpNorm, "layer.1.layer_norm"),
    (Role::Up, "layer.1.DenseReluDense.wi"),
    (Role::Down, "layer.1.DenseReluDense.wo"),
    (Role::FinalNorm, "encoder.final_layer_norm"),
];

const NAMES: Names = &[
    (Role::TokenTable, "shared"),
    (Role::AttnNorm, "layer.0.layer_norm"),
    (Role::Q, "layer.0.SelfAttention.q"),
    (Role::K, "layer.0.SelfAttention.k"),
    (Role::V, "layer.0.SelfAttention.v"),
    (Role::Out, "layer.0.SelfAttention.o"),
    (
        Role::RelativeBias,
        "layer.0.SelfAttention.relative_attention_bias",
    ),
    (Role::CrossNorm, "layer.1.layer_norm"),
    (Role::CrossQ, "layer.1.EncDecAttention.q"),
    (Role::CrossK, "layer.1.EncDecAttention.k"),
    (Role::CrossV, "layer.1.EncDecAttention.v"),
    (Role::CrossOut, "layer.1.EncDecAttention.o"),
    (Role::MlpNorm, "layer.2.layer_norm"),
    (Role::Up, "layer.2.DenseReluDense.wi"),
    (Role::Down, "layer.2.DenseReluDense.wo"),
    (Role::FinalNorm, "decoder.final_layer_norm"),
    (Role::Head, "lm_head"),
];

/// Tensor names of the first version.
const NAMING: Naming = Naming {
    names: &[NAMES],
    encoder_names: &[ENCODER_NAMES],
    layer: "decoder.block.{i}.",
    encoder_layer: "encoder.block.{i}.",
    // Copies of the shared table, and a table of the first version's that nothing reads.
    wide: &[Role::Down],
    harmless: &[
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "layer.{i}.EncDecAttention.relative_attention_bias.weight",
    ],
    elsewhere: &[
        (
            Role::TokenTable,
            Elsewhere::Name("encoder.embed_tokens.weight"),
        ),
        (
            Role::TokenTable,
            Elsewhere::Name("decoder.embed_tokens.weight"),
        ),
        // The references tie whatever the configuration says, which tells them only whether to scale.
        (Role::Head, Elsewhere::TokenTable),
    ],
    ..Naming::PLAIN
};

/// Tensor names of later versions.
const GATED_NAMING: Naming = Naming {
    names: &[
        &[
            (Role::Gate, "layer.2.DenseReluDense.wi_0"),
            (Role::Up, "layer.2.DenseReluDense.wi_1"),
        ],
        NAMES,
    ],
    encoder_names: &[
        &[
            (Role::Gate, "layer.1.DenseReluDense.wi_0"),
            (Role::Up, "layer.1.DenseReluDense.wi_1"),
        ],
        ENCODER_NAMES,
    ],
    ..NAMING
};

fn is_gated(spec: &ModelSpec) -> bool {
    let gating = |layer: &LayerSpec| match layer.mlp {
        MlpSpec::Dense(mlp) => mlp.gating == Gating::Separate,
        MlpSpec::Experts(_) | MlpSpec::Absent => false,
    };
    spec.decoder.layers.iter().any(gating)
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let hidden = config.count(config.spelling(&["hidden_size", "d_model"])?)?;
    let n_heads = config.count(config.spelling(&["num_attention_heads", "num_heads"])?)?;
    let head_dim = config.count(config.spelling(&["head_dim", "d_kv"])?)?;
    // Its scores are not scaled: the initialisation took care of that.
    let attention = AttentionSpec {
        scale: 1.0,
        ..block::separate_heads(n_heads, n_heads, head_dim)
    };
    let (activation, gating) = match config.text("feed_forward_proj")? {
        None | Some("relu") => (Activation::Relu, Gating::None),
        Some("gelu") => (Activation::Gelu, Gating::None),
        // The name says less than is meant: it is the tanh form.
        Some("gated-gelu") => (Activation::GeluTanh, Gating::Separate),
        Some("gated-silu") => (Activation::Silu, Gating::Separate),
        Some("gated-relu") => (Activation::Relu, Gating::Separate),
        Some(_) => {
            return config.bad_value(
                "feed_forward_proj",
                "relu, gelu, gated-gelu, gated-silu or gated-relu",
            );
        }
    };
    // Written by the reference as what it derived from that name; where they are read back, they count.
    let activation = config.activation("dense_act_fn", activation)?;
    let gating = match config.opt_flag("is_gated_act")? {
        None => gating,
        Some(true) => Gating::Separate,
        Some(false) => Gating::None,
    };
    let mlp = MlpSpec::Dense(DenseMlp {
        width: config.count("d_ff")?,
        activation: activation.into(),
        gating,
        scales: None,
        cut_off: None,
        bias: false,
    });
    let n_buckets = config
        .opt_count("relative_attention_num_buckets")?
        .unwrap_or(32);
    let max_distance = config
        .opt_count("relative_attention_max_distance")?
        .unwrap_or(128);
    // Half the buckets for either direction, half of those for one distance each, the others beyond.
    if !n_buckets.is_multiple_of(4) || max_distance <= n_buckets / 2 {
        let expected =
            format!("a multiple of 4, less than twice the maximal distance {max_distance}");
        return config.bad_value("relative_attention_num_buckets", &expected);
    }
    let positions = Positions::Buckets {
        n_buckets,
        max_distance,
    };
    let norm = NormSpec::rms(config.opt_positive("layer_norm_epsilon")?.unwrap_or(1e-6));
    let stack = |n_layers| {
        let layers = block::like_layers(n_layers, attention, mlp);
        block::sequential(layers, positions.clone(), norm)
    };
    let n_layers = config.n_layers(config.spelling(&["num_hidden_layers", "num_layers"])?)?;
    let n_decoder_layers = match config.has("num_decoder_layers") {
        true => config.n_layers("num_decoder_layers")?,
        false => n_layers,
    };
    let matrix = block::head_matrix(config, true)?;
    // Later versions say it, in earlier ones a tied table meant it.
    let is_scaled = config
        .opt_flag("scale_decoder_outputs")?
        .unwrap_or(matrix == crate::HeadMatrix::Tied);
    let scale = if is_scaled {
        (hidden as f32).sqrt().recip()
    } else {
        1.0
    };
    let start_token = config.whole("decoder_start_token_id")?.unwrap_or(0) as u32;
    let vocab = config.count("vocab_size")?;
    if start_token as usize >= vocab {
        return config.bad_value("decoder_start_token_id", &format!("a number below {vocab}"));
    }
    // Its positions have no bound: what the configuration calls `n_positions` is the length of its training.
    let context = config.opt_count("n_positions")?.unwrap_or(512).max(2048);
    Ok(ModelSpec {
        family: "t5",
        hidden,
        vocab,
        context,
        embedding: EmbeddingSpec {
            width: hidden,
            scale: 1.0,
            norm: None,
            per_layer: None,
        },
        encoder: Some(EncoderSpec {
            stack: stack(n_layers),
            start_token,
        }),
        decoder: stack(n_decoder_layers),
        head: HeadSpec {
            scale,
            ..HeadSpec::plain(matrix)
        },
        n_drafting: 0,
        dtype: config.dtype()?,
    })
}
