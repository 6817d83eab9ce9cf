//! `str.format` and its format specifications.

use minijinja::Error;

use super::Cx;
use super::arguments::Args;
use super::broken;
use super::float;
use super::meter::Buffer;
use super::value::{Str, Value};
use super::write::{ascii, escape};

/// `format.format(…)`.
pub(super) fn format(cx: &Cx, format: &Str, args: &Args) -> Result<Value, Error> {
    let mut out = cx.buffer();
    let mut formatter = Formatter {
        cx,
        args,
        next: Some(0),
        safe: format.is_markup(),
    };
    formatter.expand(format, 2, &mut out)?;
    cx.finish(out, format.is_markup())
}

struct Formatter<'a> {
    cx: &'a Cx,
    args: &'a Args,
    /// The next field without a name, until one has a number.
    next: Option<usize>,
    safe: bool,
}

impl Formatter<'_> {
    fn expand(&mut self, text: &str, depth: u32, out: &mut Buffer<'_>) -> Result<(), Error> {
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push(&rest[..at])?;
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                out.push(brace)?;
                rest = after;
                continue;
            }
            if brace == "}" {
                return broken("Single '}' encountered in format string");
            }
            let Some(end) = field_end(after) else {
                return broken("expected '}' before end of string");
            };
            self.field(&after[..end], depth, out)?;
            rest = &after[end + 1..];
        }
        out.push(rest)
    }

    fn field(&mut self, field: &str, depth: u32, out: &mut Buffer<'_>) -> Result<(), Error> {
        if depth == 0 {
            return broken("Max string recursion exceeded");
        }
        let name_end = name_end(field);
        let (name, rest) = field.split_at(name_end);
        let (conversion, spec) = match rest.strip_prefix('!') {
            Some(rest) => {
                let Some(letter) = rest.chars().next() else {
                    return broken("end of string while looking for conversion specifier");
                };
                let rest = &rest[letter.len_utf8()..];
                match (rest.strip_prefix(':'), rest.is_empty()) {
                    (Some(spec), _) => (Some(letter), spec),
                    (None, true) => (Some(letter), ""),
                    (None, false) => return broken("expected ':' after conversion specifier"),
                }
            }
            None => (None, rest.strip_prefix(':').unwrap_or_default()),
        };
        let value = self.look_up(name)?;
        let mut expanded = self.cx.buffer();
        self.expand(spec, depth - 1, &mut expanded)?;
        let spec = expanded.into_text();
        let value = match conversion {
            None => value,
            Some(letter) => {
                let mut text = self.cx.buffer();
                match letter {
                    's' => self.cx.write_str(&value, &mut text)?,
                    'r' | 'a' => self.cx.write_repr(&value, &mut text)?,
                    other => return broken(format!("Unknown conversion specifier {other}")),
                }
                let text = text.into_text();
                self.cx
                    .text(if letter == 'a' { ascii(&text) } else { text })?
            }
        };
        let is_text = matches!(value, Value::Str(_));
        match self.safe {
            true if is_text || spec.is_empty() => {
                let safe = escape(self.cx, &value)?;
                formatted(self.cx, &safe, &spec, out)
            }
            true | false => formatted(self.cx, &value, &spec, out),
        }
    }

    fn look_up(&mut self, name: &str) -> Result<Value, Error> {
        let first_end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(first_end);
        let idx = match (first.parse::<usize>(), first.is_empty(), self.next) {
            (_, true, Some(next)) => {
                self.next = Some(next + 1);
                Some(next)
            }
            (_, true, None) => {
                return broken("cannot switch from manual field specification to automatic");
            }
            (Ok(idx), false, next) => {
                if next.is_some_and(|next| next > 0) {
                    return broken("cannot switch from automatic field numbering to manual");
                }
                self.next = None;
                Some(idx)
            }
            (Err(_), false, _) => None,
        };
        let found = match idx {
            Some(idx) => self.args.positional.get(idx),
            None => {
                let mut named = self.args.named.iter();
                named
                    .find(|(key, _)| **key == *first)
                    .map(|(_, value)| value)
            }
        };
        let Some(mut value) = found.cloned() else {
            return broken(format!("there is no '{first}' to format"));
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                value = self.cx.attribute(&value, &after[..end])?;
                rest = &after[end..];
            } else if let Some((key, after)) = rest[1..].split_once(']') {
                let key = match key.parse::<i128>() {
                    Ok(idx) if key.bytes().all(|b| b.is_ascii_digit()) => Value::Int(idx),
                    Ok(_) | Err(_) => self.cx.text(key)?,
                };
                value = self.cx.item(&value, &key)?;
                rest = after;
            } else {
                return broken("Missing ']' in format string");
            }
        }
        Ok(value)
    }
}

