//! Gemma 3n (text): a residual of several streams that alternate (AltUp), a learned residual beside attention, feed-forwards of
//! which some are sparse, inputs of each layer, and last layers that see the keys of earlier ones.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, gemma, gemma4, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::RopeDefaults;
use crate::skeleton::{Elsewhere, Names, Naming, Role};
use crate::spec::{
    AltUpSpec, AttentionSpec, DenseMlp, Gating, MlpSpec, ModelSpec, NormSpec, Packing,
    PerLayerSpec, Positions, Residual, StreamsJoin, StreamsSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["gemma3n_text"],
    spec,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 35),
        ("num_attention_heads", 8),
        ("vocab_size", 262_400),
    ],
    unread: Unread {
        // Two are of training; queries and keys are normed, and their products not scaled.
        any: &[
            "altup_coef_clip",
            "altup_lr_multiplier",
            "query_pre_attn_scalar",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[
            NAMES,
            gemma4::PER_LAYER_NAMES,
            gemma::SANDWICH_NAMES,
            llama::NAMES,
        ],
        bare: &[Role::StreamScale],
        // Of layers that see others' keys, and of models that do not scale the first stream; nobody reads them.
        harmless: &[
            "layers.{i}.self_attn.k_norm.weight",
            "layers.{i}.self_attn.k_proj.weight",
            "layers.{i}.self_attn.v_proj.weight",
            "layers.{i}.altup.correct_output_scale",
        ],
        ..gemma::SANDWICH_NAMING
    },
    gguf: Some(Gguf {
        architecture: "gemma3n",
        keys: &[
            &[
                ("activation_sparsity_scale", DEVIATIONS),
                ("altup.active_idx", "altup_active_idx"),
                ("altup.num_inputs", "altup_num_inputs"),
                ("attention.shared_kv_layers", "num_kv_shared_layers"),
                (
                    "embedding_length_per_layer_input",
                    "hidden_size_per_layer_input",
                ),
                ("final_logit_softcapping", "final_logit_softcapping"),
                ("rope.freq_base_swa", "rope_local_base_freq"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::WINDOW,
        ],
        flags: &[],
        naming: |_| &GGUF_NAMING,
        // Rows of tokens beyond the table are zeros there.
        adjust: gemma4::table_of_all_tokens,
        config: |_| written::none("its sparse gates are told by deviations there, not by shares"),
    }),
};

const GGUF_NAMES: Names = &[
    (Role::StreamIn1, "altup_proj.0"),
    (Role::StreamIn2, "altup_proj.1"),
    (Role::StreamIn3, "altup_proj.2"),
    (Role::StreamOut1, "altup_unembd_proj.0"),
    (Role::StreamOut2, "altup_unembd_proj.1"),
    (Role::StreamOut3, "altup_unembd_proj.2"),
    (Role::StreamNorm, "altup_router_norm"),
    (Role::StreamRouter, "altup_router"),
    (Role::StreamPredict, "altup_predict_coef"),
    (Role::StreamCorrect, "altup_correct_coef"),
    (Role::StreamScale, "altup_correct_scale"),
    (Role::LaurelDown, "laurel_l"),
    (Role::LaurelUp, "laurel_r"),
    (Role::LaurelNorm, "laurel_post_norm"),
];

const GGUF_NAMING: Naming = Naming {
    names: &[GGUF_NAMES, gemma4::GGUF_PER_LAYER_NAMES, llama::GGUF_NAMES],
    harmless: gemma4::GGUF_UNSEEN,
    // The converter stacks those of all streams, of which it knows four.
    elsewhere: &[
        (Role::StreamIn1, Elsewhere::Item(STACKED_IN, 0, 3)),
        (Role::StreamIn2, Elsewhere::Item(STACKED_IN, 1, 3)),
        (Role::StreamIn3, Elsewhere::Item(STACKED_IN, 2, 3)),
        (Role::StreamOut1, Elsewhere::Item(STACKED_OUT, 0, 3)),
        (Role::StreamOut2, Elsewhere::Item(STACKED_OUT, 1, 3)),
        (Role::StreamOut3, Elsewhere::Item(STACKED_OUT, 2, 3)),
    ],
    ..llama::GGUF_NAMING
};

const STACKED_IN: &str = "altup_proj.weight";
const STACKED_OUT: &str = "altup_unembd_proj.weight";

const NAMES: Names = &[
    (Role::StreamIn1, "model.altup_projections.0"),
    (Role::StreamIn2, "model.altup_projections.1"),
    (Role::StreamIn3, "model.altup_projections.2"),
    (Role::StreamOut1, "model.altup_unembed_projections.0"),
    (Role::StreamOut2, "model.altup_unembed_projections.1"),
    (Role::StreamOut3, "model.altup_unembed_projections.2"),
    (Role::StreamNorm, "altup.router_norm"),
    (Role::StreamRouter, "altup.modality_router"),
    (Role::StreamPredict, "altup.prediction_coefs"),
    (Role::StreamCorrect, "altup.correction_coefs"),
    (Role::StreamScale, "altup.correct_output_scale"),
    (Role::LaurelDown, "laurel.linear_left"),
    (Role::LaurelUp, "laurel.linear_right"),
    (Role::LaurelNorm, "laurel.post_laurel_norm"),
];

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 32_768)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let n_layers = config.n_layers("num_hidden_layers")?;
    let slides = config.sliding(n_layers, |i| !(i + 1).is_multiple_of(5))?;
    let borrows = gemma4::keys_of(config, &slides, 15)?;
    let sliding = attention(config, norm)?;
    let mlps = mlps(config, n_layers)?;
    let layers = slides.iter().zip(&borrows).zip(mlps);
    let layers = layers.map(|((&slides, &keys_of), mlp)| {
        let attention = AttentionSpec {
            window: sliding.window.filter(|_| slides),
            rotary_idx: Some(usize::from(slides)),
            keys_of,
            packing: Packing::Separate,
            ..sliding
        };
        block::attending(attention, MlpSpec::Dense(mlp))
    });
    let rotaries = gemma::global_and_local(config, RopeDefaults::new(sliding.head_dim, context))?;
    let positions = Positions::Rotary(rotaries.into());
    let mut stack = block::sequential(layers.collect(), positions, norm);
    stack.residual = Residual::Sandwich;
    stack.streams = Some(streams(config)?);
    let mut spec = block::decoder_only(config, "gemma3n_text", context, stack, true)?;
    spec.embedding.scale = (spec.hidden as f32).sqrt();
    spec.embedding.per_layer = Some(PerLayerSpec {
        vocab: config
            .opt_count("vocab_size_per_layer_input")?
            .unwrap_or(262_144),
        width: config
            .opt_count("hidden_size_per_layer_input")?
            .unwrap_or(256),
        activation: config.activation(ACTIVATION, Activation::GeluTanh)?,
    });
    spec.head.soft_cap = config.cap("final_logit_softcapping", Some(30.0))?;
    Ok(spec)
}

