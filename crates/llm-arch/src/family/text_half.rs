//! The text half of models that also read pictures or hear: a family's model inside another configuration.

use serde_json::{Map, Value};

use super::{Family, family, read_spec};
use crate::config::{Config, TEXT_CONFIG};
use crate::error::UnknownKey;
use crate::{ArchError, ModelSpec};

/// A kind of model whose text half is one of ours, and computes as that does where there is nothing but text.
struct Wrapper {
    /// `model_type` in `config.json`.
    model_type: &'static str,
    /// The `model_type` of the text half where `text_config` names none.
    text: &'static str,
    /// Defaults of `text_config` that are not the family's.
    defaults: &'static [(&'static str, f64)],
    /// Configurations whose `tie_word_embeddings` counts.
    tie: Tie,
}

/// Place of `tie_word_embeddings`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// In the whole model's configuration, if it is there.
    Outer,
    /// In either.
    Either,
}

const fn of(model_type: &'static str, text: &'static str, tie: Tie) -> Wrapper {
    Wrapper {
        model_type,
        text,
        defaults: &[],
        tie,
    }
}

const WRAPPERS: &[Wrapper] = &[
    of("fast_vlm", "qwen2", Tie::Either),
    of("gemma3", "gemma3_text", Tie::Outer),
    of("gemma3n", "gemma3n_text", Tie::Outer),
    of("gemma4", "gemma4_text", Tie::Outer),
    of("got_ocr2", "qwen2", Tie::Outer),
    of("idefics2", "mistral", Tie::Outer),
    of("idefics3", "llama", Tie::Outer),
    of("internvl", "qwen2", Tie::Outer),
    of("lighton_ocr", "qwen3", Tie::Outer),
    of("llama4", "llama4_text", Tie::Outer),
    of("llava", "llama", Tie::Either),
    of("llava_next", "llama", Tie::Outer),
    of("llava_next_video", "llama", Tie::Either),
    of("llava_onevision", "qwen2", Tie::Either),
    of("mistral3", "mistral", Tie::Outer),
    of("ovis2", "qwen2", Tie::Outer),
    of("perception_lm", "llama", Tie::Either),
    of("qwen2_audio", "qwen2", Tie::Outer),
    Wrapper {
        defaults: QWEN2_VL,
        ..of("qwen2_vl", "qwen2_vl_text", Tie::Either)
    },
    Wrapper {
        defaults: QWEN2_VL,
        ..of("qwen2_5_vl", "qwen2_5_vl_text", Tie::Either)
    },
    Wrapper {
        defaults: QWEN3_VL,
        ..of("qwen3_vl", "qwen3_vl_text", Tie::Either)
    },
    of("qwen3_5", "qwen3_5_text", Tie::Outer),
    of("qwen3_5_moe", "qwen3_5_moe_text", Tie::Outer),
    of("smolvlm", "llama", Tie::Outer),
    of("video_llava", "llama", Tie::Outer),
    of("vipllava", "llama", Tie::Outer),
    Wrapper {
        defaults: VOXTRAL,
        ..of("voxtral", "llama", Tie::Outer)
    },
];

const QWEN2_VL: &[(&str, f64)] = &[
    ("vocab_size", 152_064.0),
    ("hidden_size", 8192.0),
    ("intermediate_size", 29_568.0),
    ("num_hidden_layers", 80.0),
    ("num_attention_heads", 64.0),
    ("num_key_value_heads", 8.0),
    ("max_window_layers", 80.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 1e6),
];

const QWEN3_VL: &[(&str, f64)] = &[
    ("max_position_embeddings", 128_000.0),
    ("rope_theta", 500_000.0),
];

const VOXTRAL: &[(&str, f64)] = &[
    ("vocab_size", 131_072.0),
    ("hidden_size", 3072.0),
    ("intermediate_size", 8192.0),
    ("num_hidden_layers", 30.0),
    ("num_key_value_heads", 8.0),
    ("max_position_embeddings", 131_072.0),
    ("rms_norm_eps", 1e-5),
    ("rope_theta", 1e8),
    ("head_dim", 128.0),
];

/// Kinds whose text half has another name than the family, being the family's but for what pictures need.
const TEXT_TYPES: &[(&str, &str)] = &[
    ("qwen2_vl_text", "qwen2"),
    ("qwen2_5_vl_text", "qwen2"),
    ("qwen3_vl_text", "qwen3"),
    // The text half of files that were written before it had a name.
    ("qwen2_vl", "qwen2"),
    ("qwen2_5_vl", "qwen2"),
];

