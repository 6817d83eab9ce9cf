//! Attributes, items and slices.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use minijinja::Error;

use super::Cx;
use super::broken;
use super::methods;
use super::value::{Function, SeqKind, Value};

impl Cx {
    /// `object.name`: the attribute, or else the item of that name.
    pub(super) fn attribute(&self, object: &Value, name: &str) -> Result<Value, Error> {
        object.defined()?;
        if let Some(value) = self.own_attribute(object, name)? {
            return Ok(value);
        }
        match object {
            Value::Dict(d) => Ok(d.find_text(name).cloned().unwrap_or(Value::Undefined)),
            _other => Ok(Value::Undefined),
        }
    }

    /// `object[key]`: the item, or else the attribute of that name.
    pub(super) fn item(&self, object: &Value, key: &Value) -> Result<Value, Error> {
        object.defined()?;
        if let Some(value) = self.own_item(object, key)? {
            return Ok(value);
        }
        let found = match key {
            Value::Str(name) => self.own_attribute(object, name)?,
            _other => None,
        };
        Ok(found.unwrap_or(Value::Undefined))
    }

    fn own_item(&self, object: &Value, key: &Value) -> Result<Option<Value>, Error> {
        match object {
            Value::Dict(d) => Ok(d.find(key).cloned()),
            Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
                let Some(idx) = key.as_int() else {
                    return Ok(None);
                };
                let len = self.len(object)?;
                let idx = if idx < 0 { idx + len as i128 } else { idx };
                let idx = usize::try_from(idx).ok().filter(|idx| *idx < len);
                idx.map(|idx| self.nth(object, idx)).transpose()
            }
            _other => Ok(None),
        }
    }

    fn nth(&self, object: &Value, idx: usize) -> Result<Value, Error> {
        match object {
            Value::Str(s) => match s.chars().nth(idx) {
                Some(c) => self.marked(c.to_string(), s.is_markup()),
                None => broken("string index out of range"),
            },
            Value::List(s) | Value::Tuple(s) => Ok(s.items[idx].clone()),
            Value::Range(r) => Ok(r.at(idx)),
            other => broken(format!(
                "'{}' object is not subscriptable",
                other.type_name()
            )),
        }
    }

    /// Result of Python's `getattr`, as far as the sandbox shows it.
    pub(super) fn own_attribute(&self, object: &Value, name: &str) -> Result<Option<Value>, Error> {
        if name.len() > 4 && name.starts_with("__") && name.ends_with("__") {
            return Ok(Some(Value::Undefined));
        }
        Ok(match object {
            Value::Namespace(n) => {
                let found = n.attributes().into_iter().find(|(other, _)| other == name);
                found.map(|(_, value)| value)
            }
            Value::Other(value) => engine_attribute(value, name),
            Value::Tuple(s) if s.kind == SeqKind::Group && name == "grouper" => {
                Some(s.items[0].clone())
            }
            Value::Tuple(s) if s.kind == SeqKind::Group && name == "list" => {
                Some(s.items[1].clone())
            }
            Value::Range(r) if name == "start" => Some(Value::Int(r.start)),
            Value::Range(r) if name == "stop" => Some(Value::Int(r.stop)),
            Value::Range(r) if name == "step" => Some(Value::Int(r.step)),
            Value::Int(_) | Value::Bool(_) if matches!(name, "real" | "numerator") => {
                Some(Value::Int(object.int()?))
            }
            Value::Int(_) | Value::Bool(_) if name == "imag" => Some(Value::Int(0)),
            Value::Int(_) | Value::Bool(_) if name == "denominator" => Some(Value::Int(1)),
            Value::Float(_) if name == "real" => Some(object.clone()),
            Value::Float(_) if name == "imag" => Some(Value::Float(0.0)),
            Value::Function(f) => self.function_attribute(f, object, name)?,
            _other => match methods::names(object).find(name) {
                Some(methods::Found::Callable(name)) => Some(self.method(object, name)),
                // The sandbox shows nothing there.
                Some(methods::Found::Unsafe) => Some(Value::Undefined),
                None => None,
            },
        })
    }

    fn function_attribute(
        &self,
        function: &Function,
        object: &Value,
        name: &str,
    ) -> Result<Option<Value>, Error> {
        Ok(match (function, name) {
            (Function::Cycler(items, idx), "current") => {
                Some(items[idx.load(Ordering::Relaxed)].clone())
            }
            (Function::Cycler(..), "next") => Some(self.method(object, "next")),
            (Function::Cycler(..), "reset") => Some(self.method(object, "reset")),
            (Function::Joiner(separator, _), "sep") => Some(separator.clone()),
            (Function::Global("dict", ..), "fromkeys") => Some(self.method(object, "fromkeys")),
            (_, _) => None,
        })
    }

    fn method(&self, object: &Value, name: &'static str) -> Value {
        let method = Function::Method(object.clone(), name, self.clone());
        Value::Function(Arc::new(method))
    }

    /// `object[start:stop:step]`.
    pub(super) fn slice(&self, object: &Value, bounds: &[Value; 3]) -> Result<Value, Error> {
        object.defined()?;
        let n = match object {
            Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
                self.len(object)? as i128
            }
            Value::Dict(_) => return broken("unhashable type: 'slice'"),
            other => {
                return broken(format!(
                    "'{}' object is not subscriptable",
                    other.type_name()
                ));
            }
        };
        let bound = |value: &Value| match (value, value.as_int()) {
            (Value::None, _) => Ok(None),
            (_, Some(i)) => Ok(Some(i)),
            (Value::Undefined, None) => value.defined().map(|()| None),
            (_, None) => broken("slice indices must be integers or None"),
        };
        let step = bound(&bounds[2])?.unwrap_or(1);
        if step == 0 {
            return broken("slice step cannot be zero");
        }
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let place = |value: Option<i128>, absent: i128| match value {
            None => absent,
            Some(i) if i < 0 => i.saturating_add(n).clamp(low, high),
            Some(i) => i.clamp(low, high),
        };
        let (first, last) = if step > 0 { (low, high) } else { (high, low) };
        let start = place(bound(&bounds[0])?, first);
        let stop = place(bound(&bounds[1])?, last);
        let range = super::value::Range {
            start,
            stop,
            // A step beyond the end takes one item whatever its size.
            step: step.clamp(-n - 1, n + 1),
        };
        let places = (0..range.len()).map(|idx| (start + range.step * idx as i128) as usize);
        match object {
            Value::Str(s) if range.step == 1 => {
                let text: String = s.chars().skip(start as usize).take(range.len()).collect();
                self.marked(text, s.is_markup())
            }
            Value::Str(s) => {
                self.meter.has_room(s.len().saturating_mul(4))?;
                let chars: Vec<char> = s.chars().collect();
                self.marked(
                    places.map(|at| chars[at]).collect::<String>(),
                    s.is_markup(),
                )
            }
            Value::Range(r) => {
                let n = range.len() as i128;
                let at = |i: i128| r.start + r.step * i;
                let step = r.step * range.step;
                Ok(Value::Range(Arc::new(super::value::Range {
                    start: at(start),
                    stop: if n == 0 { at(start) } else { at(stop) },
                    step,
                })))
            }
            Value::Tuple(s) => self.tuple(places.map(|at| s.items[at].clone()).collect()),
            Value::List(s) => self.list(places.map(|at| s.items[at].clone()).collect()),
            other => broken(format!(
                "'{}' object is not subscriptable",
                other.type_name()
            )),
        }
    }
}

/// Attribute of one of the engine's own objects, such as `loop`.
fn engine_attribute(object: &minijinja::Value, name: &str) -> Option<Value> {
    let value = object.get_attr(name).ok()?;
    (!value.is_undefined()).then(|| Value::from_engine(&value))
}
