//! Filters of texts.

use std::collections::VecDeque;

use minijinja::Error;

use super::super::super::source::is_space;
use super::super::arguments::{Args, count, int_or, is_true, text, text_or_none};
use super::super::methods::{centered, lines, replaced};
use super::super::value::{Str, Value};
use super::super::write::escape;
use super::super::{Cx, broken, percent};
use super::given;

/// A filter that is a method of strings without arguments.
pub(super) fn method(cx: &Cx, args: Args, name: &'static str) -> Result<Value, Error> {
    let [value] = args.bind(name, ["s"], 1)?;
    let text = cx.str(&given(value))?;
    cx.call_method(&Value::Str(text), name, Args::default())
}

pub(super) fn escaped(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.unnamed("escape", 1)?;
    escape(cx, &given(value))
}

pub(super) fn center(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, width] = args.bind("center", ["value", "width"], 1)?;
    let text = cx.str(&given(value))?;
    let mut out = cx.buffer();
    centered(&text, count(int_or(&width, 80)?), ' ', &mut out)?;
    cx.finish(out, text.is_markup())
}

pub(super) fn format(cx: &Cx, args: Args) -> Result<Value, Error> {
    let mut args = args;
    if args.positional.is_empty() {
        return broken("format needs a value");
    }
    let format = cx.str(&args.positional.remove(0))?;
    let operands = match (args.positional.is_empty(), args.named.is_empty()) {
        (false, false) => {
            return broken("can't handle positional and keyword arguments at the same time");
        }
        (_, true) => cx.tuple(args.positional)?,
        (true, false) => {
            let named = args.named.into_iter();
            let pairs = named.map(|(name, value)| Ok((cx.text(name)?, value)));
            cx.dict(pairs.collect::<Result<_, Error>>()?)?
        }
    };
    percent::format(cx, &format, &operands)
}

pub(super) fn indent(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, width, first, blank] = args.bind("indent", ["s", "width", "first", "blank"], 1)?;
    let value = given(value);
    let this = text(&value)?;
    let indent = match &width {
        Some(Value::Str(s)) => s.to_string(),
        width => {
            let mut out = cx.buffer();
            out.repeat(" ", count(int_or(width, 4)?))?;
            out.into_text()
        }
    };
    let whole = format!("{this}\n");
    let mut out = cx.buffer();
    for (idx, line) in lines(&whole, false).into_iter().enumerate() {
        if idx > 0 {
            out.push("\n")?;
        }
        let is_moved = match idx {
            0 => is_true(&first),
            _later => is_true(&blank) || !line.is_empty(),
        };
        out.push(if is_moved { &indent } else { "" })?;
        out.push(line)?;
    }
    cx.finish(out, matches!(value, Value::Str(s) if s.is_markup()))
}

pub(super) fn join(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, separator, attribute] = args.bind("join", ["value", "d", "attribute"], 1)?;
    let value = given(value);
    let items = match given(attribute) {
        Value::None => cx.items(&value)?,
        attribute => super::sequences::attributes(cx, &value, &attribute)?,
    };
    let separator = separator.map_or_else(|| cx.text(""), Ok)?;
    let mut out = cx.buffer();
    for (idx, item) in items.iter().enumerate() {
        if idx > 0 {
            cx.write_str(&separator, &mut out)?;
        }
        cx.write_str(item, &mut out)?;
    }
    cx.finish(out, false)
}

pub(super) fn replace(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, old, new, n] = args.bind("replace", ["s", "old", "new", "count"], 3)?;
    let this = cx.str(&given(value))?;
    let (old, new) = (cx.str(&given(old))?, cx.str(&given(new))?);
    let n = match given(n) {
        Value::None => -1,
        n => n.int()?,
    };
    replaced(cx, &plain(cx, &this)?, &old, &new, n)
}

