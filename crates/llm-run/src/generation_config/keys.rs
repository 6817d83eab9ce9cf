//! Key after key of an object, each as what it has to be.

use std::path::Path;

use anyhow::Result;
use llm_runtime::EarlyStopping;
use serde_json::{Map, Value};

use super::bounds::{Bounds, MOST_BEAMS};
use crate::failure::{UserError, refuse};

/// Keys of the object that no generation knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherKeys {
    /// A mistake, perhaps: they are named.
    AreNamed,
    /// Keys of the model, whose configuration it is.
    AreTheModels,
}

/// Keys of an object that were not read yet.
pub(super) struct Keys<'a> {
    path: &'a Path,
    object: Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// # Errors
    /// When the text is no JSON object.
    pub(super) fn parse(path: &'a Path, text: &[u8]) -> Result<Self> {
        let object = llm_json::parse_as(text)
            .map_err(|error| UserError(format!("{}: {error}", path.display())))?;
        Ok(Keys { path, object })
    }

    /// Puts in what a wrapper's configuration has of its text model and not itself.
    pub(super) fn take_inner(&mut self) {
        for name in ["decoder", "generator", "text_config"] {
            if let Some(Value::Object(inner)) = self.object.get(name) {
                for (key, value) in inner.clone() {
                    let own = self.object.entry(key).or_insert(Value::Null);
                    if own.is_null() {
                        *own = value;
                    }
                }
                return;
            }
        }
    }

    /// The value, if there is one.
    fn take(&mut self, key: &str) -> Option<Value> {
        let value = self.object.shift_remove(key);
        value.filter(|value| !value.is_null())
    }

    /// The value as `read` understands it.
    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => {
                let mut found = value.to_string();
                if found.len() > LONGEST_QUOTE {
                    found.truncate(found.floor_char_boundary(LONGEST_QUOTE));
                    found.push('…');
                }
                let problem = format!("`{key}` is {found}, expected {expected}");
                refuse(format!("{}: {problem}", self.path.display()))
            }
        }
    }

    pub(super) fn whole(&mut self, key: &str, least: u64) -> Result<Option<usize>> {
        let expected = format!("a whole number of at least {least}");
        self.read(key, &expected, |value| {
            let number = value.as_u64().filter(|&n| n >= least)?;
            usize::try_from(number).ok()
        })
    }

    pub(super) fn beams(&mut self) -> Result<Option<usize>> {
        let expected = format!("a whole number from 1 to {MOST_BEAMS}");
        self.read("num_beams", &expected, |value| {
            let number = usize::try_from(value.as_u64()?).ok();
            number.filter(|n| (1..=MOST_BEAMS).contains(n))
        })
    }

    pub(super) fn number(&mut self, key: &str, bounds: Bounds) -> Result<Option<f32>> {
        self.read(key, bounds.expected, |value| {
            Some(value.as_f64()? as f32).filter(|&x| (bounds.holds)(x))
        })
    }

    pub(super) fn truth(&mut self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A text, or a list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let text = |value: &Value| {
            let text = value.as_str().filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        let texts = self.read(key, "a text, or a list of texts", |value| match value {
            Value::Array(values) => values.iter().map(text).collect(),
            value => Some(vec![text(value)?]),
        })?;
        Ok(texts.unwrap_or_default())
    }

    pub(super) fn id(&mut self, key: &str) -> Result<Option<u32>> {
        self.read(key, "a token id", id)
    }

    /// An id, or a list of ids. One of −1, as some write it, is none.
    pub(super) fn ids(&mut self, key: &str) -> Result<Vec<u32>> {
        let ids = self.read(key, "a token id, or a list of them", |value| match value {
            Value::Array(_) => ids(value),
            value if value.as_i64() == Some(-1) => Some(Vec::new()),
            value => Some(vec![id(value)?]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(super) fn early_stopping(&mut self) -> Result<Option<EarlyStopping>> {
        let expected = "true, false or \"never\"";
        self.read("early_stopping", expected, |value| match value {
            Value::Bool(true) => Some(EarlyStopping::AtOnce),
            Value::Bool(false) => Some(EarlyStopping::Heuristic),
            Value::String(text) if text == "never" => Some(EarlyStopping::Never),
            _ => None,
        })
    }

    pub(super) fn bad_words(&mut self) -> Result<Vec<Vec<u32>>> {
        let expected = "a list of lists of token ids";
        let words = self.read("bad_words_ids", expected, |value| {
            let words = value.as_array()?.iter();
            words
                .map(|word| ids(word).filter(|ids| !ids.is_empty()))
                .collect()
        })?;
        Ok(words.unwrap_or_default())
    }

    pub(super) fn sequence_bias(&mut self) -> Result<Vec<(Vec<u32>, f32)>> {
        let expected = "a list of pairs of a list of token ids and a number";
        let biases = self.read("sequence_bias", expected, |value| {
            let mut biases: Vec<(Vec<u32>, f32)> = Vec::new();
            for pair in value.as_array()? {
                let [sequence, bias] = pair.as_array()?.as_slice() else {
                    return None;
                };
                let sequence = ids(sequence).filter(|ids| !ids.is_empty())?;
                let bias = Some(bias.as_f64()? as f32).filter(|bias| bias.is_finite())?;
                // The last word on a sequence holds.
                biases.retain(|(earlier, _)| *earlier != sequence);
                biases.push((sequence, bias));
            }
            Some(biases)
        })?;
        Ok(biases.unwrap_or_default())
    }

    pub(super) fn exponential_decay(&mut self) -> Result<Option<(usize, f32)>> {
        let key = "exponential_decay_length_penalty";
        self.read(key, "a pair of a whole number and a number", |value| {
            let [start, factor] = value.as_array()?.as_slice() else {
                return None;
            };
            let start = usize::try_from(start.as_u64()?).ok()?;
            let factor = factor.as_f64()? as f32;
            factor.is_finite().then_some((start, factor))
        })
    }

    /// Notices of the keys that are left and not applied.
    pub(super) fn notices(mut self, others: OtherKeys) -> Vec<String> {
        for key in IRRELEVANT {
            self.object.shift_remove(*key);
        }
        let not_done = |(key, is_neutral): &(&'static str, fn(&Value) -> bool)| {
            let value = self.take(key)?;
            (!is_neutral(&value)).then_some(*key)
        };
        let unsupported: Vec<_> = UNSUPPORTED.iter().filter_map(not_done).collect();
        let set = self.object.iter().filter(|(_, value)| !value.is_null());
        let unknown: Vec<_> = match others {
            OtherKeys::AreNamed => set.map(|(key, _)| key.as_str()).collect(),
            OtherKeys::AreTheModels => Vec::new(),
        };
        let line = |keys: &[&str], what| {
            let (is, was) = match keys {
                [] => return None,
                [_] => ("is", "was"),
                _ => ("are", "were"),
            };
            let keys = keys.join("`, `");
            let path = self.path.display();
            Some(format!(
                "{path}: `{keys}` {is} {what} and {was} not applied"
            ))
        };
        let lines = [
            line(&unsupported, "not supported"),
            line(&unknown, "not understood"),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// Characters of a wrong value that are shown.
const LONGEST_QUOTE: usize = 60;

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(id).collect()
}

/// Keys that change no token: caches, what is returned beside the tokens, drafts that are checked, provenance.
const IRRELEVANT: &[&str] = &[
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "return_legacy_cache",
    "pad_token_id",
    "bos_token_id",
    "use_mtp",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "assistant_ensemble_weight",
    "speculation_type",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "prefill_chunk_size",
    "low_memory",
    "_from_model_config",
    "_commit_hash",
    "_original_object_hash",
    "transformers_version",
];

/// True where a key of this value changes no token.
type IsNeutral = fn(&Value) -> bool;

/// Keys that change tokens and are not done, and when they change none.
const UNSUPPORTED: &[(&str, IsNeutral)] = &[
    ("guidance_scale", |value| value.as_f64() == Some(1.0)),
    ("watermarking_config", |_| false),
    ("token_healing", |value| value.as_bool() == Some(false)),
    ("penalty_alpha", |value| value.as_f64() == Some(0.0)),
    ("dola_layers", |_| false),
    ("num_beam_groups", |value| value.as_u64() == Some(1)),
    ("diversity_penalty", |value| value.as_f64() == Some(0.0)),
    ("constraints", |_| false),
    ("force_words_ids", |_| false),
    ("num_return_sequences", |value| value.as_u64() == Some(1)),
];
