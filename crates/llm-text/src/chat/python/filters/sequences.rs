//! Filters of lists and whatever else can be gone through.

use std::collections::HashSet;
use std::sync::PoisonError;

use minijinja::{Error, State};

use super::super::arguments::{Args, count, is_true};
use super::super::compare::Compare;
use super::super::ops::Binary;
use super::super::value::{Key, SeqKind, Value};
use super::super::{Cx, broken};
use super::{apply, given};

/// The parts of a name with dots, or an index.
fn path(cx: &Cx, attribute: &Value) -> Result<Vec<Value>, Error> {
    match attribute {
        Value::None => Ok(Vec::new()),
        Value::Str(s) => s
            .split('.')
            .map(|part| match part.parse::<u64>() {
                Ok(idx) if part.bytes().all(|b| b.is_ascii_digit()) => Ok(Value::Int(idx.into())),
                Ok(_) | Err(_) => cx.text(part),
            })
            .collect(),
        other => Ok(vec![other.clone()]),
    }
}

/// The item at the end of a path, or the default for one that is not there.
fn follow(cx: &Cx, item: &Value, path: &[Value], default: &Value) -> Result<Value, Error> {
    let mut item = item.clone();
    for part in path {
        item = cx.item(&item, part)?;
        if matches!(item, Value::Undefined) && default.is_true() {
            item = default.clone();
        }
    }
    Ok(item)
}

fn without_case(cx: &Cx, value: Value, case_sensitive: bool) -> Result<Value, Error> {
    match &value {
        Value::Str(s) if !case_sensitive => cx.text(s.to_lowercase()),
        _other => Ok(value),
    }
}

pub(super) fn first(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [seq] = args.bind("first", ["seq"], 1)?;
    let seq = given(seq);
    if let Value::Generator(g) = &seq {
        let mut items = g.items.lock().unwrap_or_else(PoisonError::into_inner);
        let item = items.pop_front();
        return item.map_or(Ok(Value::Undefined), |item| item.or_else(broken));
    }
    let items = cx.items(&seq)?;
    Ok(items.into_iter().next().unwrap_or(Value::Undefined))
}

pub(super) fn last(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [seq] = args.bind("last", ["seq"], 1)?;
    let seq = given(seq);
    if let Value::Generator(_) = &seq {
        return broken(format!("'{}' object is not reversible", seq.type_name()));
    }
    let items = cx.items(&seq)?;
    Ok(items.into_iter().next_back().unwrap_or(Value::Undefined))
}

pub(super) fn random(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [seq] = args.bind("random", ["seq"], 1)?;
    let seq = given(seq);
    let n = cx.len(&seq)? as u128;
    if n == 0 {
        return Ok(Value::Undefined);
    }
    let now = jiff::Timestamp::now().as_nanosecond().unsigned_abs();
    // The product mixes the digits of the clock, of which the lowest may not run.
    let idx = (now.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % n;
    match seq {
        Value::Dict(_) | Value::View(..) => broken("random needs a sequence"),
        seq => cx.item(&seq, &Value::Int(idx as i128)),
    }
}

pub(super) fn reverse(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.bind("reverse", ["value"], 1)?;
    let value = given(value);
    if let Value::Str(s) = &value {
        return cx.marked(s.chars().rev().collect::<String>(), s.is_markup());
    }
    let mut items = cx.items(&value)?;
    items.reverse();
    match value {
        Value::Generator(_) => cx.list(items),
        _other => cx.generator(items.into_iter().map(Ok), "list_reverseiterator"),
    }
}

pub(super) fn items(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.bind("items", ["value"], 1)?;
    let pairs = match given(value) {
        Value::Undefined => Vec::new(),
        Value::Dict(d) => d.entries.clone(),
        _other => return broken("Can only get item pairs from a mapping."),
    };
    let pairs = pairs.into_iter().map(|(k, v)| cx.tuple(vec![k, v]));
    cx.generator(pairs.collect::<Vec<_>>(), "generator")
}

pub(super) fn batch(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, n, fill] = args.bind("batch", ["value", "linecount", "fill_with"], 2)?;
    let items = cx.items(&given(value))?;
    let n = count(given(n).int()?);
    if n == 0 {
        return broken("batch needs a count of 1 or more");
    }
    let fill = given(fill);
    let mut batches = Vec::new();
    for chunk in items.chunks(n) {
        let mut batch = chunk.to_vec();
        if !matches!(fill, Value::None) {
            let missing = n - batch.len();
            cx.meter
                .charge(missing.saturating_mul(size_of::<Value>()))?;
            batch.resize(n, fill.clone());
        }
        batches.push(cx.list(batch));
    }
    cx.generator(batches, "generator")
}