/// Kinds whose text half does not compute as the family does, though it has its tensors.
const OTHERWISE: &[(&str, &str)] = &[
    (
        "paligemma",
        "every token of a prompt attends to all of it, those that follow included",
    ),
    (
        "mllama",
        "some of its layers attend to pictures and to nothing else",
    ),
];

/// A text half that was found in a configuration.
pub(super) struct TextHalf {
    pub(super) family: &'static Family,
    pub(super) spec: ModelSpec,
    pub(super) unknown: Vec<UnknownKey>,
    /// Other parts of the whole model, in words.
    pub(super) notices: Vec<String>,
}

/// Reads the text half of a configuration, if it is that of a model that has one.
///
/// # Errors
/// As of a family's configuration, and when the text half is no model of its own.
pub(super) fn read(
    model_type: &str,
    config: &Map<String, Value>,
) -> Result<Option<TextHalf>, ArchError> {
    if let Some((_, reason)) = OTHERWISE.iter().find(|(name, _)| *name == model_type) {
        return Err(ArchError::TextHalf {
            model_type: model_type.to_owned(),
            reason,
        });
    }
    let whole = Config::new(config, "");
    let Some((text, path, family)) = found(model_type, config, &whole)? else {
        return Ok(None);
    };
    let keys = Config::new(&text, path);
    for (_, name) in others(config) {
        // Of the flat form.
        keys.tick(name);
    }
    keys.tick("model_type");
    keys.tick_all(OF_TEXT_HALVES);
    let spec = read_spec(&keys, family)?;
    let mut unknown = keys.unknown();
    if path == TEXT_CONFIG {
        for key in config
            .keys()
            .filter(|key| is_of_whole(key) || keys.reads(key))
        {
            whole.tick(key);
        }
        whole.finish(&crate::config::OF_NONE);
        unknown.extend(whole.unknown());
    }
    let others = others(config).map(|(object, name)| described(object, name));
    let others: Vec<_> = others.collect();
    let what = match others.is_empty() {
        true => "what it has beside text".to_owned(),
        false => others.join(", "),
    };
    let notices = vec![format!(
        "only the text half of this {model_type} model is used: {what} left out"
    )];
    Ok(Some(TextHalf {
        family,
        spec,
        unknown,
        notices,
    }))
}

/// The configuration that a text half has as a model of its own.
///
/// # Errors
/// As [`read`].
pub(super) fn alone(config: &Map<String, Value>) -> Result<Option<Map<String, Value>>, ArchError> {
    let whole = Config::new(config, "");
    let Some(model_type) = whole.text("model_type")? else {
        return Ok(None);
    };
    let Some((mut text, _, family)) = found(model_type, config, &whole)? else {
        return Ok(None);
    };
    for name in ["architectures", "vision_config", "audio_config", "auto_map"] {
        text.shift_remove(name);
    }
    text.insert("model_type".to_owned(), family.model_types[0].into());
    // Tokens that generation begins and ends with.
    for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        let is_given =
            |config: &Map<String, Value>| config.get(key).is_some_and(|id| !id.is_null());
        if !is_given(&text) && is_given(config) {
            text.insert(key.to_owned(), config[key].clone());
        }
    }
    Ok(Some(text))
}

/// The text half's configuration, completed, what it is called where it stands, and its family.
#[expect(clippy::type_complexity, reason = "said once, and taken apart at once")]
fn found(
    model_type: &str,
    config: &Map<String, Value>,
    whole: &Config<'_>,
) -> Result<Option<(Map<String, Value>, &'static str, &'static Family)>, ArchError> {
    let Some(wrapper) = WRAPPERS.iter().find(|w| w.model_type == model_type) else {
        return Ok(None);
    };
    // What the first files of Qwen2-VL have beside the vision tower's object is the text half.
    let (text, path) = match config.get("text_config") {
        Some(Value::Object(text)) => (text, TEXT_CONFIG),
        Some(Value::Null) | None if wrapper.text.starts_with("qwen2_") => (config, ""),
        Some(Value::Null) | None => {
            return Err(ArchError::MissingKey {
                key: "text_config".to_owned(),
            });
        }
        Some(_) => return whole.bad_value("text_config", "an object"),
    };
    let text_type = match text.get("model_type") {
        None | Some(Value::Null) => wrapper.text,
        Some(Value::String(text_type)) => text_type,
        Some(_) => return Config::new(text, path).bad_value("model_type", "a string"),
    };
    let family = family(renamed(text_type))?;
    let text = completed(text, config, wrapper, family, whole)?;
    Ok(Some((text, path, family)))
}

