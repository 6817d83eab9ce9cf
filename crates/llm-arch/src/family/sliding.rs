//! Layers that slide beside others with the same heads: what a GGUF says of them, and what is written of them.

use serde_json::{Map, Value, json};

use crate::ModelSpec;

/// Gathers which layers slide: a GGUF has a flag for each where `config.json` has a word, and may say nothing of a window
/// where there is none.
pub(super) fn gather(config: &mut Map<String, Value>, architecture: &str) {
    if SILENT.contains(&architecture) {
        config.entry("sliding_window").or_insert(Value::Null);
    }
    let word = |flag: &Value| match flag.as_bool() {
        Some(true) => json!("sliding_attention"),
        Some(false) => json!("full_attention"),
        None => flag.clone(),
    };
    if let Some(Value::Array(flags)) = config.get(PATTERN) {
        let types: Vec<_> = flags.iter().map(word).collect();
        config.shift_remove(PATTERN);
        config.insert("layer_types".to_owned(), types.into());
    }
}

/// Keys of a configuration that say which layers slide.
pub(super) fn written(spec: &ModelSpec) -> Value {
    let attentions = || spec.decoder.attentions();
    let types = attentions().map(|own| match own.window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    });
    json!({
        "layer_types": types.collect::<Vec<_>>(),
        "sliding_window": attentions().find_map(|own| own.window),
    })
}

const PATTERN: &str = "attention.sliding_window_pattern";

/// Architectures whose files have no window where no layer slides. In others' a family's own is meant.
const SILENT: [&str; 2] = ["exaone4", "mistral3"];