pub(super) fn slice(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, n, fill] = args.bind("slice", ["value", "slices", "fill_with"], 2)?;
    let items = cx.items(&given(value))?;
    let n = given(n).int()?;
    if n == 0 {
        return broken("integer division or modulo by zero");
    }
    let n = count(n);
    cx.meter.charge(n.saturating_mul(size_of::<Value>()))?;
    let fill = given(fill);
    let (each, extra) = (items.len() / n.max(1), items.len() % n.max(1));
    let mut rest = items.as_slice();
    let mut slices = Vec::new();
    for idx in 0..n {
        let (part, after) = rest.split_at(each + usize::from(idx < extra));
        rest = after;
        let mut part = part.to_vec();
        if !matches!(fill, Value::None) && idx >= extra {
            part.push(fill.clone());
        }
        slices.push(cx.list(part));
    }
    cx.generator(slices, "generator")
}

pub(super) fn sort(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = ["value", "reverse", "case_sensitive", "attribute"];
    let [value, reverse, case_sensitive, attribute] = args.bind("sort", parameters, 1)?;
    let attributes: Vec<Value> = match given(attribute) {
        Value::Str(s) => s
            .split(',')
            .map(|part| cx.text(part))
            .collect::<Result<_, _>>()?,
        other => vec![other],
    };
    let paths: Vec<_> = attributes
        .iter()
        .map(|attribute| path(cx, attribute))
        .collect::<Result<_, _>>()?;
    let mut keyed = Vec::new();
    for item in cx.items(&given(value))? {
        let key = paths.iter().map(|path| {
            let key = follow(cx, &item, path, &Value::None)?;
            without_case(cx, key, is_true(&case_sensitive))
        });
        keyed.push((cx.list(key.collect::<Result<_, _>>()?)?, item));
    }
    cx.list(cx.sorted(keyed, is_true(&reverse))?)
}

pub(super) fn dictsort(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = ["value", "case_sensitive", "by", "reverse"];
    let [value, case_sensitive, by, reverse] = args.bind("dictsort", parameters, 1)?;
    let Value::Dict(d) = given(value) else {
        return broken("dictsort needs a mapping");
    };
    let by_value = match by.as_ref().map_or(Some("key"), Value::as_str) {
        Some("key") => false,
        Some("value") => true,
        _other => return broken("You can only sort by either \"key\" or \"value\""),
    };
    let mut keyed = Vec::new();
    for (key, value) in &d.entries {
        let by = if by_value { value } else { key };
        let by = without_case(cx, by.clone(), is_true(&case_sensitive))?;
        keyed.push((by, cx.tuple(vec![key.clone(), value.clone()])?));
    }
    cx.list(cx.sorted(keyed, is_true(&reverse))?)
}

pub(super) fn unique(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = ["value", "case_sensitive", "attribute"];
    let [value, case_sensitive, attribute] = args.bind("unique", parameters, 1)?;
    let path = path(cx, &given(attribute))?;
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for item in cx.items(&given(value))? {
        let key = follow(cx, &item, &path, &Value::None)?;
        let key = without_case(cx, key, is_true(&case_sensitive))?;
        if seen.insert(Key::new(&key)?) {
            kept.push(Ok(item));
        }
    }
    cx.generator(kept, "generator")
}

pub(super) fn extreme(cx: &Cx, args: Args, which: &str) -> Result<Value, Error> {
    let parameters = ["value", "case_sensitive", "attribute"];
    let [value, case_sensitive, attribute] = args.bind(which, parameters, 1)?;
    let path = path(cx, &given(attribute))?;
    let op = if which == "min" {
        Compare::Lt
    } else {
        Compare::Gt
    };
    let mut best: Option<(Value, Value)> = None;
    for item in cx.items(&given(value))? {
        let key = follow(cx, &item, &path, &Value::None)?;
        let key = without_case(cx, key, is_true(&case_sensitive))?;
        let is_better = match &best {
            None => true,
            Some((old, _)) => cx.compare(op, &key, old)?,
        };
        if is_better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::Undefined, |(_, item)| item))
}