/// End of the field that begins here.
fn field_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        (depth < 0).then_some(at)
    })
}

fn name_end(field: &str) -> usize {
    let mut in_brackets = false;
    let end = field.char_indices().find(|(_, c)| {
        in_brackets = *c == '[' || (in_brackets && *c != ']');
        !in_brackets && matches!(c, '!' | ':')
    });
    end.map_or(field.len(), |(at, _)| at)
}

/// Text alignment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    Center,
    AfterSign,
}

/// A text made as wide as asked.
pub(super) fn padded(
    text: &str,
    width: usize,
    align: Align,
    fill: char,
    out: &mut Buffer<'_>,
) -> Result<(), Error> {
    let n = width.saturating_sub(text.chars().count());
    let fill = fill.encode_utf8(&mut [0; 4]).to_owned();
    let (before, after) = match align {
        Align::Left => (0, n),
        Align::Right | Align::AfterSign => (n, 0),
        Align::Center => (n / 2, n - n / 2),
    };
    let head = match align {
        Align::AfterSign => sign_len(text),
        Align::Left | Align::Right | Align::Center => 0,
    };
    out.push(&text[..head])?;
    out.repeat(&fill, before)?;
    out.push(&text[head..])?;
    out.repeat(&fill, after)
}

fn sign_len(text: &str) -> usize {
    let sign = usize::from(text.starts_with(['+', '-', ' ']));
    let prefixes = ["0x", "0X", "0o", "0b"];
    let has_prefix = prefixes
        .iter()
        .any(|prefix| text[sign..].starts_with(prefix));
    sign + if has_prefix { 2 } else { 0 }
}

/// Format after a field's colon.
struct Spec {
    fill: char,
    align: Option<Align>,
    sign: char,
    is_alternate: bool,
    width: usize,
    separator: Option<char>,
    precision: Option<usize>,
    letter: Option<char>,
}

impl Spec {
    fn parse(text: &str) -> Option<Spec> {
        let align_of = |c: char| match c {
            '<' => Some(Align::Left),
            '>' => Some(Align::Right),
            '^' => Some(Align::Center),
            '=' => Some(Align::AfterSign),
            _other => None,
        };
        let mut chars = text.chars();
        let (first, second) = (chars.next(), chars.next());
        let (mut fill, mut align, mut rest) = (' ', None, text);
        if let Some(found) = second.and_then(align_of) {
            fill = first?;
            align = Some(found);
            rest = &text[fill.len_utf8() + 1..];
        } else if let Some(found) = first.and_then(align_of) {
            align = Some(found);
            rest = &text[1..];
        }
        let sign = rest.chars().next().filter(|c| matches!(c, '+' | '-' | ' '));
        rest = &rest[sign.map_or(0, char::len_utf8)..];
        rest = rest.strip_prefix('z').unwrap_or(rest);
        let is_alternate = rest.starts_with('#');
        rest = rest.strip_prefix('#').unwrap_or(rest);
        if rest.starts_with('0') {
            if align.is_none() {
                (fill, align) = ('0', Some(Align::AfterSign));
            }
            rest = &rest[1..];
        }
        let width = digits(&mut rest)?.unwrap_or(0);
        let separator = rest.chars().next().filter(|c| matches!(c, ',' | '_'));
        rest = &rest[separator.map_or(0, char::len_utf8)..];
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            precision = Some(digits(&mut rest)??);
        }
        let mut letters = rest.chars();
        let letter = letters.next();
        letters.next().is_none().then_some(Spec {
            fill,
            align,
            sign: sign.unwrap_or('-'),
            is_alternate,
            width,
            separator,
            precision,
            letter,
        })
    }
}

fn digits(rest: &mut &str) -> Option<Option<usize>> {
    let n = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (digits, after) = rest.split_at(n);
    *rest = after;
    match digits.is_empty() {
        true => Some(None),
        false => digits.parse().ok().map(Some),
    }
}