/// The text without its mark.
fn plain(cx: &Cx, this: &Str) -> Result<Str, Error> {
    match cx.text(&**this)? {
        Value::Str(s) => Ok(s),
        other => broken(format!("expected a text, found {}", other.type_name())),
    }
}

pub(super) fn title(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.bind("title", ["s"], 1)?;
    let this = cx.str(&given(value))?;
    let mut out = cx.buffer();
    let mut begins = true;
    for c in this.chars() {
        let is_between = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        let text: String = match begins {
            true => c.to_uppercase().collect(),
            false => c.to_lowercase().collect(),
        };
        begins = is_between;
        out.push(&text)?;
    }
    cx.finish(out, false)
}

pub(super) fn trim(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, chars] = args.bind("trim", ["value", "chars"], 1)?;
    let this = cx.str(&given(value))?;
    text_or_none(&chars)?;
    let chars = Args::of(chars.into_iter().collect());
    cx.call_method(&Value::Str(this), "strip", chars)
}

pub(super) fn truncate(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = ["s", "length", "killwords", "end", "leeway"];
    let [value, length, killwords, end, leeway] = args.bind("truncate", parameters, 1)?;
    let value = given(value);
    let length = int_or(&length, 255)?;
    let leeway = match given(leeway) {
        Value::None => 5,
        leeway => leeway.int()?,
    };
    let end = end.as_ref().map_or(Ok("..."), text)?;
    let n_end = end.chars().count() as i128;
    if length < n_end || leeway < 0 {
        return broken(format!("expected length >= {n_end} and leeway >= 0"));
    }
    if cx.len(&value)? as i128 <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let this = text(&value)?;
    let cut: String = this.chars().take(count(length - n_end)).collect();
    let kept = match is_true(&killwords) {
        true => &*cut,
        false => cut.rsplit_once(' ').map_or(&*cut, |(before, _)| before),
    };
    cx.text(format!("{kept}{end}"))
}

pub(super) fn striptags(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.bind("striptags", ["value"], 1)?;
    let this = cx.str(&given(value))?;
    let mut text = this.to_string();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut kept = String::new();
        let mut rest = &*text;
        while let Some((before, inside)) = rest.split_once(open) {
            let Some((_, after)) = inside.split_once(close) else {
                break;
            };
            kept.push_str(before);
            rest = after;
        }
        kept.push_str(rest);
        text = kept;
    }
    if text.contains('&') {
        return broken("striptags of a text with entities is not supported");
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    cx.text(words.join(" "))
}

pub(super) fn urlencode(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.bind("urlencode", ["value"], 1)?;
    let value = given(value);
    let mut out = cx.buffer();
    let pairs = match &value {
        Value::Dict(d) => d.entries.clone(),
        Value::List(_)
        | Value::Tuple(_)
        | Value::Range(_)
        | Value::Generator(_)
        | Value::View(..) => {
            let mut pairs = Vec::new();
            for item in cx.items(&value)? {
                match cx.items(&item)?.as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _other => return broken("urlencode needs pairs"),
                }
            }
            pairs
        }
        single => {
            out.push(&quoted(&cx.str(single)?, "/"))?;
            return cx.finish(out, false);
        }
    };
    for (idx, (key, value)) in pairs.iter().enumerate() {
        out.push(if idx > 0 { "&" } else { "" })?;
        out.push(&quoted(&cx.str(key)?, "").replace("%20", "+"))?;
        out.push("=")?;
        out.push(&quoted(&cx.str(value)?, "").replace("%20", "+"))?;
    }
    cx.finish(out, false)
}

