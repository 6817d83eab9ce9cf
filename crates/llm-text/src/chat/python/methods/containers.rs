//! Methods of lists, tuples, dictionaries, numbers and what Jinja2 defines itself.

use std::sync::atomic::Ordering;

use minijinja::Error;

use super::super::Cx;
use super::super::arguments::Args;
use super::super::broken;
use super::super::value::{Function, Value, View};
use super::not_supported;

pub(super) fn call(
    cx: &Cx,
    object: &Value,
    name: &'static str,
    args: Args,
) -> Result<Value, Error> {
    match (object, name) {
        (Value::Dict(d), "items" | "keys" | "values") => {
            args.none(name)?;
            let view = match name {
                "items" => View::Items,
                "keys" => View::Keys,
                _values => View::Values,
            };
            Ok(Value::View(view, d.clone()))
        }
        (Value::Dict(d), "get") => {
            let [key, default] = args.unnamed("get", 1)?;
            let key = key.unwrap_or(Value::None);
            super::super::value::Key::new(&key)?;
            let found = d.find(&key).cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        (Value::Dict(_), "fromkeys") => from_keys(cx, args),
        (Value::Dict(_) | Value::List(_), "copy") => {
            args.none(name)?;
            Ok(object.clone())
        }
        (Value::List(_) | Value::Tuple(_) | Value::Range(_), "count") => {
            let [item] = args.unnamed("count", 1)?;
            let item = item.unwrap_or(Value::None);
            let mut n = 0;
            for other in cx.items(object)? {
                n += i128::from(cx.equal(&other, &item)?);
            }
            Ok(Value::Int(n))
        }
        (Value::List(_) | Value::Tuple(_) | Value::Range(_), "index") => {
            let [item, start, stop] = args.unnamed("index", 1)?;
            let item = item.unwrap_or(Value::None);
            let items = cx.items(object)?;
            let (start, stop) = super::bounds(items.len(), &start, &stop)?;
            for (idx, other) in items.iter().enumerate().take(stop).skip(start) {
                if cx.equal(other, &item)? {
                    return Ok(Value::Int(idx as i128));
                }
            }
            broken(format!("the item is not in the {}", object.type_name()))
        }
        (Value::Int(_) | Value::Bool(_), _) => integer(object.int()?, object, name, args),
        (Value::Float(f), "is_integer") => {
            args.none(name)?;
            Ok(Value::Bool(f.is_finite() && f.fract() == 0.0))
        }
        (Value::Float(f), "conjugate") => {
            args.none(name)?;
            Ok(Value::Float(*f))
        }
        (Value::Function(f), _) => match (&**f, name) {
            (Function::Global("dict", ..), "fromkeys") => from_keys(cx, args),
            (Function::Cycler(items, idx), "next") => {
                args.none(name)?;
                let at = idx.load(Ordering::Relaxed);
                idx.store((at + 1) % items.len(), Ordering::Relaxed);
                Ok(items[at].clone())
            }
            (Function::Cycler(_, idx), "reset") => {
                args.none(name)?;
                idx.store(0, Ordering::Relaxed);
                Ok(Value::None)
            }
            (_, _) => not_supported(object, name),
        },
        (_, _) => not_supported(object, name),
    }
}

fn integer(i: i128, object: &Value, name: &'static str, args: Args) -> Result<Value, Error> {
    args.none(name)?;
    match name {
        "conjugate" => Ok(Value::Int(i)),
        "bit_length" => Ok(Value::Int(i128::from(
            128 - i.unsigned_abs().leading_zeros(),
        ))),
        "bit_count" => Ok(Value::Int(i128::from(i.unsigned_abs().count_ones()))),
        _other => not_supported(object, name),
    }
}

fn from_keys(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [keys, value] = args.unnamed("fromkeys", 1)?;
    let value = value.unwrap_or(Value::None);
    let keys = cx.items(&keys.unwrap_or(Value::None))?;
    cx.dict(keys.into_iter().map(|key| (key, value.clone())).collect())
}
