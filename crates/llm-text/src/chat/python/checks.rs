//! The tests of `jinja2`.

use minijinja::Error;

use super::arguments::Args;
use super::compare::Compare;
use super::value::{Function, Value};
use super::write::is_same;
use super::{Callable, Cx, filters};

/// All tests by name.
pub(crate) const CHECKS: &[(&str, Callable)] = &[
    ("odd", |_, _, args| parity(args, 1)),
    ("even", |_, _, args| parity(args, 0)),
    ("divisibleby", |cx, _, args| {
        let [value, n] = two(args, "num")?;
        let rest = cx.binary(super::ops::Binary::Mod, &value, &n)?;
        cx.equal(&rest, &Value::Int(0)).map(Value::Bool)
    }),
    ("defined", |_, _, args| {
        one(args, |v| !matches!(v, Value::Undefined))
    }),
    ("undefined", |_, _, args| {
        one(args, |v| matches!(v, Value::Undefined))
    }),
    ("filter", |_, _, args| {
        let value = only(args)?;
        let is_known = value.as_str().is_some_and(filters::is_known);
        Ok(Value::Bool(is_known))
    }),
    ("test", |_, _, args| {
        let value = only(args)?;
        Ok(Value::Bool(value.as_str().is_some_and(is_known)))
    }),
    ("none", |_, _, args| one(args, |v| matches!(v, Value::None))),
    ("boolean", |_, _, args| {
        one(args, |v| matches!(v, Value::Bool(_)))
    }),
    ("false", |_, _, args| {
        one(args, |v| matches!(v, Value::Bool(false)))
    }),
    ("true", |_, _, args| {
        one(args, |v| matches!(v, Value::Bool(true)))
    }),
    ("integer", |_, _, args| {
        one(args, |v| matches!(v, Value::Int(_)))
    }),
    ("float", |_, _, args| {
        one(args, |v| matches!(v, Value::Float(_)))
    }),
    ("number", |_, _, args| one(args, |v| v.as_float().is_some())),
    ("string", |_, _, args| one(args, |v| v.as_str().is_some())),
    ("mapping", |_, _, args| {
        one(args, |v| matches!(v, Value::Dict(_)))
    }),
    ("sequence", |_, _, args| {
        one(args, |v| match v {
            Value::Undefined
            | Value::Str(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_)
            | Value::Range(_) => true,
            // `jinja2` finds a length and no items of its own in it.
            _other => false,
        })
    }),
    ("iterable", |_, _, args| {
        one(args, |v| match v {
            Value::Undefined
            | Value::Str(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Dict(_)
            | Value::View(..)
            | Value::Range(_)
            | Value::Generator(_) => true,
            Value::None
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Namespace(_)
            | Value::Function(_) => false,
            // Of the engine's own only a loop goes through something.
            Value::Other(other) => other
                .get_attr("index")
                .is_ok_and(|index| !index.is_undefined()),
        })
    }),
    ("callable", |_, _, args| {
        one(args, |v| match v {
            Value::Function(f) => match **f {
                Function::Cycler(..) => false,
                Function::Method(..) | Function::Global(..) | Function::Joiner(..) => true,
            },
            Value::Other(_) => true,
            Value::Undefined => true,
            _other => false,
        })
    }),
    ("sameas", |_, _, args| {
        let [value, other] = two(args, "other")?;
        Ok(Value::Bool(is_same(&value, &other)))
    }),
    ("escaped", |_, _, args| {
        one(args, |v| matches!(v, Value::Str(s) if s.is_markup()))
    }),
    ("lower", |cx, _, args| {
        let value = cx.str(&only(args)?)?;
        cx.call_method(&Value::Str(value), "islower", Args::default())
    }),
    ("upper", |cx, _, args| {
        let value = cx.str(&only(args)?)?;
        cx.call_method(&Value::Str(value), "isupper", Args::default())
    }),
    ("in", |cx, _, args| {
        let [value, container] = two(args, "seq")?;
        cx.contains(&container, &value).map(Value::Bool)
    }),
    ("==", |cx, _, args| compare(cx, args, Compare::Eq)),
    ("eq", |cx, _, args| compare(cx, args, Compare::Eq)),
    ("equalto", |cx, _, args| compare(cx, args, Compare::Eq)),
    ("!=", |cx, _, args| compare(cx, args, Compare::Ne)),
    ("ne", |cx, _, args| compare(cx, args, Compare::Ne)),
    (">", |cx, _, args| compare(cx, args, Compare::Gt)),
    ("gt", |cx, _, args| compare(cx, args, Compare::Gt)),
    ("greaterthan", |cx, _, args| compare(cx, args, Compare::Gt)),
    (">=", |cx, _, args| compare(cx, args, Compare::Ge)),
    ("ge", |cx, _, args| compare(cx, args, Compare::Ge)),
    ("<", |cx, _, args| compare(cx, args, Compare::Lt)),
    ("lt", |cx, _, args| compare(cx, args, Compare::Lt)),
    ("lessthan", |cx, _, args| compare(cx, args, Compare::Lt)),
    ("<=", |cx, _, args| compare(cx, args, Compare::Le)),
    ("le", |cx, _, args| compare(cx, args, Compare::Le)),
];

pub(crate) fn is_known(name: &str) -> bool {
    CHECKS.iter().any(|(known, _)| *known == name)
}

fn only(args: Args) -> Result<Value, Error> {
    let [value] = args.unnamed("a test", 1)?;
    Ok(value.unwrap_or(Value::None))
}

fn one(args: Args, holds: fn(&Value) -> bool) -> Result<Value, Error> {
    only(args).map(|value| Value::Bool(holds(&value)))
}

fn two(args: Args, second: &str) -> Result<[Value; 2], Error> {
    let bound = args.bind("a test", ["value", second], 2)?;
    Ok(bound.map(|value| value.unwrap_or(Value::None)))
}

fn compare(cx: &Cx, args: Args, op: Compare) -> Result<Value, Error> {
    let [a, b] = args.unnamed("a test", 2)?;
    let (a, b) = (a.unwrap_or(Value::None), b.unwrap_or(Value::None));
    cx.compare(op, &a, &b).map(Value::Bool)
}

fn parity(args: Args, rest: i128) -> Result<Value, Error> {
    let value = only(args)?;
    match value {
        Value::Float(f) => Ok(Value::Bool(f.rem_euclid(2.0) == rest as f64)),
        other => Ok(Value::Bool(other.int()?.rem_euclid(2) == rest)),
    }
}
