//! The functions of `jinja2` and `transformers`, and those that [`super::super::source`] puts for operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use minijinja::{Error, ErrorKind, State};

use super::arguments::{Args, count, text};
use super::compare::Compare;
use super::ops::Binary;
use super::value::{Function, Range, Value};
use super::{Callable, Cx, broken, time};

/// Global functions of templates.
pub(crate) const FUNCTIONS: &[(&str, Callable)] = &[
    ("range", |_, _, args| range(args)),
    ("dict", |cx, _, args| {
        let pairs = pairs(cx, args)?;
        cx.dict(pairs)
    }),
    ("namespace", |cx, _, args| {
        let mut attributes = Vec::new();
        for (name, value) in pairs(cx, args)? {
            let name = text(&name)?;
            allowed_name(name)?;
            attributes.push((name.to_owned(), value));
        }
        cx.namespace(attributes)
    }),
    ("cycler", |_, _, args| {
        if args.positional.is_empty() || !args.named.is_empty() {
            return broken("cycler needs items");
        }
        let cycler = Function::Cycler(args.positional, AtomicUsize::new(0));
        Ok(Value::Function(Arc::new(cycler)))
    }),
    ("joiner", |cx, _, args| {
        let [separator] = args.bind("joiner", ["sep"], 0)?;
        let separator = separator.map_or_else(|| cx.text(", "), Ok)?;
        let joiner = Function::Joiner(separator, AtomicBool::new(false));
        Ok(Value::Function(Arc::new(joiner)))
    }),
    ("lipsum", |_, _, _| {
        broken("the function lipsum is not supported")
    }),
    ("raise_exception", |cx, _, args| {
        let [message] = args.bind("raise_exception", ["message"], 1)?;
        let message = cx.str(&message.unwrap_or(Value::None))?;
        let refusal = Refusal(message.to_string());
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
    }),
    ("strftime_now", |cx, _, args| {
        let [format] = args.bind("strftime_now", ["format"], 1)?;
        let format = format.unwrap_or(Value::None);
        cx.text(time::strftime(&jiff::Zoned::now(), text(&format)?)?)
    }),
];

/// Message of a template that does not accept a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// Operators of the rewritten source; no template has their names.
pub(crate) const OPERATORS: &[(&str, Callable)] = &[
    ("py_op", |cx, _, args| {
        fold(args, |a, sign, b| match Binary::of(sign) {
            Some(op) => cx.binary(op, &a, b),
            None => broken(format!("no operator {sign}")),
        })
    }),
    ("py_compare", |cx, _, args| {
        let mut holds = true;
        fold(args, |a, sign, b| {
            let Some(op) = Compare::of(sign) else {
                return broken(format!("no operator {sign}"));
            };
            // The rest of a chain is not looked at once it is false.
            holds = holds && cx.compare(op, &a, b)?;
            Ok(b.clone())
        })?;
        Ok(Value::Bool(holds))
    }),
    ("py_concat", |cx, _, args| {
        let mut out = cx.buffer();
        for part in &args.positional {
            cx.write_str(part, &mut out)?;
        }
        cx.finish(out, false)
    }),
    ("py_negative", |cx, _, args| cx.negative(&first(args)?)),
    ("py_positive", |cx, _, args| cx.positive(&first(args)?)),
    ("py_list", |cx, _, args| cx.list(args.positional)),
    ("py_tuple", |cx, _, args| cx.tuple(args.positional)),
    ("py_dict", |cx, _, args| {
        let mut pairs = Vec::new();
        let mut parts = args.positional.into_iter();
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            pairs.push((key, value));
        }
        cx.dict(pairs)
    }),
    ("py_iter", |cx, _, args| {
        let items = cx.items(&first(args)?)?;
        cx.list(items)
    }),
    ("py_attribute", |cx, _, args| {
        let [object, name] = pair(args)?;
        cx.attribute(&object, text(&name)?)
    }),
    ("py_item", |cx, _, args| {
        let [object, key] = pair(args)?;
        cx.item(&object, &key)
    }),
    ("py_slice", |cx, _, args| {
        let [object, start, stop, step] = args.unnamed("a slice", 3)?;
        let bounds = [start, stop, step].map(|bound| bound.unwrap_or(Value::None));
        cx.slice(&object.unwrap_or(Value::None), &bounds)
    }),
    ("py_call", |_, state, args| {
        let (function, args) = split_first(args)?;
        apply(state, &function, args)
    }),
    ("py_call_method", |cx, state, args| {
        let (object, args) = split_first(args)?;
        let (name, args) = split_first(args)?;
        let name = text(&name)?;
        if let Value::Other(engines) = &object {
            let result = engines.call_method(state, name, &args.into_engine())?;
            return Ok(Value::from_engine(&result));
        }
        let method = cx.attribute(&object, name)?;
        match method {
            Value::Undefined => broken(format!("{} has no method {name}", object.type_name())),
            method => apply(state, &method, args),
        }
    }),
    ("py_test", |cx, state, args| {
        let (name, args) = split_first(args)?;
        cx.check(state, &name, args).map(Value::Bool)
    }),
    ("py_set_attribute", |_, _, args| {
        let [object, name, value] = args.unnamed("set", 3)?;
        let name = name.unwrap_or(Value::None);
        let name = text(&name)?;
        allowed_name(name)?;
        match (object, value) {
            (Some(Value::Namespace(namespace)), Some(value)) => {
                namespace.set(name, value);
                Ok(Value::Undefined)
            }
            _other => broken("cannot assign attribute on non-namespace object"),
        }
    }),
];

