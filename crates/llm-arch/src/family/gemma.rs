//! Gemma 1, 2 and 3 (text).

use llm_tensor::Activation;
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, sliding, written};
use crate::config::{Config, OF_NONE, OF_ROPE, Unread};
use crate::rope_config::{self, RopeDefaults, rotary};
use crate::skeleton::{Names, Naming, Role};
use crate::spec::{AttentionSpec, MlpSpec, ModelSpec, NormSpec, Positions, Residual, StackSpec};
use crate::{ArchError, RotarySpec};

pub(super) static GEMMA: Family = Family {
    model_types: &["gemma"],
    spec: gemma,
    core: &[
        ("hidden_size", 3_072),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 28),
        ("num_attention_heads", 16),
        ("vocab_size", 256_000),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(gguf("gemma", gain_from_zero, |spec| {
        let mut config = written(spec, "GemmaForCausalLM")?;
        written::add_rope(&mut config, spec)?;
        Ok(config)
    })),
};

pub(super) static GEMMA2: Family = Family {
    model_types: &["gemma2"],
    spec: gemma2,
    core: &[
        ("hidden_size", 2_304),
        ("intermediate_size", 9_216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("vocab_size", 256_000),
    ],
    unread: Unread {
        // A name that the window had in its first files, and that the reference never read.
        any: &["hidden_act", "sliding_window_size"],
        off: &[],
    },
    naming: |_| &SANDWICH_NAMING,
    gguf: Some(gguf(
        "gemma2",
        |spec| {
            gain_from_zero(spec);
            scale_by_size(spec, 46);
        },
        |spec| {
            let mut config = written_sandwich(spec, "Gemma2ForCausalLM")?;
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    )),
};

pub(super) static GEMMA3: Family = Family {
    model_types: &["gemma3_text"],
    spec: gemma3,
    core: &[
        ("hidden_size", 2_304),
        ("intermediate_size", 9_216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("vocab_size", 262_208),
    ],
    unread: UNREAD,
    naming: |_| &SANDWICH_NAMING,
    gguf: Some(gguf(
        "gemma3",
        |spec| {
            gain_from_zero(spec);
            scale_by_size(spec, 62);
        },
        |spec| {
            let mut config = written_sandwich(spec, "Gemma3ForCausalLM")?;
            written::add_rope(&mut config, spec)?;
            if let Some(local) = spec.decoder.positions.rotary().get(1) {
                config.insert("rope_local_base_freq".to_owned(), local.base.into());
            }
            Ok(config)
        },
    )),
};

const UNREAD: Unread = Unread {
    // Later versions have `hidden_activation` in its place.
    any: &["hidden_act"],
    off: &[],
};

pub(super) const SANDWICH_NAMING: Naming = Naming {
    names: &[SANDWICH_NAMES, llama::NAMES],
    ..llama::NAMING
};

pub(super) const SANDWICH_NAMES: Names = &[
    (Role::PostAttnNorm, "post_attention_layernorm"),
    (Role::MlpNorm, "pre_feedforward_layernorm"),
    (Role::PostMlpNorm, "post_feedforward_layernorm"),
];

const fn gguf(
    architecture: &'static str,
    adjust: fn(&mut ModelSpec),
    config: fn(&ModelSpec) -> Result<Map<String, Value>, ArchError>,
) -> Gguf {
    Gguf {
        architecture,
        keys: &[
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::WINDOW,
            &[
                ("attn_logit_softcapping", "attn_logit_softcapping"),
                ("final_logit_softcapping", "final_logit_softcapping"),
            ],
        ],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust,
        config,
    }
}

fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let mut config = written::like_llama(spec, architecture)?;
    let activation = written::name(written::activation(&written::mlp(spec)?)?);
    config.insert("hidden_activation".to_owned(), activation.into());
    Ok(config)
}

fn written_sandwich(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let cap = |cap: Option<f32>| cap.map(written::shortest);
    let mut config = written(spec, architecture)?;
    written::extend(&mut config, sliding::written(spec));
    let more = json!({
        "query_pre_attn_scalar": written::scalar(written::attention(spec)?.scale),
        "attn_logit_softcapping": cap(written::attention(spec)?.soft_cap),
        "final_logit_softcapping": cap(spec.head.soft_cap),
    });
    written::extend(&mut config, more);
    Ok(config)
}

/// GGUF stores the gains themselves.
fn gain_from_zero(spec: &mut ModelSpec) {
    let stack = &mut spec.decoder;
    stack.norm.gain_offset = 0.0;
    let norms = stack.attentions_mut();
    let norms = norms.filter_map(|attention| attention.qk_norm.as_mut());
    norms.for_each(|qk| qk.norm.gain_offset = 0.0);
}

/// GGUF does not say what scores are scaled by: the size of a head, but in the models of 27B, told by their number of
/// layers, the hidden size shared among the heads.
fn scale_by_size(spec: &mut ModelSpec, n_layers_of_27b: usize) {
    let is_27b = spec.decoder.n_layers() == n_layers_of_27b;
    for attention in spec.decoder.attentions_mut() {
        attention.scale = block::root_scale(match is_27b {
            true => spec.hidden / attention.n_heads,
            false => attention.head_dim,
        });
    }
}

fn gemma(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 8192)?;
    let attention = attention(config, 16)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = first_mlp(config)?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm(config)?);
    model(config, "gemma", context, stack)
}

