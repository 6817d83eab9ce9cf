//! A configuration that remembers what was read of it, so that nothing is silently ignored.

use std::cell::RefCell;
use std::collections::HashSet;

use llm_tensor::{Activation, DType};
use serde_json::{Map, Value};

use crate::ArchError;

type Result<T> = std::result::Result<T, ArchError>;

/// A JSON object whose keys are ticked off as they are read; `null` counts as absent.
pub(crate) struct Config<'a> {
    keys: &'a Map<String, Value>,
    /// Where the object lies in the file, as `rope_parameters.`, for messages.
    path: String,
    read: RefCell<HashSet<String>>,
}

impl<'a> Config<'a> {
    pub(crate) fn new(keys: &'a Map<String, Value>) -> Self {
        Config {
            keys,
            path: String::new(),
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

    /// A whole number from 0.
    pub(crate) fn whole(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|n| *n <= 1 << 24) {
                Some(n) => Ok(Some(n as usize)),
                None => self.bad_value(key, &format!("a whole number up to {}", 1 << 24)),
            },
        }
    }

    /// How many of `n_experts` a token goes to.
    pub(crate) fn n_active(&self, n_experts: usize, default: usize) -> Result<usize> {
        let n_active = self.opt_count("num_experts_per_tok")?.unwrap_or(default);
        if n_active <= n_experts {
            return Ok(n_active);
        }
        self.bad_value(
            "num_experts_per_tok",
            &format!("a number up to the {n_experts} experts"),
        )
    }

    /// What bounds scores: `default` where the key is absent, nothing where it is `null`.
    pub(crate) fn cap(&self, key: &str, default: Option<f64>) -> Result<Option<f32>> {
        let cap = if self.keys.contains_key(key) {
            self.opt_positive(key)?
        } else {
            default
        };
        Ok(cap.map(|cap| cap as f32))
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

    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_bool()
                .map_or_else(|| self.bad_value(key, "true or false"), |f| Ok(Some(f))),
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

    /// The first of some spellings of a key that is there, else the last.
    pub(crate) fn spelling(&self, keys: &[&'static str]) -> &'static str {
        let is_there = |key: &&&str| self.keys.get(**key).is_some_and(|value| !value.is_null());
        keys.iter()
            .find(is_there)
            .or(keys.last())
            .expect("a key has a spelling")
    }

    /// A sliding window: `default` where the key is absent, none where it is `null`.
    pub(crate) fn window(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.keys.get(key) {
            None => Ok(default),
            Some(_) => self.opt_count(key),
        }
    }

    /// Which layers slide, by `layer_types`; `default` where there is no such list.
    pub(crate) fn sliding(
        &self,
        n_layers: usize,
        default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>> {
        let Some(value) = self.get("layer_types") else {
            return Ok((0..n_layers).map(default).collect());
        };
        let slides = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let list = value.as_array().filter(|list| list.len() == n_layers);
        let kinds = list.and_then(|list| list.iter().map(slides).collect());
        let expected = format!("{n_layers} times full_attention or sliding_attention");
        kinds.map_or_else(|| self.bad_value("layer_types", &expected), Ok)
    }

    /// Layers named by their numbers.
    pub(crate) fn layers(&self, key: &str, n_layers: usize) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(Vec::new());
        };
        let layer = |value: &Value| value.as_u64().map(|i| i as usize).filter(|&i| i < n_layers);
        let layers = value
            .as_array()
            .and_then(|list| list.iter().map(layer).collect());
        layers.map_or_else(
            || self.bad_value(key, &format!("a list of numbers below {n_layers}")),
            Ok,
        )
    }

    /// An object inside, its keys reported by their full path.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Config<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(keys)) => Ok(Some(Config {
                keys,
                path: format!("{}{key}.", self.path),
                read: RefCell::default(),
            })),
            Some(_) => self.bad_value(key, "an object"),
        }
    }

    /// Notes that nothing is to be said of `key`.
    pub(crate) fn tick(&self, key: &str) {
        self.read.borrow_mut().insert(key.to_owned());
    }

    /// Positive numbers, `n` of them.
    pub(crate) fn factors(&self, key: &str, n: usize) -> Result<Vec<f64>> {
        let value = self.get(key).map_or_else(self.missing(key), Ok)?;
        let factor = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        let list = value.as_array().filter(|list| list.len() == n);
        let factors = list.and_then(|list| list.iter().map(factor).collect());
        factors.map_or_else(
            || self.bad_value(key, &format!("a list of {n} positive numbers")),
            Ok,
        )
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
