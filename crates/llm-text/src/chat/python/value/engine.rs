//! The way to the engine's values and back.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State};

use super::super::{Args, broken, functions};
use super::{Str, Value};

impl Value {
    pub(crate) fn from_engine(value: &minijinja::Value) -> Value {
        let object = || {
            if let Some(held) = value.downcast_object_ref::<Held>() {
                return held.0.clone();
            }
            Value::Other(value.clone())
        };
        match value.kind() {
            ValueKind::Undefined => Value::Undefined,
            ValueKind::None => Value::None,
            ValueKind::Bool => Value::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => match i128::try_from(value.clone()) {
                Ok(i) => Value::Int(i),
                Err(_) => Value::Other(value.clone()),
            },
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(f) => Value::Float(f),
                Err(_) => Value::Other(value.clone()),
            },
            ValueKind::String => match value.to_str() {
                Some(text) => Value::Str(Str {
                    text,
                    is_markup: value.is_safe(),
                }),
                None => Value::Other(value.clone()),
            },
            _object => object(),
        }
    }

    pub(crate) fn into_engine(self) -> minijinja::Value {
        match self {
            Value::Undefined => minijinja::Value::UNDEFINED,
            Value::None => minijinja::Value::from(()),
            Value::Bool(b) => b.into(),
            Value::Int(i) => match i64::try_from(i) {
                Ok(i) => i.into(),
                Err(_) => i.into(),
            },
            Value::Float(f) => f.into(),
            Value::Str(s) if s.is_markup => minijinja::Value::from_safe_string(s.to_string()),
            Value::Str(s) => s.text.into(),
            Value::Other(value) => value,
            object => minijinja::Value::from_object(Held(object)),
        }
    }
}

/// A value of ours in the engine's hands.
struct Held(Value);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.type_name())
    }
}

impl Object for Held {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match &self.0 {
            Value::List(_) | Value::Tuple(_) => ObjectRepr::Seq,
            _other => ObjectRepr::Plain,
        }
    }

    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        match &self.0 {
            Value::List(s) | Value::Tuple(s) => s
                .items
                .get(key.as_usize()?)
                .cloned()
                .map(Value::into_engine),
            _other => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.0 {
            Value::List(s) | Value::Tuple(s) => Enumerator::Seq(s.items.len()),
            _other => Enumerator::NonEnumerable,
        }
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.0.is_true()
    }

    fn call(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        args: &[minijinja::Value],
    ) -> Result<minijinja::Value, Error> {
        let args = Args::from_engine(args)?;
        match &self.0 {
            Value::Function(f) => functions::call(f, state, args).map(Value::into_engine),
            other => broken(format!("'{}' object is not callable", other.type_name())),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.type_name())
    }
}