/// Attention of layers that slide.
fn attention(config: &Config<'_>, norm: NormSpec) -> Result<AttentionSpec, ArchError> {
    let defaults = HeadDefaults {
        head_dim: Some(256),
        n_kv_heads: Some(2),
    };
    let bias = config.flag("attention_bias", false)?;
    Ok(AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: norm.of_heads(),
        v_norm: Some(norm.eps),
        scale: 1.0,
        window: config.window("sliding_window", Some(512))?,
        ..block::attention(config, defaults)?
    })
}

/// Streams of the residual.
fn streams(config: &Config<'_>) -> Result<StreamsSpec, ArchError> {
    const N: &str = "altup_num_inputs";
    const ACTIVE: &str = "altup_active_idx";
    let n = config.opt_count(N)?.unwrap_or(4);
    if !(2..=4).contains(&n) {
        return config.bad_value(N, "2, 3 or 4");
    }
    if config.whole(ACTIVE)?.is_some_and(|active| active != 0) {
        return config.bad_value(
            ACTIVE,
            "0, as all models have it: blocks compute with the first",
        );
    }
    Ok(StreamsSpec {
        n,
        join: StreamsJoin::AltUp(AltUpSpec {
            laurel_rank: config.opt_count("laurel_rank")?.unwrap_or(64),
            scales_first: config.flag("altup_correct_scale", true)?,
        }),
    })
}

/// The feed-forward of each layer: of one width for all or of its own, and sparse or not.
fn mlps(config: &Config<'_>, n_layers: usize) -> Result<Vec<DenseMlp>, ArchError> {
    const WIDTH: &str = "intermediate_size";
    let widths = match config.list(WIDTH, n_layers)? {
        Some(widths) if widths.contains(&0) => {
            return config.bad_value(WIDTH, "positive numbers");
        }
        Some(widths) => widths,
        None => vec![config.count(WIDTH)?; n_layers],
    };
    let activation = config.activation(ACTIVATION, Activation::GeluTanh)?;
    let cut_offs = match config.cut_offs(DEVIATIONS, n_layers)? {
        Some(cut_offs) => cut_offs,
        None => {
            let n_sparse = if n_layers > 10 { 10 } else { 0 };
            let default = |i| if i < n_sparse { 0.95 } else { 0.0 };
            let shares = config.shares(SPARSITIES, n_layers)?;
            let shares = shares.unwrap_or_else(|| (0..n_layers).map(default).collect());
            let of = |&share: &f64| (share > 0.0).then(|| deviations(share));
            shares.iter().map(of).collect()
        }
    };
    let mlp = |(width, cut_off): (usize, Option<f32>)| DenseMlp {
        width,
        activation: activation.into(),
        gating: Gating::Separate,
        scales: None,
        cut_off,
        bias: false,
    };
    Ok(widths.into_iter().zip(cut_offs).map(mlp).collect())
}

/// Deviations above the mean of a normal distribution below which a share of it lies, of what f32 keeps of the share.
fn deviations(share: f64) -> f32 {
    // As the reference has it: twice the distance from one half, rounded.
    let inner = f64::from(2.0 * share as f32 - 1.0);
    let target = inner.abs() / 2.0;
    let mut z = 0.0f64;
    // Newton's steps from zero on: the distribution is concave there, so that they never go too far.
    for _ in 0..64 {
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        z += (target - density * over_density(z)) / density;
    }
    z.copysign(inner) as f32
}

/// The share of a normal distribution between zero and `z`, over its density there: `z + z³ / 3 + z⁵ / 15 + …`.
fn over_density(z: f64) -> f64 {
    let (mut term, mut sum, mut n) = (z, z, 1.0);
    while term > sum * f64::EPSILON {
        n += 2.0;
        term *= z * z / n;
        sum += term;
    }
    sum
}

const ACTIVATION: &str = "hidden_activation";
const SPARSITIES: &str = "activation_sparsity_pattern";
/// What a GGUF has in its place, and no `config.json`.
const DEVIATIONS: &str = "activation_sparsity_scale";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_normal_distribution_lies_below_so_many_deviations() {
        // torch.distributions.Normal(0, 1).icdf (2.15) of f32.
        let cases = [
            (0.95, 1.644_853_6),
            (0.5, 0.0),
            (0.1, -1.281_551_6),
            (0.999_999, 4.750_757_7),
        ];
        for (share, expected) in cases {
            let found = deviations(share);
            assert!(
                (found - expected).abs() <= 2e-6 * expected.abs(),
                "{share}: {found}"
            );
        }
    }
}
