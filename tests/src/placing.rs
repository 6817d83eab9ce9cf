//! Maps and passes for models that are cut over memories.

use llm_arch::{HeadMatrix, Slot, Unit};
use llm_plan::Strategy;
use llm_runtime::{BoundModel, Limits};
use serde_json::{Map, Value};

/// Strategy of a map that has each unit where `home` says, and a tied head, whatever it has of its own, with its table.
///
/// # Panics
/// When a home is none.
pub fn placing(model: &BoundModel, home: impl Fn(Unit) -> Value) -> Strategy {
    let entry = |slot: &Slot| {
        let (module, _) = slot.name.rsplit_once('.').expect("a tensor of a module");
        let unit = match (slot.unit, model.spec().head.matrix) {
            (Unit::Head, HeadMatrix::Tied) => Unit::Embedding,
            (unit, _) => unit,
        };
        (module.to_owned(), home(unit))
    };
    let entries = outermost(model.skeleton().slots.iter().map(entry));
    let map = Value::Object(entries).to_string();
    Strategy::Map(map.parse().expect("a device map"))
}

/// Entries of a map but those within another: a module may have tensors of its own beside modules.
pub fn outermost(entries: impl Iterator<Item = (String, Value)>) -> Map<String, Value> {
    let mut all: Map<String, Value> = entries.collect();
    let names: Vec<String> = all.keys().cloned().collect();
    let is_around = |inner: &str, outer: &String| {
        let rest = inner.strip_prefix(outer.as_str());
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    all.retain(|name, _| !names.iter().any(|outer| is_around(name, outer)));
    all
}

/// Limits of two sequences of few positions, in passes of few rows.
pub fn short_passes(model: &BoundModel, n_logits: usize) -> Limits {
    let spec = model.spec();
    Limits {
        n_sequences: 2,
        context: spec.context.min(48),
        // An encoder reads its prompt at once.
        n_tokens: match spec.encoder {
            Some(_) => 32,
            None => 5,
        },
        n_logits,
    }
}