pub(super) fn sum(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, attribute, start] = args.bind("sum", ["iterable", "attribute", "start"], 1)?;
    let path = path(cx, &given(attribute))?;
    let mut sum = start.unwrap_or(Value::Int(0));
    if let Value::Str(_) = sum {
        return broken("sum() can't sum strings [use ''.join(seq) instead]");
    }
    for item in cx.items(&given(value))? {
        let item = follow(cx, &item, &path, &Value::None)?;
        sum = cx.binary(Binary::Add, &sum, &item)?;
    }
    Ok(sum)
}

pub(super) fn groupby(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = ["value", "attribute", "default", "case_sensitive"];
    let [value, attribute, default, case_sensitive] = args.bind("groupby", parameters, 2)?;
    let path = path(cx, &given(attribute))?;
    let default = given(default);
    let key_of = |item: &Value| {
        let key = follow(cx, item, &path, &default)?;
        without_case(cx, key, is_true(&case_sensitive))
    };
    let items = cx.items(&given(value))?;
    let keyed = items.into_iter().map(|item| Ok((key_of(&item)?, item)));
    let sorted = cx.sorted(keyed.collect::<Result<_, Error>>()?, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in sorted {
        let key = key_of(&item)?;
        match groups.last_mut() {
            Some((last, group)) if cx.equal(last, &key)? => group.push(item),
            _other => groups.push((key, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(key, group)| {
        // The name as it is written in the group's first item.
        let name = match (is_true(&case_sensitive), group.first()) {
            (false, Some(first)) => follow(cx, first, &path, &default)?,
            (_, _) => key,
        };
        let pair = vec![name, cx.list(group)?];
        Ok(Value::Tuple(cx.seq(pair, SeqKind::Group)?))
    });
    cx.list(groups.collect::<Result<_, Error>>()?)
}

pub(super) fn map(cx: &Cx, state: &mut State<'_, '_>, args: Args) -> Result<Value, Error> {
    let (value, mut args) = split(args)?;
    if !value.is_true() {
        return cx.generator([], "generator");
    }
    let names_attribute = args.named.iter().any(|(name, _)| name == "attribute");
    let items = cx.items(&value)?;
    let mut results = Vec::new();
    if args.positional.is_empty() && names_attribute {
        let [attribute, default] = args.bind("map", ["attribute", "default"], 1)?;
        let path = path(cx, &given(attribute))?;
        let default = given(default);
        results.extend(items.iter().map(|item| follow(cx, item, &path, &default)));
    } else if args.positional.is_empty() {
        return broken("map requires a filter argument");
    } else {
        let name = args.positional.remove(0);
        for item in items {
            results.push(apply(cx, state, &name, with(item, &args)));
        }
    }
    cx.generator(results, "generator")
}

/// The attributes of all items.
pub(super) fn attributes(cx: &Cx, value: &Value, attribute: &Value) -> Result<Vec<Value>, Error> {
    let path = path(cx, attribute)?;
    let items = cx.items(value)?;
    items
        .iter()
        .map(|item| follow(cx, item, &path, &Value::None))
        .collect()
}

pub(super) fn select(
    cx: &Cx,
    state: &mut State<'_, '_>,
    args: Args,
    which: &'static str,
) -> Result<Value, Error> {
    let (value, mut args) = split(args)?;
    if !value.is_true() {
        return cx.generator([], "generator");
    }
    let path = match (which.ends_with("attr"), args.positional.is_empty()) {
        (false, _) => Vec::new(),
        (true, false) => path(cx, &args.positional.remove(0))?,
        (true, true) => return broken("Missing parameter for attribute name"),
    };
    let test = (!args.positional.is_empty()).then(|| args.positional.remove(0));
    let wanted = which.starts_with("select");
    let mut kept = Vec::new();
    for item in cx.items(&value)? {
        let holds = follow(cx, &item, &path, &Value::None).and_then(|tested| match &test {
            None => Ok(tested.is_true()),
            Some(test) => cx.check(state, test, with(tested, &args)),
        });
        match holds {
            Ok(holds) if holds == wanted => kept.push(Ok(item)),
            Ok(_) => {}
            Err(error) => kept.push(Err(error)),
        }
    }
    cx.generator(kept, "generator")
}

fn split(args: Args) -> Result<(Value, Args), Error> {
    let mut args = args;
    match args.positional.is_empty() {
        true => broken("a filter needs a value"),
        false => Ok((args.positional.remove(0), args)),
    }
}

/// The arguments of a filter or a test with the value before them.
fn with(value: Value, args: &Args) -> Args {
    let mut positional = vec![value];
    positional.extend(args.positional.iter().cloned());
    Args {
        positional,
        named: args.named.clone(),
    }
}
