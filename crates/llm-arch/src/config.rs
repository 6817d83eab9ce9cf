//! A configuration that remembers what was read of it, so that nothing is silently ignored.

mod known;

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use llm_tensor::{Activation, DType};
use serde_json::{Map, Value};

pub(crate) use self::known::{OF_NONE, OF_ROPE, Off, Unread};
use crate::ArchError;
use crate::error::UnknownKey;

type Result<T> = std::result::Result<T, ArchError>;

/// A JSON object whose keys are ticked off as they are read; `null` counts as absent.
pub(crate) struct Config<'a> {
    keys: &'a Map<String, Value>,
    /// Path of the object in the file, as `rope_parameters.`, for messages.
    path: String,
    read: RefCell<HashSet<String>>,
    /// Keys that nothing is known of, of this object and of all in it.
    unknown: Rc<RefCell<Vec<UnknownKey>>>,
}

impl<'a> Config<'a> {
    /// A configuration, which messages call nothing, or by the path of the object it is, as `text_config.`.
    pub(crate) fn new(keys: &'a Map<String, Value>, path: &str) -> Self {
        Config {
            keys,
            path: path.to_owned(),
            read: RefCell::default(),
            unknown: Rc::default(),
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
        let found = self.keys.get(key);
        Err(ArchError::BadValue {
            key: format!("{}{key}", self.path),
            found: found.map_or("not given".to_owned(), clipped),
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
        let count = |value: &Value| value.as_u64().filter(|n| (1..=max).contains(n));
        let count = self.read(key, count, || format!("a whole number from 1 to {max}"))?;
        Ok(count.map(|n| n as usize))
    }

    /// A whole number from 0.
    pub(crate) fn whole(&self, key: &str) -> Result<Option<usize>> {
        let max = 1 << 24;
        let whole = |value: &Value| value.as_u64().filter(|n| *n <= max);
        let whole = self.read(key, whole, || format!("a whole number up to {max}"))?;
        Ok(whole.map(|n| n as usize))
    }

    /// The same where it may be written as a fraction, as 8.0.
    pub(crate) fn whole_number(&self, key: &str) -> Result<Option<usize>> {
        let whole = |value: &Value| value.as_f64().filter(|x| *x >= 0.0 && x.fract() == 0.0);
        let whole = self.read(key, whole, || "a whole number")?;
        Ok(whole.map(|n| n as usize))
    }

    /// True where the value is -1, a whole number's stand-in for none.
    pub(crate) fn is_minus_one(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_i64) == Some(-1)
    }

    /// The value of a key, as `convert` understands it; nothing where there is none.
    fn read<T, S: AsRef<str>>(
        &self,
        key: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
        expected: impl FnOnce() -> S,
    ) -> Result<Option<T>> {
        let value = self.get(key);
        let converted = value.and_then(convert);
        if value.is_some() && converted.is_none() {
            return self.bad_value(key, expected().as_ref());
        }
        Ok(converted)
    }

    /// Active experts per token, of `n_experts`.
    pub(crate) fn n_active(&self, n_experts: usize, default: usize) -> Result<usize> {
        let key = self.spelling(&["num_experts_per_token", "num_experts_per_tok"])?;
        let n_active = self.opt_count(key)?.unwrap_or(default);
        if n_active <= n_experts {
            return Ok(n_active);
        }
        self.bad_value(key, &format!("a number up to the {n_experts} experts"))
    }

    /// Bound of scores: `default` where the key is absent, nothing where it is `null`.
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
        self.read(key, positive, || "a positive number")
    }

    /// A finite number that is not below zero.
    pub(crate) fn not_negative(&self, key: &str) -> Result<f64> {
        let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x >= 0.0);
        let number = self.read(key, number, || "a number from 0")?;
        number.map_or_else(self.missing(key), Ok)
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.opt_flag(key)?.unwrap_or(default))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Object's name in messages.
    pub(crate) fn name(&self) -> &str {
        self.path.trim_end_matches('.')
    }

    /// The object as JSON, clipped.
    pub(crate) fn shown(&self) -> String {
        clipped(&Value::Object(self.keys.clone()))
    }