/// `format(value, spec)`.
fn formatted(cx: &Cx, value: &Value, spec: &str, out: &mut Buffer<'_>) -> Result<(), Error> {
    if spec.is_empty() {
        return cx.write_str(value, out);
    }
    let kind = value.type_name();
    let invalid = || broken(format!("Invalid format specifier '{spec}' for a {kind}"));
    let Some(spec) = Spec::parse(spec) else {
        return invalid();
    };
    if spec.precision.is_some_and(|p| p > MAX_PRECISION) {
        return broken("the precision of a format is too large");
    }
    if let Value::Str(text) = value {
        let is_odd = spec.sign != '-' || spec.is_alternate || spec.separator.is_some();
        if is_odd || !matches!(spec.letter, None | Some('s')) {
            return invalid();
        }
        let align = match spec.align {
            Some(Align::AfterSign) if spec.fill == '0' => Align::Left,
            Some(Align::AfterSign) => return invalid(),
            other => other.unwrap_or(Align::Left),
        };
        let n = spec.precision.unwrap_or(usize::MAX);
        let text: String = text.chars().take(n).collect();
        return padded(&text, spec.width, align, spec.fill, out);
    }
    let (is_negative, size) = match (value.as_int(), value) {
        (Some(int), _) => match spec.letter {
            None | Some('d' | 'n' | 'b' | 'o' | 'x' | 'X') if spec.precision.is_none() => {
                (int < 0, integer(int.unsigned_abs(), &spec))
            }
            Some('c') => {
                let c = u32::try_from(int).ok().and_then(char::from_u32);
                match c {
                    Some(c) => (false, c.to_string()),
                    None => return broken("%c arg not in range(0x110000)"),
                }
            }
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => (int < 0, real(int as f64, &spec)),
            _other => return invalid(),
        },
        (None, Value::Float(f)) => match spec.letter {
            None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%') => {
                (f.is_sign_negative() && !f.is_nan(), real(*f, &spec))
            }
            Some(_) => return invalid(),
        },
        (None, _) => {
            return broken(format!(
                "unsupported format string passed to {kind}.__format__"
            ));
        }
    };
    let sign = match (is_negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        (false, _) => "",
    };
    let align = spec.align.unwrap_or(Align::Right);
    let size = match (align, spec.separator, spec.fill) {
        (Align::AfterSign, Some(_), '0') => widened(&size, spec.width, sign.len(), &spec),
        (_, _, _) => separated(&size, &spec),
    };
    padded(&format!("{sign}{size}"), spec.width, align, spec.fill, out)
}

fn integer(size: u128, spec: &Spec) -> String {
    let (prefix, digits) = match spec.letter {
        Some('b') => ("0b", format!("{size:b}")),
        Some('o') => ("0o", format!("{size:o}")),
        Some('x') => ("0x", format!("{size:x}")),
        Some('X') => ("0X", format!("{size:X}")),
        _decimal => ("", size.to_string()),
    };
    let prefix = if spec.is_alternate { prefix } else { "" };
    format!("{prefix}{digits}")
}

fn real(x: f64, spec: &Spec) -> String {
    match (spec.letter, spec.precision) {
        (None, None) => float::repr(x.abs()),
        (None, Some(precision)) if x.is_finite() => {
            let text = float::formatted(x, 'g', precision, spec.is_alternate);
            let precision = precision.max(1);
            let exponent = format!("{:.*e}", precision - 1, x.abs());
            let exponent = exponent
                .split_once('e')
                .and_then(|(_, e)| e.parse::<i64>().ok());
            // At least one digit stands after the point, and the exponent comes one earlier for it.
            if exponent.is_some_and(|e| e + 1 == precision as i64) && !text.contains('.') {
                return float::formatted(x, 'e', precision - 1, false);
            }
            match text.contains(['.', 'e']) {
                true => text,
                false => format!("{text}.0"),
            }
        }
        (letter, precision) => {
            let letter = letter.filter(|l| *l != 'n').unwrap_or('g');
            float::formatted(x, letter, precision.unwrap_or(6), spec.is_alternate)
        }
    }
}

/// Digits with the separator between their groups.
fn separated(size: &str, spec: &Spec) -> String {
    let Some(separator) = spec.separator else {
        return size.to_owned();
    };
    let n_group = match spec.letter {
        Some('b' | 'o' | 'x' | 'X') => 4,
        _decimal => 3,
    };
    let head = sign_len(size);
    let is_digit = |c: char| c.is_ascii_hexdigit() && (n_group == 4 || c.is_ascii_digit());
    let end = size[head..]
        .find(|c| !is_digit(c))
        .map_or(size.len(), |at| head + at);
    let mut result = size[..head].to_owned();
    for (idx, c) in size[head..end].chars().enumerate() {
        if idx > 0 && (end - head - idx).is_multiple_of(n_group) {
            result.push(separator);
        }
        result.push(c);
    }
    result + &size[end..]
}

/// Digits with zeros before them, which are separated too.
fn widened(size: &str, width: usize, n_sign: usize, spec: &Spec) -> String {
    let head = sign_len(size);
    let mut digits = size[head..].to_owned();
    let with_prefix = |digits: &str| separated(&format!("{}{digits}", &size[..head]), spec);
    while with_prefix(&digits).len() + n_sign < width.min(MAX_PRECISION) {
        digits.insert(0, '0');
    }
    with_prefix(&digits)
}

/// Digits that a format may ask for. A float has no more than 1074 that are not zeros.
pub(super) const MAX_PRECISION: usize = 2000;
