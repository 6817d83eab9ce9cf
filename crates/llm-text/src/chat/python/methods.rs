//! The methods of Python's types that templates reach.

use minijinja::Error;

use super::Cx;
use super::arguments::Args;
use super::broken;
use super::value::Value;

mod containers;
mod strings;
mod words;

pub(super) use strings::{centered, replaced};
pub(super) use words::lines;

/// The names of a type's methods.
pub(super) struct Names {
    callable: &'static [&'static str],
    /// Those that change the object, which the sandbox does not show.
    changing: &'static [&'static str],
}

/// A method as the sandbox shows it.
pub(super) enum Found {
    Callable(&'static str),
    Unsafe,
}

impl Names {
    pub(super) fn find(&self, name: &str) -> Option<Found> {
        let callable = self.callable.iter().find(|other| **other == name);
        callable
            .map(|name| Found::Callable(name))
            .or_else(|| self.changing.contains(&name).then_some(Found::Unsafe))
    }
}

pub(super) fn names(object: &Value) -> Names {
    let (callable, changing): (&[&str], &[&str]) = match object {
        Value::Str(_) => (strings::NAMES, &[]),
        Value::List(_) => (
            &["copy", "count", "index"],
            &[
                "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
            ],
        ),
        Value::Tuple(_) | Value::Range(_) => (&["count", "index"], &[]),
        Value::Dict(_) => (
            &["copy", "fromkeys", "get", "items", "keys", "values"],
            &["clear", "pop", "popitem", "setdefault", "update"],
        ),
        Value::Int(_) | Value::Bool(_) => (
            &["as_integer_ratio", "bit_count", "bit_length", "conjugate"],
            &[],
        ),
        Value::Float(_) => (&["as_integer_ratio", "conjugate", "hex", "is_integer"], &[]),
        _other => (&[], &[]),
    };
    Names { callable, changing }
}

impl Cx {
    pub(super) fn call_method(
        &self,
        object: &Value,
        name: &'static str,
        args: Args,
    ) -> Result<Value, Error> {
        match object {
            Value::Str(text) => strings::call(self, text, name, args),
            _other => containers::call(self, object, name, args),
        }
    }
}

fn not_supported<T>(object: &Value, name: &str) -> Result<T, Error> {
    broken(format!("{}.{name} is not supported", object.type_name()))
}

/// A sequence's part between two optional places, as slices count them.
fn bounds(
    len: usize,
    start: &Option<Value>,
    stop: &Option<Value>,
) -> Result<(usize, usize), Error> {
    let place = |value: &Option<Value>, absent: usize| match value {
        None | Some(Value::None) => Ok::<usize, Error>(absent),
        Some(value) => {
            let idx = value.int()?;
            let idx = if idx < 0 {
                idx.saturating_add(len as i128)
            } else {
                idx
            };
            Ok(super::arguments::count(idx).min(len))
        }
    };
    Ok((place(start, 0)?, place(stop, len)?))
}
