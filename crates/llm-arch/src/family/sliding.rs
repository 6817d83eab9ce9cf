//! Layers that slide beside others with the same heads: what a GGUF says of them, and what is written of them.

use serde_json::{Map, Value, json};

use crate::ModelSpec;

/// Gathers which layers slide: a GGUF has a flag for each where `config.json` has a word, and may say nothing of a window
/// where there is none.
pub(super) fn gather(config: &mut Map<String, Value>, architecture: &str) {
    if SILENT.contains(&architecture) {
        config.entry("sliding_window").or_insert(Value::Null);
    }
    let named = |flag: &Value| {
        flag.as_bool()
            .map_or(flag.clone(), |slides| word(slides).into())
    };
    if let Some(Value::Array(flags)) = config.get(PATTERN) {
        let types: Vec<_> = flags.iter().map(named).collect();
        config.shift_remove(PATTERN);
        config.insert("layer_types".to_owned(), types.into());
    }
}

/// Keys of a configuration that say which layers slide.
pub(super) fn written(spec: &ModelSpec) -> Value {
    let attentions = || spec.decoder.attentions();
    let types = attentions().map(|own| word(own.window.is_some()));
    json!({
        "layer_types": types.collect::<Vec<_>>(),
        "sliding_window": attentions().find_map(|own| own.window),
    })
}

/// What a configuration calls layers that slide, and those that do not.
pub(super) fn word(slides: bool) -> &'static str {
    match slides {
        true => "sliding_attention",
        false => "full_attention",
    }
}

/// Key of a GGUF: a flag for each layer.
pub(super) const PATTERN: &str = "attention.sliding_window_pattern";

/// Architectures whose files have no window where no layer slides. In others' a family's own is meant.
const SILENT: [&str; 2] = ["exaone4", "mistral3"];