    /// True if the key is there, be it as `null`.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    pub(crate) fn opt_flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, Value::as_bool, || "true or false")
    }

    /// A flag, or a number that stands for one, as Python takes it.
    pub(crate) fn truth(&self, key: &str, default: bool) -> Result<bool> {
        let number = |value: &Value| value.as_f64().map(|number| number != 0.0);
        let truth = |value: &Value| value.as_bool().or_else(|| number(value));
        let truth = self.read(key, truth, || "true or false")?;
        Ok(truth.unwrap_or(default))
    }

    /// A flag of which only one value is understood; absent means that value.
    pub(crate) fn only(&self, key: &str, value: bool) -> Result<()> {
        if self.flag(key, value)? == value {
            Ok(())
        } else {
            self.bad_value(key, &value.to_string())
        }
    }

    /// True if the value is a word.
    pub(crate) fn is_text(&self, key: &str) -> bool {
        self.get(key).is_some_and(Value::is_string)
    }

    /// True if the value is this word.
    pub(crate) fn is_word(&self, key: &str, word: &str) -> bool {
        self.get(key).and_then(Value::as_str) == Some(word)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, Value::as_str, || "a string")
    }

    pub(crate) fn activation(&self, key: &str, default: Activation) -> Result<Activation> {
        match self.text(key)? {
            None => Ok(default),
            Some("relu") => Ok(Activation::Relu),
            Some("relu2") => Ok(Activation::ReluSquared),
            Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
            Some(
                "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh"
                | "gelu_accurate",
            ) => Ok(Activation::GeluTanh),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some(_) => self.bad_value(
                key,
                "relu, relu2, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, silu or swish",
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

    /// The first of some spellings of a key that is there, else the last. Others that are there must say the same.
    pub(crate) fn spelling(&self, keys: &[&'static str]) -> Result<&'static str> {
        let there = |key: &'static str| Some((key, self.get(key)?));
        let mut there = keys.iter().copied().filter_map(there);
        let Some((key, value)) = there.next() else {
            return Ok(keys.last().expect("a key has a spelling"));
        };
        for (other, other_value) in there {
            if !is_same(value, other_value) {
                return Err(ArchError::Contradiction {
                    key: format!("{}{key}", self.path),
                    found: clipped(value),
                    other: format!("{}{other}", self.path),
                    other_found: clipped(other_value),
                });
            }
        }
        Ok(key)
    }

    /// A sliding window: `default` where the key is absent, none where it is `null`.
    pub(crate) fn window(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.keys.get(key) {
            None => Ok(default),
            Some(_) => self.opt_count(key),
        }
    }

    /// Mask of sliding layers, by `layer_types`; `default` where there is no such list.
    pub(crate) fn sliding(
        &self,
        n_layers: usize,
        default: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>> {
        let words = ["full_attention", "sliding_attention"];
        let kinds = self.kinds("layer_types", n_layers, words)?;
        Ok(kinds.unwrap_or_else(|| (0..n_layers).map(default).collect()))
    }

    /// Mask of layers of the second kind, each being called one or the other; nothing where there is no such list.
    pub(crate) fn kinds(
        &self,
        key: &str,
        n_layers: usize,
        [first, second]: [&str; 2],
    ) -> Result<Option<Vec<bool>>> {
        let kinds = self.indices(key, Some(n_layers), &[(first, 0), (second, 1)])?;
        Ok(kinds.map(|kinds| kinds.into_iter().map(|kind| kind == 1).collect()))
    }

    /// What each layer's word stands for; nothing where there is no such list.
    pub(crate) fn indices<T: Copy>(
        &self,
        key: &str,
        n_layers: Option<usize>,
        words: &[(&str, T)],
    ) -> Result<Option<Vec<T>>> {
        let of = |kind: &Value| {
            let kind = kind.as_str()?;
            let (_, index) = words.iter().find(|(word, _)| *word == kind)?;
            Some(*index)
        };
        self.read(key, list_of(n_layers, of), || {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let n = n_layers.map_or("so many".to_owned(), |n| n.to_string());
            format!("{n} times {}", words.join(" or "))
        })
    }

    /// What the number of each of the first `n` layers stands for, in a list of as many or more; nothing where there is none.
    pub(crate) fn first_of<T: Copy>(
        &self,
        key: &str,
        n: usize,
        numbers: &[(u64, T)],
    ) -> Result<Option<Vec<T>>> {
        let of = |value: &Value| {
            let number = value.as_u64()?;
            let (_, meaning) = numbers.iter().find(|(of, _)| *of == number)?;
            Some(*meaning)
        };
        let all = |value: &Value| list_of(None, of)(value).filter(|list| list.len() >= n);
        let list = self.read(key, all, || {
            let numbers: Vec<_> = numbers
                .iter()
                .map(|(number, _)| number.to_string())
                .collect();
            format!("a list of {n} or more of {}", numbers.join(", "))
        })?;
        Ok(list.map(|list| list[..n].to_vec()))
    }

    /// A smallest and a largest number, which may be infinite, as the libraries write that.
    pub(crate) fn limits(&self, key: &str) -> Result<Option<[f64; 2]>> {
        let number = |value: &Value| {
            let word = value.get("__float__").unwrap_or(value);
            match word.as_str() {
                Some("Infinity") => Some(f64::INFINITY),
                Some(_) => None,
                None => value.as_f64().filter(|x| *x >= 0.0),
            }
        };
        let limits = |value: &Value| {
            let limits = list_of(Some(2), number)(value)?;
            (limits[0] <= limits[1]).then_some([limits[0], limits[1]])
        };
        self.read(key, limits, || "a smallest and a largest number")
    }

    /// A share, below one, for each of `n` layers; nothing where there is no such list.
    pub(crate) fn shares(&self, key: &str, n: usize) -> Result<Option<Vec<f64>>> {
        let share = |value: &Value| value.as_f64().filter(|x| (0.0..1.0).contains(x));
        self.read(key, list_of(Some(n), share), || {
            format!("a list of {n} numbers from 0 to below 1")
        })
    }

    /// A number, or `null` for none, for each of `n` layers; nothing where there is no such list.
    pub(crate) fn cut_offs(&self, key: &str, n: usize) -> Result<Option<Vec<Option<f32>>>> {
        let cut_off = |value: &Value| match value {
            Value::Null => Some(None),
            value => value.as_f64().map(|x| Some(x as f32)),
        };
        self.read(key, list_of(Some(n), cut_off), || {
            format!("a list of {n} numbers")
        })
    }

    /// A whole number for each of `n` layers; nothing where the value is no list.
    pub(crate) fn list(&self, key: &str, n: usize) -> Result<Option<Vec<usize>>> {
        if !self.keys.get(key).is_some_and(Value::is_array) {
            return Ok(None);
        }
        let number = |value: &Value| value.as_u64().map(|n| n as usize);
        self.read(key, list_of(Some(n), number), || {
            format!("a list of {n} whole numbers")
        })
    }

    /// A 0 or a 1, or a flag, for each of at least `n` layers; nothing where there is no such list.
    pub(crate) fn bits(&self, key: &str, n: usize) -> Result<Option<Vec<bool>>> {
        let bit = |value: &Value| match value.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => value.as_bool(),
        };
        let all = |value: &Value| list_of(None, bit)(value).filter(|bits| bits.len() >= n);
        let bits = self.read(key, all, || format!("a list of {n} times 0 or 1"))?;
        Ok(bits.map(|bits| bits[..n].to_vec()))
    }

    /// The same, where an empty list is none.
    pub(crate) fn bits_if_any(&self, key: &str, n: usize) -> Result<Option<Vec<bool>>> {
        let list = self.get(key).and_then(Value::as_array);
        match list.is_some_and(Vec::is_empty) {
            true => Ok(None),
            false => self.bits(key, n),
        }
    }

    /// Layers named by their numbers.
    pub(crate) fn layers(&self, key: &str, n_layers: usize) -> Result<Vec<usize>> {
        let layer = |value: &Value| value.as_u64().map(|i| i as usize).filter(|&i| i < n_layers);
        let layers = self.read(key, list_of(None, layer), || {
            format!("a list of numbers below {n_layers}")
        })?;
        Ok(layers.unwrap_or_default())
    }

    /// An object inside, its keys reported by their full path.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Config<'a>>> {
        let keys = self.read(key, Value::as_object, || "an object")?;
        Ok(keys.map(|keys| Config {
            keys,
            path: format!("{}{key}.", self.path),
            read: RefCell::default(),
            unknown: Rc::clone(&self.unknown),
        }))
    }

    /// Notes that nothing is to be said of `key`.
    pub(crate) fn tick(&self, key: &str) {
        self.read.borrow_mut().insert(key.to_owned());
    }

    /// Notes that nothing is to be said of these.
    pub(crate) fn tick_all(&self, keys: &[&str]) {
        keys.iter().for_each(|key| self.tick(key));
    }

    /// True if the key was read.
    pub(crate) fn reads(&self, key: &str) -> bool {
        self.read.borrow().contains(key)
    }

    /// Positive numbers, `n` of them.
    pub(crate) fn factors(&self, key: &str, n: usize) -> Result<Vec<f64>> {
        let factors = self.read(key, list_of(Some(n), positive), || {
            format!("a list of {n} positive numbers")
        })?;
        factors.map_or_else(self.missing(key), Ok)
    }

    /// Notes the keys that were neither read nor are known to change nothing in a forward pass.
    pub(crate) fn finish(&self, unread: &Unread) {
        let read = self.read.borrow();
        // Of these the libraries write what all configurations have.
        let of_any = match ["", TEXT_CONFIG, "attn_config."].contains(&self.path.as_str()) {
            true => &known::OF_ANY_FAMILY,
            false => &OF_NONE,
        };
        let is_known = |key: &str, value: &Value| {
            read.contains(key)
                || known::is_note(key)
                || unread.allows(key, value)
                || of_any.allows(key, value)
        };
        let mut names: Vec<&str> = unread.keys().chain(of_any.keys()).collect();
        names.extend(read.iter().map(String::as_str));
        let unknown = self
            .keys
            .iter()
            .filter(|(key, value)| !is_known(key, value));
        let unknown = unknown.map(|(key, value)| UnknownKey {
            key: format!("{}{}", self.path, clipped_text(key)),
            value: clipped(value),
            guess: nearest(key, &names).map(|name| format!("{}{name}", self.path)),
        });
        self.unknown.borrow_mut().extend(unknown);
    }

    /// The keys that nothing is known of; of objects, those that were finished.
    pub(crate) fn unknown(&self) -> Vec<UnknownKey> {
        self.unknown.take()
    }
}

fn positive(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| x.is_finite() && *x > 0.0)
}

/// The elements of a list, all of one kind; of a length that may be fixed.
fn list_of<T>(
    n: Option<usize>,
    element: impl Fn(&Value) -> Option<T>,
) -> impl Fn(&Value) -> Option<Vec<T>> {
    move |value| {
        let list = value.as_array()?;
        let has_length = n.is_none_or(|n| n == list.len());
        has_length.then(|| list.iter().map(&element).collect())?
    }
}

/// True if two values are the same, numbers by what they are: 2 is 2.0.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The name that somebody meant who wrote `key`, if it is one or two letters away.
fn nearest<'a>(key: &str, names: &[&'a str]) -> Option<&'a str> {
    let allowed = match key.len() {
        0..4 => return None,
        4..8 => 1,
        8..64 => 2,
        _ => return None,
    };
    let distances = names
        .iter()
        .map(|&name| (strsim::damerau_levenshtein(key, name), name));
    let near = distances.filter(|(distance, _)| (1..=allowed).contains(distance));
    near.min().map(|(_, name)| name)
}

/// Path of the text half's configuration in one for text and pictures.
pub(crate) const TEXT_CONFIG: &str = "text_config.";

/// A text cut to what fits a line.
pub(crate) fn clipped_text(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A value as JSON, cut to what fits a line.
fn clipped(value: &Value) -> String {
    let text = match value.as_str() {
        // A number of Python's, which arrives here as a word.
        Some(word @ ("NaN" | "Infinity" | "-Infinity")) => word.to_owned(),
        _ => value.to_string(),
    };
    clipped_text(&text)
}