fn gemma2(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 8192)?;
    let soft_cap = config.cap("attn_logit_softcapping", Some(50.0))?;
    let attention = AttentionSpec {
        soft_cap,
        scale: scale(config)?,
        ..attention(config, 4)?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mut stack = sandwich(config, vec![rotary], attention)?;
    let slides = config.sliding(stack.n_layers(), |i| i.is_multiple_of(2))?;
    let window = config.window("sliding_window", Some(4096))?;
    block::slide(&mut stack, &slides, window);
    let mut spec = model(config, "gemma2", context, stack)?;
    spec.head.soft_cap = config.cap("final_logit_softcapping", Some(30.0))?;
    Ok(spec)
}

fn gemma3(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let soft_cap = config.cap("attn_logit_softcapping", None)?;
    let attention = AttentionSpec {
        soft_cap,
        scale: scale(config)?,
        qk_norm: norm(config)?.of_heads(),
        ..attention(config, 4)?
    };
    let rotaries = global_and_local(config, RopeDefaults::new(attention.head_dim, context))?;
    let mut stack = sandwich(config, rotaries.into(), attention)?;
    let pattern = config.opt_count("sliding_window_pattern")?.unwrap_or(6);
    let slides = config.sliding(stack.n_layers(), |i| !(i + 1).is_multiple_of(pattern))?;
    let window = config.window("sliding_window", Some(4096))?;
    block::slide(&mut stack, &slides, window);
    for (attention, slides) in stack.attentions_mut().zip(&slides) {
        attention.rotary_idx = Some(usize::from(*slides));
    }
    let mut spec = model(config, "gemma3_text", context, stack)?;
    spec.head.soft_cap = config.cap("final_logit_softcapping", None)?;
    Ok(spec)
}

/// The rotary positions of layers that see all, and of those that slide.
pub(super) fn global_and_local(
    config: &Config<'_>,
    defaults: RopeDefaults,
) -> Result<[RotarySpec; 2], ArchError> {
    let local_base = config
        .opt_positive("rope_local_base_freq")?
        .unwrap_or(10_000.0);
    let global = RopeDefaults {
        base: 1e6,
        ..defaults
    };
    let local = RopeDefaults {
        base: local_base,
        ..defaults
    };
    if let Some(by_type) = rope_config::by_type(config, [global, local])? {
        return Ok(by_type);
    }
    // The older spelling scales the layers that see all and leaves the others alone. The newer one without the kinds of
    // layers says nothing.
    if let Some(flat) = config.object("rope_parameters")? {
        flat.tick_all(&["rope_theta", "rope_type", "type"]);
        let kind = flat.text(flat.spelling(&["rope_type", "type"])?)?;
        if kind.is_some_and(|kind| kind != "default") || flat.has("rope_theta") {
            return config.bad_value("rope_parameters", "one object for each kind of layer");
        }
        flat.finish(&OF_ROPE);
    }
    let global = rotary(config, global)?;
    let sliding = RotarySpec {
        base: local_base,
        scaling: crate::RopeScaling::None,
        ..global.clone()
    };
    Ok([global, sliding])
}

fn attention(config: &Config<'_>, n_kv_heads: usize) -> Result<AttentionSpec, ArchError> {
    let defaults = HeadDefaults {
        head_dim: Some(256),
        n_kv_heads: Some(n_kv_heads),
    };
    config.only("use_bidirectional_attention", false)?;
    let bias = config.flag("attention_bias", false)?;
    Ok(AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, defaults)?
    })
}

fn norm(config: &Config<'_>) -> Result<NormSpec, ArchError> {
    Ok(NormSpec::rms_around_one(
        config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6),
    ))
}

/// The first version's, whose non-linearity is named by another key, and not as it is meant.
fn first_mlp(config: &Config<'_>) -> Result<MlpSpec, ArchError> {
    let default = Activation::GeluTanh;
    let activation = match config.text("hidden_act")? {
        // What the files were written with means the tanh form.
        Some("gelu") => default,
        _ => config.activation("hidden_act", default)?,
    };
    // Some versions of the reference library took this key instead, some take neither.
    if config.activation("hidden_activation", activation)? != activation {
        return config.bad_value(
            "hidden_activation",
            "the same as `hidden_act`, gelu being tanh",
        );
    }
    let mlp = gated(config, "hidden_activation", activation, false)?;
    Ok(mlp)
}

/// Scores are scaled by a number of their own.
fn scale(config: &Config<'_>) -> Result<f32, ArchError> {
    let scalar = config.opt_positive("query_pre_attn_scalar")?;
    Ok((scalar.unwrap_or(256.0) as f32).sqrt().recip())
}

fn sandwich(
    config: &Config<'_>,
    rotaries: Vec<RotarySpec>,
    attention: AttentionSpec,
) -> Result<StackSpec, ArchError> {
    let mlp = gated(config, "hidden_activation", Activation::GeluTanh, false)?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(rotaries), norm(config)?);
    stack.residual = Residual::Sandwich;
    Ok(stack)
}

fn model(
    config: &Config<'_>,
    family: &'static str,
    context: usize,
    stack: StackSpec,
) -> Result<ModelSpec, ArchError> {
    let mut spec = block::decoder_only(config, family, context, stack, true)?;
    spec.embedding.scale = (spec.hidden as f32).sqrt();
    Ok(spec)
}
