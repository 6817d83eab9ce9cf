//! The filters of `jinja2`.

use minijinja::{Error, State};

use super::arguments::{Args, text};
use super::value::Value;
use super::{Callable, Cx, broken, json};

mod numbers;
mod sequences;
mod texts;

/// All filters by name.
pub(crate) const FILTERS: &[(&str, Callable)] = &[
    ("abs", |_, _, args| numbers::abs(args)),
    ("attr", |cx, _, args| {
        let [object, name] = args.bind("attr", ["obj", "name"], 2)?;
        let (object, name) = (given(object), given(name));
        object.defined()?;
        let found = cx.own_attribute(&object, text(&name)?)?;
        Ok(found.unwrap_or(Value::Undefined))
    }),
    ("batch", |cx, _, args| lazy(cx, sequences::batch(cx, args))),
    ("capitalize", |cx, _, args| {
        texts::method(cx, args, "capitalize")
    }),
    ("center", |cx, _, args| texts::center(cx, args)),
    ("count", |cx, _, args| length(cx, args)),
    ("d", |_, _, args| default(args)),
    ("default", |_, _, args| default(args)),
    ("dictsort", |cx, _, args| sequences::dictsort(cx, args)),
    ("e", |cx, _, args| texts::escaped(cx, args)),
    ("escape", |cx, _, args| texts::escaped(cx, args)),
    ("filesizeformat", |cx, _, args| {
        numbers::filesizeformat(cx, args)
    }),
    ("first", |cx, _, args| sequences::first(cx, args)),
    ("float", |_, _, args| numbers::float(args)),
    ("forceescape", |cx, _, args| {
        let [value] = args.bind("forceescape", ["value"], 1)?;
        let text = cx.str(&given(value))?;
        super::write::escape(cx, &cx.text(&*text)?)
    }),
    ("format", |cx, _, args| texts::format(cx, args)),
    ("groupby", |cx, _, args| sequences::groupby(cx, args)),
    ("indent", |cx, _, args| texts::indent(cx, args)),
    ("int", |_, _, args| numbers::int(args)),
    ("items", |cx, _, args| lazy(cx, sequences::items(cx, args))),
    ("join", |cx, _, args| texts::join(cx, args)),
    ("last", |cx, _, args| sequences::last(cx, args)),
    ("length", |cx, _, args| length(cx, args)),
    ("list", |cx, _, args| {
        let [value] = args.bind("list", ["value"], 1)?;
        cx.list(cx.items(&given(value))?)
    }),
    ("lower", |cx, _, args| texts::method(cx, args, "lower")),
    ("map", |cx, state, args| {
        lazy(cx, sequences::map(cx, state, args))
    }),
    ("max", |cx, _, args| sequences::extreme(cx, args, "max")),
    ("min", |cx, _, args| sequences::extreme(cx, args, "min")),
    ("pprint", |cx, _, args| {
        let [value] = args.bind("pprint", ["value"], 1)?;
        cx.pretty(&given(value))
    }),
    ("random", |cx, _, args| sequences::random(cx, args)),
    ("reject", |cx, state, args| {
        lazy(cx, sequences::select(cx, state, args, "reject"))
    }),
    ("rejectattr", |cx, state, args| {
        lazy(cx, sequences::select(cx, state, args, "rejectattr"))
    }),
    ("replace", |cx, _, args| texts::replace(cx, args)),
    ("reverse", |cx, _, args| sequences::reverse(cx, args)),
    ("round", |_, _, args| numbers::round(args)),
    ("safe", |cx, _, args| {
        let [value] = args.bind("safe", ["value"], 1)?;
        cx.marked(&*cx.str(&given(value))?, true)
    }),
    ("select", |cx, state, args| {
        lazy(cx, sequences::select(cx, state, args, "select"))
    }),
    ("selectattr", |cx, state, args| {
        lazy(cx, sequences::select(cx, state, args, "selectattr"))
    }),
    ("slice", |cx, _, args| lazy(cx, sequences::slice(cx, args))),
    ("sort", |cx, _, args| sequences::sort(cx, args)),
    ("string", |cx, _, args| {
        let [value] = args.bind("string", ["object"], 1)?;
        cx.str(&given(value)).map(Value::Str)
    }),
    ("striptags", |cx, _, args| texts::striptags(cx, args)),
    ("sum", |cx, _, args| sequences::sum(cx, args)),
    ("title", |cx, _, args| texts::title(cx, args)),
    ("tojson", |cx, _, args| json::tojson(cx, args)),
    ("trim", |cx, _, args| texts::trim(cx, args)),
    ("truncate", |cx, _, args| texts::truncate(cx, args)),
    ("unique", |cx, _, args| {
        lazy(cx, sequences::unique(cx, args))
    }),
    ("upper", |cx, _, args| texts::method(cx, args, "upper")),
    ("urlencode", |cx, _, args| texts::urlencode(cx, args)),
    ("urlize", |_, _, _| {
        broken("the filter urlize is not supported")
    }),
    ("wordcount", |cx, _, args| texts::wordcount(cx, args)),
    ("wordwrap", |cx, _, args| texts::wordwrap(cx, args)),
    ("xmlattr", |cx, _, args| texts::xmlattr(cx, args)),
];

pub(crate) fn is_known(name: &str) -> bool {
    FILTERS.iter().any(|(known, _)| *known == name)
}

/// The result of a filter by its name.
fn apply(cx: &Cx, state: &mut State<'_, '_>, name: &Value, args: Args) -> Result<Value, Error> {
    let name = text(name)?;
    match FILTERS.iter().find(|(known, _)| *known == name) {
        Some((_, filter)) => filter(cx, state, args),
        None => broken(format!("no filter named {name}")),
    }
}

/// A generator, which Python lets fail only where it is gone through.
fn lazy(cx: &Cx, result: Result<Value, Error>) -> Result<Value, Error> {
    match result {
        Ok(generator) => Ok(generator),
        Err(error) => cx.generator([Err(error)], "generator"),
    }
}

/// An argument that is required, or whose default is none.
fn given(value: Option<Value>) -> Value {
    value.unwrap_or(Value::None)
}

fn length(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.unnamed("length", 1)?;
    Ok(Value::Int(cx.len(&given(value))? as i128))
}

fn default(args: Args) -> Result<Value, Error> {
    let parameters = ["value", "default_value", "boolean"];
    let [value, default, boolean] = args.bind("default", parameters, 1)?;
    let value = given(value);
    let is_missing = matches!(value, Value::Undefined)
        || (super::arguments::is_true(&boolean) && !value.is_true());
    match (is_missing, default) {
        (false, _) => Ok(value),
        (true, Some(default)) => Ok(default),
        (true, None) => Ok(Value::from_engine(&"".into())),
    }
}
