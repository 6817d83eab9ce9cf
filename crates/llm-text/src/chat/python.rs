//! Python's values and what `jinja2` and `transformers` do with them, where the engine's own would answer otherwise.

use std::sync::{Arc, Mutex, PoisonError};

use minijinja::{Error, ErrorKind, State};

mod access;
mod arguments;
mod checks;
mod compare;
mod filters;
mod float;
mod format;
mod functions;
mod json;
mod meter;
mod methods;
mod ops;
mod percent;
mod pretty;
mod time;
mod value;
mod write;

pub(super) use checks::CHECKS;
pub(super) use filters::FILTERS;
pub(super) use functions::{FUNCTIONS, OPERATORS, Refusal};
pub(super) use meter::{Limits, Meter};
#[cfg(test)]
pub(super) use time::strftime;
pub(super) use value::Value;

use arguments::Args;

/// The engine's arguments as ours.
pub(super) fn arguments(values: &[minijinja::Value]) -> Result<Args, Error> {
    Args::from_engine(values)
}

/// Context of a rendering: its limits, namespaces and tests.
#[derive(Clone)]
pub(super) struct Cx {
    meter: Arc<Meter>,
    namespaces: Arc<Mutex<Vec<Arc<value::Namespace>>>>,
    /// The tests that filters may ask for by their names.
    checks: &'static [(&'static str, Callable)],
}

impl Cx {
    pub(super) fn new(limits: Limits) -> Cx {
        Cx {
            meter: Arc::new(Meter::new(limits)),
            namespaces: Arc::default(),
            checks: CHECKS,
        }
    }

    /// Empties all namespaces, which may hold themselves.
    pub(super) fn close(&self) {
        let namespaces = self.namespaces.lock();
        for namespace in namespaces.unwrap_or_else(PoisonError::into_inner).iter() {
            namespace.clear();
        }
    }

    /// A value as JSON has it.
    pub(super) fn of_json(&self, json: &serde_json::Value) -> Result<Value, Error> {
        use serde_json::Value as Json;
        match json {
            Json::Null => Ok(Value::None),
            Json::Bool(b) => Ok(Value::Bool(*b)),
            Json::Number(n) => Ok(match (n.as_i128(), n.as_f64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(f)) => Value::Float(f),
                (None, None) => Value::None,
            }),
            Json::String(text) => self.text(text.as_str()),
            Json::Array(items) => {
                let items = items.iter().map(|item| self.of_json(item));
                self.list(items.collect::<Result<_, _>>()?)
            }
            Json::Object(fields) => {
                let pairs = fields.iter();
                let pairs =
                    pairs.map(|(key, value)| Ok((self.text(key.as_str())?, self.of_json(value)?)));
                self.dict(pairs.collect::<Result<_, Error>>()?)
            }
        }
    }

    /// A function by the name that templates call it by.
    pub(super) fn function(&self, name: &'static str, callable: Callable) -> Value {
        Value::Function(Arc::new(value::Function::Global(
            name,
            callable,
            self.clone(),
        )))
    }

    /// The answer of a test by its name.
    fn check(&self, state: &mut State<'_, '_>, name: &Value, args: Args) -> Result<bool, Error> {
        let name = arguments::text(name)?;
        match self.checks.iter().find(|(known, _)| *known == name) {
            Some((_, check)) => Ok(check(self, state, args)?.is_true()),
            None => broken(format!("no test named {name}")),
        }
    }

    /// The text that is printed for a value.
    pub(super) fn printed(&self, value: &minijinja::Value) -> Result<value::Str, Error> {
        self.meter.step(1)?;
        let text = self.str(&Value::from_engine(value))?;
        self.meter.charge(text.len())?;
        Ok(text)
    }
}

/// A function of the engine: of its state and its arguments.
pub(super) type Callable = fn(&Cx, &mut State<'_, '_>, Args) -> Result<Value, Error>;

/// The error of an operation that Python refuses too, or that we do not know.
fn broken<T>(problem: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, problem.into()))
}
