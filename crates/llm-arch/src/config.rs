//! A configuration that remembers what was read of it, so that nothing is silently ignored.

use std::cell::RefCell;
use std::collections::HashSet;

use llm_tensor::{Activation, DType};
use serde_json::{Map, Value};

use crate::{ArchError, RopeScaling};

type Result<T> = std::result::Result<T, ArchError>;

/// A JSON object whose keys are ticked off as they are read; `null` counts as absent.
pub(crate) struct Config<'a> {
    keys: &'a Map<String, Value>,
    /// Where the object lies in the file, as `rope_parameters.`, for messages.
    path: &'static str,
    read: RefCell<HashSet<String>>,
}

impl<'a> Config<'a> {
    pub(crate) fn new(keys: &'a Map<String, Value>) -> Self {
        Config {
            keys,
            path: "",
            read: RefCell::default(),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.keys.get(key).filter(|v| !v.is_null())
    }

    fn missing<T>(&self, key: &str) -> impl FnOnce() -> Result<T> {
        let key = format!("{}{key}", self.path);
        || Err(ArchError::MissingKey { key })
    }

    pub(crate) fn bad_value<T>(&self, key: &str, expected: &str) -> Result<T> {
        let found = self.keys.get(key).unwrap_or(&Value::Null);
        Err(ArchError::BadValue {
            key: format!("{}{key}", self.path),
            found: clipped(found),
            expected: expected.to_owned(),
        })
    }

    /// A whole number from 1 to 2²⁴, which is more than any extent of a real model.
    pub(crate) fn count(&self, key: &str) -> Result<usize> {
        self.opt_count(key)?.map_or_else(self.missing(key), Ok)
    }

    pub(crate) fn opt_count(&self, key: &str) -> Result<Option<usize>> {
        self.count_up_to(key, 1 << 24)
    }

    /// A number of layers: each gets its list of slots, so a configuration cannot ask for any number of them.
    pub(crate) fn n_layers(&self, key: &str) -> Result<usize> {
        self.count_up_to(key, 10_000)?
            .map_or_else(self.missing(key), Ok)
    }

    fn count_up_to(&self, key: &str, max: u64) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|n| (1..=max).contains(n)) {
                Some(n) => Ok(Some(n as usize)),
                None => self.bad_value(key, &format!("a whole number from 1 to {max}")),
            },
        }
    }

    /// A positive, finite number.
    pub(crate) fn positive(&self, key: &str) -> Result<f64> {
        self.opt_positive(key)?.map_or_else(self.missing(key), Ok)
    }

    pub(crate) fn opt_positive(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|x| x.is_finite() && *x > 0.0) {
                Some(x) => Ok(Some(x)),
                None => self.bad_value(key, "a positive number"),
            },
        }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .map_or_else(|| self.bad_value(key, "true or false"), Ok),
        }
    }

    /// A flag of which only one value is understood; absent means that value.
    pub(crate) fn only(&self, key: &str, value: bool) -> Result<()> {
        if self.flag(key, value)? == value {
            Ok(())
        } else {
            self.bad_value(key, &value.to_string())
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map_or_else(|| self.bad_value(key, "a string"), |s| Ok(Some(s))),
        }
    }

    pub(crate) fn activation(&self, key: &str, default: Activation) -> Result<Activation> {
        match self.text(key)? {
            None => Ok(default),
            Some("relu") => Ok(Activation::Relu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some(_) => self.bad_value(
                key,
                "relu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu or swish",
            ),
        }
    }

    /// `dtype`, formerly `torch_dtype`.
    pub(crate) fn dtype(&self) -> Result<Option<DType>> {
        let (new, old) = (self.text("dtype")?, self.text("torch_dtype")?);
        let Some(name) = new.or(old) else {
            return Ok(None);
        };
        match name.parse::<DType>() {
            Ok(dtype) if dtype.is_weight() => Ok(Some(dtype)),
            _ => self.bad_value(
                if new.is_some() {
                    "dtype"
                } else {
                    "torch_dtype"
                },
                "float32, float16 or bfloat16",
            ),
        }
    }

    /// The base and scaling of rotary positions: `rope_theta` beside `rope_scaling`, or both in `rope_parameters`.
    pub(crate) fn rope(&self, default_base: f64) -> Result<(f64, RopeScaling)> {
        let outer_base = self.opt_positive("rope_theta")?;
        let (new, old) = (self.get("rope_parameters"), self.get("rope_scaling"));
        let (path, key) = if new.is_some() {
            ("rope_parameters.", "rope_parameters")
        } else {
            ("rope_scaling.", "rope_scaling")
        };
        let Some(value) = new.or(old) else {
            return Ok((outer_base.unwrap_or(default_base), RopeScaling::None));
        };
        let Some(keys) = value.as_object() else {
            return self.bad_value(key, "an object");
        };
        let rope = Config {
            keys,
            path,
            read: RefCell::default(),
        };
        let base = rope
            .opt_positive("rope_theta")?
            .or(outer_base)
            .unwrap_or(default_base);
        let (new_kind, old_kind) = (rope.text("rope_type")?, rope.text("type")?);
        let scaling = match new_kind.or(old_kind) {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: rope.positive("factor")?,
            },
            Some("llama3") => {
                let low_freq_factor = rope.positive("low_freq_factor")?;
                let high_freq_factor = rope.positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    return rope
                        .bad_value("high_freq_factor", &format!("more than {low_freq_factor}"));
                }
                RopeScaling::Llama3 {
                    factor: rope.positive("factor")?,
                    low_freq_factor,
                    high_freq_factor,
                    original_context: rope.positive("original_max_position_embeddings")?,
                }
            }
            Some(_) => {
                let key = if new_kind.is_some() {
                    "rope_type"
                } else {
                    "type"
                };
                return rope.bad_value(key, "default, linear or llama3");
            }
        };
        rope.finish(&[])?;
        Ok((base, scaling))
    }

    /// Fails when a key was neither read nor is known to change nothing in a forward pass.
    pub(crate) fn finish(&self, harmless: &[&str]) -> Result<()> {
        let read = self.read.borrow();
        let unknown: Vec<String> = self
            .keys
            .iter()
            .filter(|(key, value)| {
                !value.is_null() && !read.contains(*key) && !is_harmless(key, harmless)
            })
            .map(|(key, value)| format!("`{}{key}`: {}", self.path, clipped(value)))
            .collect();
        if unknown.is_empty() {
            Ok(())
        } else {
            Err(ArchError::UnknownKeys {
                keys: unknown.join(", "),
            })
        }
    }
}

/// A value as JSON, cut to what fits a line.
fn clipped(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn is_harmless(key: &str, more: &[&str]) -> bool {
    key.starts_with('_') || HARMLESS.contains(&key) || more.contains(&key)
}

/// Keys of any configuration that say nothing of the forward pass in evaluation: provenance, training, generation
/// (read elsewhere), and the defaults of older versions' base class.
const HARMLESS: &[&str] = &[
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];