fn renamed(text_type: &str) -> &str {
    let known = TEXT_TYPES.iter().find(|(name, _)| *name == text_type);
    known.map_or(text_type, |(_, family)| family)
}

/// The text half's configuration with what it leaves to the whole one, and to the defaults of its kind.
fn completed(
    text: &Map<String, Value>,
    config: &Map<String, Value>,
    wrapper: &Wrapper,
    family: &Family,
    whole: &Config<'_>,
) -> Result<Map<String, Value>, ArchError> {
    let mut text = text.clone();
    let kind_defaults = wrapper.defaults.iter().map(|&(key, value)| {
        let whole = value.fract() == 0.0;
        let number = if whole {
            Value::from(value as u64)
        } else {
            Value::from(value)
        };
        (key, number)
    });
    let core = family
        .core
        .iter()
        .map(|&(key, value)| (key, Value::from(value)));
    for (key, value) in kind_defaults.chain(core) {
        if !text.contains_key(key) {
            text.insert(key.to_owned(), value);
        }
    }
    let is_tied =
        |config: &Map<String, Value>| config.get("tie_word_embeddings").and_then(Value::as_bool);
    whole.opt_flag("tie_word_embeddings")?;
    if let Some(outer) = is_tied(config) {
        let is_tied = outer || (wrapper.tie == Tie::Either && is_tied(&text) == Some(true));
        text.insert("tie_word_embeddings".to_owned(), Value::from(is_tied));
    }
    let named = ["dtype", "torch_dtype"];
    if !named
        .iter()
        .any(|key| text.get(*key).is_some_and(Value::is_string))
    {
        for key in named {
            if let Some(dtype) = config.get(key) {
                text.insert(key.to_owned(), dtype.clone());
            }
        }
    }
    for key in ["rope_parameters", "rope_scaling"] {
        if let Some(Value::Object(rope)) = text.get_mut(key) {
            without_axes(rope);
        }
    }
    Ok(text)
}

/// Positions of pictures have three axes, which text goes along all at once: for it they are one.
fn without_axes(rope: &mut Map<String, Value>) {
    rope.shift_remove("mrope_section");
    rope.shift_remove("mrope_interleaved");
    for key in ["rope_type", "type"] {
        if rope.get(key).is_some_and(|kind| kind == "mrope") {
            rope.insert(key.to_owned(), Value::from("default"));
        }
    }
}

/// The objects of what a model has beside its text half.
fn others(config: &Map<String, Value>) -> impl Iterator<Item = (&Map<String, Value>, &str)> {
    config.iter().filter_map(|(key, value)| match value {
        Value::Object(object) if key.ends_with("_config") && key != "text_config" => {
            (key != "generation_config").then_some((object, key.as_str()))
        }
        _ => None,
    })
}

/// Description of an object such as `vision_config`.
fn described(object: &Map<String, Value>, name: &str) -> String {
    let what = name.strip_suffix("_config").unwrap_or(name);
    let count = |key: &str| object.get(key).and_then(Value::as_u64);
    let mut n_layers = ["num_hidden_layers", "depth", "encoder_layers"].into_iter();
    match (what, n_layers.find_map(count)) {
        ("vision" | "audio", Some(1)) => format!("{what} tower of one layer"),
        ("vision" | "audio", Some(n_layers)) => format!("{what} tower of {n_layers} layers"),
        ("vision" | "audio", None) => format!("{what} tower"),
        _ => what.to_owned(),
    }
}

/// True if a key of the whole model's configuration is of its other parts, or of how they come to the text.
fn is_of_whole(key: &str) -> bool {
    key == "model_type"
        || key.ends_with("_config")
        || OF_WHOLE.iter().any(|part| key.contains(part))
}

const OF_WHOLE: &[&str] = &[
    "audio",
    "connector",
    "downsample",
    "dtype",
    "hidden_size",
    "ignore_index",
    "image",
    "mm_",
    "multimodal",
    "patch",
    "perceiver",
    "pixel",
    "projector",
    "resampler",
    "scale_factor",
    "spatial",
    "tie_word_embeddings",
    "token",
    "video",
    "vision",
    "visual",
    "vocab_size",
];

/// Keys that text halves carry of the whole.
const OF_TEXT_HALVES: &[&str] = &["perceiver_config", "pixel_shuffle_factor", "use_resampler"];
