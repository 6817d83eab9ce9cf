//! The methods of `str`.

use minijinja::Error;

use super::super::super::source::is_space;
use super::super::Cx;
use super::super::arguments::{Args, count, int_or, is_true, text, text_or_none};
use super::super::broken;
use super::super::format::{Align, padded};
use super::super::value::{ITEM_BYTES, STR_BYTES, Str, Value};
use super::super::write::{escape, is_printable};
use super::{not_supported, words};

pub(super) const NAMES: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

pub(super) fn call(cx: &Cx, this: &Str, name: &'static str, args: Args) -> Result<Value, Error> {
    cx.meter.read(this)?;
    let safe = this.is_markup();
    let marked = |text: String| cx.marked(text, safe);
    match name {
        "upper" | "lower" | "capitalize" | "casefold" | "swapcase" | "title" => {
            args.none(name)?;
            // Some letters have three where they had one.
            cx.meter.has_room(this.len().saturating_mul(3))?;
            marked(match name {
                "upper" => this.to_uppercase(),
                "lower" => this.to_lowercase(),
                "capitalize" => words::capitalize(this),
                "casefold" => words::casefold(this),
                "swapcase" => words::swapcase(this),
                _title => words::title(this),
            })
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.unnamed(name, 0)?;
            let chars = text_or_none(&chars)?;
            let is_off = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            marked(
                match name {
                    "strip" => this.trim_matches(is_off),
                    "lstrip" => this.trim_start_matches(is_off),
                    _rstrip => this.trim_end_matches(is_off),
                }
                .to_owned(),
            )
        }
        "startswith" | "endswith" => {
            let [parts, start, stop] = args.unnamed(name, 1)?;
            let (part, is_empty) = span(this, &start, &stop)?;
            let parts = match parts.unwrap_or(Value::None) {
                Value::Tuple(parts) => parts.items.clone(),
                single => vec![single],
            };
            for affix in &parts {
                let affix = text(affix)?;
                let is_there = match name {
                    "startswith" => part.starts_with(affix),
                    _endswith => part.ends_with(affix),
                };
                if is_there && !is_empty {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = args.unnamed(name, 1)?;
            let affix = affix.unwrap_or(Value::None);
            let affix = text(&affix)?;
            let rest = match name {
                "removeprefix" => this.strip_prefix(affix),
                _suffix => this.strip_suffix(affix),
            };
            marked(rest.unwrap_or(this).to_owned())
        }
        "find" | "index" | "rfind" | "rindex" | "count" => {
            let [part, start, stop] = args.unnamed(name, 1)?;
            let part = part.unwrap_or(Value::None);
            search(cx, this, name, text(&part)?, [&start, &stop])
        }
        "replace" => {
            let [old, new, n] = args.unnamed(name, 2)?;
            let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
            let n = int_or(&n, -1)?;
            text(&old)?;
            text(&new)?;
            let new = if safe { escape(cx, &new)? } else { new };
            replaced(cx, this, text(&old)?, text(&new)?, n)
        }
        "split" | "rsplit" => {
            let [separator, max] = args.bind(name, ["sep", "maxsplit"], 0)?;
            let max = int_or(&max, -1)?;
            let max = if max < 0 { usize::MAX } else { count(max) };
            split(cx, this, text_or_none(&separator)?, max, name == "rsplit")
        }
        "splitlines" => {
            let [keep_ends] = args.bind(name, ["keepends"], 0)?;
            let lines = words::lines(this, is_true(&keep_ends));
            texts(cx, lines, this)
        }
        "partition" | "rpartition" => {
            let [separator] = args.unnamed(name, 1)?;
            let separator = separator.unwrap_or(Value::None);
            let separator = text(&separator)?;
            if separator.is_empty() {
                return broken("empty separator");
            }
            let parts = match name {
                "partition" => this.split_once(separator).map(|(a, b)| [a, separator, b]),
                _from_the_end => this.rsplit_once(separator).map(|(a, b)| [a, separator, b]),
            };
            let parts = parts.unwrap_or(match name {
                "partition" => [this, "", ""],
                _from_the_end => ["", "", this],
            });
            let parts = parts.into_iter().map(|part| cx.marked(part, safe));
            cx.tuple(parts.collect::<Result<_, _>>()?)
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.unnamed(name, 1)?;
            let width = count(width.unwrap_or(Value::None).int()?);
            let fill = fill.as_ref().map_or(Ok(" "), text)?;
            let mut fills = fill.chars();
            let (Some(fill), None) = (fills.next(), fills.next()) else {
                return broken("The fill character must be exactly one character long");
            };
            let mut out = cx.buffer();
            match name {
                "center" => centered(this, width, fill, &mut out)?,
                "ljust" => padded(this, width, Align::Left, fill, &mut out)?,
                _rjust => padded(this, width, Align::Right, fill, &mut out)?,
            }
            cx.finish(out, safe)
        }
        "zfill" => {
            let [width] = args.unnamed(name, 1)?;
            let n = count(width.unwrap_or(Value::None).int()?);
            let n = n.saturating_sub(this.chars().count());
            let (sign, digits) = match this.starts_with(['+', '-']) {
                true => this.split_at(1),
                false => ("", &**this),
            };
            let mut out = cx.buffer();
            out.push(sign)?;
            out.repeat("0", n)?;
            out.push(digits)?;
            cx.finish(out, safe)
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"], 0)?;
            let size = count(int_or(&size, 8)?);
            let mut out = cx.buffer();
            let mut column = 0;
            for c in this.chars() {
                match c {
                    '\t' if size > 0 => {
                        let n = size - column % size;
                        out.repeat(" ", n)?;
                        column += n;
                    }
                    '\t' => {}
                    '\n' | '\r' => {
                        out.push_char(c)?;
                        column = 0;
                    }
                    other => {
                        out.push_char(other)?;
                        column += 1;
                    }
                }
            }
            cx.finish(out, safe)
        }
        "join" => {
            let [items] = args.unnamed(name, 1)?;
            let items = items.unwrap_or(Value::None);
            let mut out = cx.buffer();
            for (idx, item) in cx.items(&items)?.iter().enumerate() {
                if idx > 0 {
                    out.push(this)?;
                }
                let Value::Str(_) = item else {
                    let found = item.type_name();
                    return broken(format!(
                        "sequence item {idx}: expected str instance, {found} found"
                    ));
                };
                match safe {
                    true => cx.write_str(&escape(cx, item)?, &mut out)?,
                    false => cx.write_str(item, &mut out)?,
                }
            }
            cx.finish(out, safe)
        }
        "format" => super::super::format::format(cx, this, &args),
        "format_map" => {
            let [mapping] = args.unnamed(name, 1)?;
            let Some(Value::Dict(mapping)) = mapping else {
                return broken("format_map needs a mapping");
            };
            let named = mapping.entries.iter();
            let named = named.filter_map(|(k, v)| Some((k.as_str()?.into(), v.clone())));
            let args = Args {
                positional: Vec::new(),
                named: named.collect(),
            };
            super::super::format::format(cx, this, &args)
        }
        "isascii" => args.none(name).map(|()| Value::Bool(this.is_ascii())),
        "isprintable" => args
            .none(name)
            .map(|()| Value::Bool(this.chars().all(is_printable))),
        "islower" | "isupper" | "istitle" | "isidentifier" => {
            args.none(name)?;
            Ok(Value::Bool(match name {
                "islower" => words::has_only(this, char::is_lowercase, char::is_uppercase),
                "isupper" => words::has_only(this, char::is_uppercase, char::is_lowercase),
                "istitle" => words::is_title(this),
                _identifier => words::is_identifier(this),
            }))
        }
        "isalnum" | "isalpha" | "isdecimal" | "isdigit" | "isnumeric" | "isspace" => {
            args.none(name)?;
            let is_one = match name {
                "isalnum" => char::is_alphanumeric,
                "isalpha" => char::is_alphabetic,
                "isdecimal" => words::is_decimal,
                "isdigit" => words::is_digit,
                "isnumeric" => char::is_numeric,
                _space => is_space,
            };
            Ok(Value::Bool(!this.is_empty() && this.chars().all(is_one)))
        }
        "translate" => {
            let [table] = args.unnamed(name, 1)?;
            let table = table.unwrap_or(Value::None);
            let mut out = cx.buffer();
            for c in this.chars() {
                let code = Value::Int(u32::from(c).into());
                match cx.item(&table, &code)? {
                    Value::Undefined => out.push_char(c)?,
                    Value::None => {}
                    Value::Str(s) => out.push(&s)?,
                    other => {
                        let code = u32::try_from(other.int()?).ok();
                        match code.and_then(char::from_u32) {
                            Some(c) => out.push_char(c)?,
                            None => return broken("character mapping must be in range(0x110000)"),
                        }
                    }
                }
            }
            cx.finish(out, safe)
        }
        _other => not_supported(&Value::Str(this.clone()), name),
    }
}

/// A text in the middle, where Python puts it: an odd space goes to the left if the width is odd.
pub(in super::super) fn centered(
    text: &str,
    width: usize,
    fill: char,
    out: &mut super::super::meter::Buffer<'_>,
) -> Result<(), Error> {
    let n = width.saturating_sub(text.chars().count());
    let left = n / 2 + (n & width & 1);
    let fill = fill.encode_utf8(&mut [0; 4]).to_owned();
    out.repeat(&fill, left)?;
    out.push(text)?;
    out.repeat(&fill, n - left)
}

/// The part of a text between two places, and whether they are beyond each other.
fn span<'t>(
    text: &'t str,
    start: &Option<Value>,
    stop: &Option<Value>,
) -> Result<(&'t str, bool), Error> {
    if start.is_none() && stop.is_none() {
        return Ok((text, false));
    }
    let n = text.chars().count();
    let (start_idx, stop_idx) = super::bounds(n, start, stop)?;
    let beyond = start
        .as_ref()
        .and_then(Value::as_int)
        .is_some_and(|i| i > n as i128);
    if start_idx > stop_idx || beyond {
        return Ok(("", true));
    }
    let at = |idx| {
        text.char_indices()
            .nth(idx)
            .map_or(text.len(), |(at, _)| at)
    };
    Ok((&text[at(start_idx)..at(stop_idx)], false))
}

fn search(
    cx: &Cx,
    this: &Str,
    name: &str,
    part: &str,
    [start, stop]: [&Option<Value>; 2],
) -> Result<Value, Error> {
    let (inside, is_beyond) = span(this, start, stop)?;
    if name == "count" {
        cx.meter.read(inside)?;
        let n = if is_beyond {
            0
        } else {
            inside.matches(part).count()
        };
        return Ok(Value::Int(n as i128));
    }
    let found = match name {
        _any if is_beyond => None,
        "find" | "index" => inside.find(part),
        _from_the_end => inside.rfind(part),
    };
    match found {
        Some(at) => {
            let before = inside.as_ptr() as usize - this.as_ptr() as usize;
            Ok(Value::Int(this[..before + at].chars().count() as i128))
        }
        None if name.ends_with("index") => broken("substring not found"),
        None => Ok(Value::Int(-1)),
    }
}

pub(in super::super) fn replaced(
    cx: &Cx,
    this: &Str,
    old: &str,
    new: &str,
    n: i128,
) -> Result<Value, Error> {
    let mut left = if n < 0 { usize::MAX } else { count(n) };
    let mut out = cx.buffer();
    let mut from = 0;
    for (at, found) in this.match_indices(old) {
        if left == 0 {
            break;
        }
        left -= 1;
        out.push(&this[from..at])?;
        out.push(new)?;
        from = at + found.len();
    }
    out.push(&this[from..])?;
    cx.finish(out, this.is_markup())
}

fn split(
    cx: &Cx,
    this: &Str,
    separator: Option<&str>,
    max: usize,
    from_the_end: bool,
) -> Result<Value, Error> {
    let n_parts = max.saturating_add(1);
    let parts: Vec<&str> = match (separator, from_the_end) {
        (Some(""), _) => return broken("empty separator"),
        (Some(separator), false) => this.splitn(n_parts, separator).collect(),
        (Some(separator), true) => {
            let mut parts: Vec<&str> = this.rsplitn(n_parts, separator).collect();
            parts.reverse();
            parts
        }
        (None, false) => words::split(this, max),
        (None, true) => words::rsplit(this, max),
    };
    texts(cx, parts, this)
}

/// A list of parts of a text.
fn texts(cx: &Cx, parts: Vec<&str>, this: &Str) -> Result<Value, Error> {
    cx.meter
        .has_room(parts.len().saturating_mul(ITEM_BYTES + STR_BYTES))?;
    let parts = parts
        .into_iter()
        .map(|part| cx.marked(part, this.is_markup()));
    cx.list(parts.collect::<Result<_, _>>()?)
}