/// Calls a value.
pub(super) fn apply(
    state: &mut State<'_, '_>,
    function: &Value,
    args: Args,
) -> Result<Value, Error> {
    function.defined()?;
    match function {
        Value::Function(function) => call(function, state, args),
        Value::Other(engines) => {
            let result = engines.call(state, &args.into_engine())?;
            Ok(Value::from_engine(&result))
        }
        other => broken(format!("'{}' object is not callable", other.type_name())),
    }
}

pub(super) fn call(
    function: &Function,
    state: &mut State<'_, '_>,
    args: Args,
) -> Result<Value, Error> {
    match function {
        Function::Method(object, name, cx) => cx.call_method(object, name, args),
        Function::Global(_, callable, cx) => callable(cx, state, args),
        Function::Joiner(separator, used) => {
            args.none("joiner")?;
            match used.swap(true, Ordering::Relaxed) {
                true => Ok(separator.clone()),
                false => Ok(Value::from_engine(&"".into())),
            }
        }
        Function::Cycler(..) => broken("'Cycler' object is not callable"),
    }
}

fn range(args: Args) -> Result<Value, Error> {
    let [a, b, c] = args.unnamed("range", 1)?;
    let a = a.unwrap_or(Value::None).int()?;
    let (start, stop) = match b {
        None => (0, a),
        Some(stop) => (a, stop.int()?),
    };
    let step = c.map_or(Ok(1), |step| step.int())?;
    if step == 0 {
        return broken("range() arg 3 must not be zero");
    }
    let bounds = [start, stop, step].map(|i| i.clamp(-(1 << 62), 1 << 62));
    let range = Range {
        start: bounds[0],
        stop: bounds[1],
        step: bounds[2],
    };
    match range.len() > MAX_RANGE {
        true => broken(format!("a range has more than {MAX_RANGE} numbers")),
        false => Ok(Value::Range(Arc::new(range))),
    }
}

/// The pairs that `dict(…)` is made of.
fn pairs(cx: &Cx, args: Args) -> Result<Vec<(Value, Value)>, Error> {
    let named = args.named;
    let [from] = Args::of(args.positional).unnamed("dict", 0)?;
    let mut pairs = match from {
        None => Vec::new(),
        Some(Value::Dict(dict)) => dict.entries.clone(),
        Some(Value::Namespace(_)) => return broken("'Namespace' object is not iterable"),
        Some(list) => {
            let mut pairs = Vec::new();
            for pair in cx.items(&list)? {
                match cx.items(&pair)?.as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    other => {
                        let n = other.len();
                        return broken(format!("an item of dict has length {n}; 2 is required"));
                    }
                }
            }
            pairs
        }
    };
    for (name, value) in named {
        pairs.push((cx.text(name)?, value));
    }
    Ok(pairs)
}

fn allowed_name(name: &str) -> Result<(), Error> {
    match name.starts_with('_') {
        true => broken("a namespace has no attributes that begin with an underscore"),
        false => Ok(()),
    }
}

/// Goes from the left through operands with signs between them.
fn fold(
    args: Args,
    mut step: impl FnMut(Value, &str, &Value) -> Result<Value, Error>,
) -> Result<Value, Error> {
    let mut parts = args.positional.into_iter();
    let mut result = parts.next().unwrap_or(Value::Undefined);
    while let (Some(sign), Some(next)) = (parts.next(), parts.next()) {
        result = step(result, text(&sign)?, &next)?;
    }
    Ok(result)
}

fn first(args: Args) -> Result<Value, Error> {
    split_first(args).map(|(first, _)| first)
}

fn pair(args: Args) -> Result<[Value; 2], Error> {
    let both: [Option<Value>; 2] = args.unnamed("an operator", 2)?;
    Ok(both.map(|value| value.unwrap_or(Value::Undefined)))
}

fn split_first(args: Args) -> Result<(Value, Args), Error> {
    let mut args = args;
    match count(args.positional.len() as i128) {
        0 => broken("an argument is missing"),
        _some => Ok((args.positional.remove(0), args)),
    }
}

/// The bound of the sandbox of `jinja2`.
const MAX_RANGE: usize = 100_000;