fn quoted(text: &str, kept: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        let c = char::from(byte);
        match c.is_ascii_alphanumeric() || "_.-~".contains(c) || kept.contains(c) {
            true => result.push(c),
            false => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

pub(super) fn wordcount(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value] = args.bind("wordcount", ["s"], 1)?;
    let this = cx.str(&given(value))?;
    let words = this.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let n = words.filter(|word| !word.is_empty()).count();
    Ok(Value::Int(n as i128))
}

pub(super) fn wordwrap(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = [
        "s",
        "width",
        "break_long_words",
        "wrapstring",
        "break_on_hyphens",
    ];
    let [value, width, long, wrap, hyphens] = args.bind("wordwrap", parameters, 1)?;
    let value = given(value);
    let this = text(&value)?;
    let width = int_or(&width, 79)?;
    if width <= 0 {
        return broken("invalid width (must be > 0)");
    }
    let breaks_long = long.as_ref().is_none_or(Value::is_true);
    if hyphens.as_ref().is_none_or(Value::is_true) && this.contains('-') {
        return broken("wordwrap of a text with hyphens is not supported");
    }
    let wrap = text_or_none(&wrap)?.unwrap_or("\n");
    let mut out = cx.buffer();
    for (idx, line) in lines(this, false).into_iter().enumerate() {
        out.push(if idx > 0 { wrap } else { "" })?;
        let wrapped = wrapped(line, count(width), breaks_long);
        for (idx, line) in wrapped.iter().enumerate() {
            out.push(if idx > 0 { wrap } else { "" })?;
            out.push(line)?;
        }
    }
    cx.finish(out, false)
}

/// A line in lines of a width, as `textwrap.wrap` breaks it.
fn wrapped(line: &str, width: usize, breaks_long: bool) -> Vec<String> {
    let is_blank = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_whitespace() || c == '\u{b}')
    };
    let size = |text: &str| text.chars().count();
    let mut chunks: VecDeque<String> = VecDeque::new();
    for c in line.chars() {
        let c = c.to_string();
        match chunks.back_mut() {
            Some(chunk) if is_blank(chunk) == is_blank(&c) => chunk.push_str(&c),
            _other => chunks.push_back(c),
        }
    }
    let mut result = Vec::new();
    while !chunks.is_empty() {
        let mut current: Vec<String> = Vec::new();
        let mut n = 0;
        if !result.is_empty() && is_blank(&chunks[0]) {
            chunks.pop_front();
        }
        while chunks.front().is_some_and(|chunk| n + size(chunk) <= width) {
            let chunk = chunks.pop_front().unwrap_or_default();
            n += size(&chunk);
            current.push(chunk);
        }
        let long = chunks.front().filter(|chunk| size(chunk) > width).cloned();
        if let Some(chunk) = long {
            if breaks_long {
                let room = width - n;
                let at = chunk.char_indices().nth(room);
                let at = at.map_or(chunk.len(), |(at, _)| at);
                current.push(chunk[..at].to_owned());
                chunks[0] = chunk[at..].to_owned();
            } else if current.is_empty() {
                current.extend(chunks.pop_front());
            }
        }
        if current.last().is_some_and(|chunk| is_blank(chunk)) {
            current.pop();
        }
        if !current.is_empty() {
            result.push(current.concat());
        }
    }
    result
}

pub(super) fn xmlattr(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, autospace] = args.bind("xmlattr", ["d", "autospace"], 1)?;
    let Value::Dict(d) = given(value) else {
        return broken("xmlattr needs a mapping");
    };
    let mut out = cx.buffer();
    let has_space = autospace.as_ref().is_none_or(Value::is_true);
    let mut separator = if has_space { " " } else { "" };
    for (key, value) in &d.entries {
        if matches!(value, Value::None | Value::Undefined) {
            continue;
        }
        let is_odd = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '=' | '\u{b}');
        if text(key)?.contains(is_odd) {
            return broken("Invalid character in attribute name");
        }
        out.push(separator)?;
        cx.write_str(&escape(cx, key)?, &mut out)?;
        out.push("=\"")?;
        cx.write_str(&escape(cx, value)?, &mut out)?;
        out.push("\"")?;
        separator = " ";
    }
    cx.finish(out, false)
}
