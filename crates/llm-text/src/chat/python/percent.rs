//! The operator `%` of strings.

use minijinja::Error;

use super::Cx;
use super::broken;
use super::float;
use super::format::{Align, MAX_PRECISION, padded};
use super::value::{Str, Value};
use super::write::{ascii, escape};

/// `format % value`.
pub(super) fn format(cx: &Cx, format: &Str, value: &Value) -> Result<Value, Error> {
    let mut out = cx.buffer();
    let mut operands = Operands {
        all: value,
        next: 0,
    };
    let mut rest = &**format;
    while let Some(at) = rest.find('%') {
        out.push(&rest[..at])?;
        let (directive, after) = Directive::read(cx, &rest[at + 1..], &mut operands)?;
        rest = after;
        let text = directive.text(cx, &mut operands, format.is_markup())?;
        let align = match directive.has('-') {
            true => Align::Left,
            false => Align::Right,
        };
        let zeros = directive.has('0') && !directive.has('-') && directive.is_number();
        let (fill, align) = if zeros {
            ('0', Align::AfterSign)
        } else {
            (' ', align)
        };
        padded(&text, directive.width, align, fill, &mut out)?;
    }
    out.push(rest)?;
    operands.finish()?;
    cx.finish(out, format.is_markup())
}

/// Operands: a tuple's items, the values of a mapping, or one value.
struct Operands<'v> {
    all: &'v Value,
    next: usize,
}

impl Operands<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let idx = self.next;
        self.next += 1;
        let value = match self.all {
            Value::Tuple(s) => s.items.get(idx).cloned(),
            single => (idx == 0).then(|| single.clone()),
        };
        match value {
            Some(value) => Ok(value),
            None => broken("not enough arguments for format string"),
        }
    }

    fn finish(&self) -> Result<(), Error> {
        let n_left = match self.all {
            Value::Tuple(s) => s.items.len() > self.next,
            Value::Undefined | Value::Dict(_) | Value::List(_) | Value::Range(_) => false,
            _single => self.next == 0,
        };
        match n_left {
            true => broken("not all arguments converted during string formatting"),
            false => Ok(()),
        }
    }
}

struct Directive {
    key: Option<String>,
    flags: String,
    width: usize,
    precision: Option<usize>,
    letter: char,
}

impl Directive {
    /// Reads what follows a percent sign.
    fn read<'t>(
        cx: &Cx,
        text: &'t str,
        operands: &mut Operands<'_>,
    ) -> Result<(Directive, &'t str), Error> {
        let mut rest = text;
        let mut key = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let mut depth = 1;
            let end = inside.char_indices().find(|(_, c)| {
                depth += i32::from(*c == '(') - i32::from(*c == ')');
                depth == 0
            });
            let Some((end, _)) = end else {
                return broken("incomplete format key");
            };
            key = Some(inside[..end].to_owned());
            rest = &inside[end + 1..];
        }
        let n_flags = rest.len() - rest.trim_start_matches(['#', '0', '-', ' ', '+']).len();
        let mut flags = rest[..n_flags].to_owned();
        rest = &rest[n_flags..];
        let mut width = count(&mut rest, operands)?.unwrap_or(0);
        if width < 0 {
            flags.push('-');
            width = -width;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            precision = Some(count(&mut rest, operands)?.unwrap_or(0).max(0));
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let Some(letter) = rest.chars().next() else {
            return broken("incomplete format");
        };
        cx.meter.step(1)?;
        let directive = Directive {
            key,
            flags,
            width: super::arguments::count(width),
            precision: precision.map(super::arguments::count),
            letter,
        };
        Ok((directive, &rest[letter.len_utf8()..]))
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn is_number(&self) -> bool {
        "diuoxXeEfFgG".contains(self.letter)
    }

    fn text(&self, cx: &Cx, operands: &mut Operands<'_>, safe: bool) -> Result<String, Error> {
        if self.letter == '%' {
            return Ok("%".to_owned());
        }
        let value = match &self.key {
            None => operands.next()?,
            Some(key) => {
                let Value::Dict(mapping) = operands.all else {
                    return broken("format requires a mapping");
                };
                operands.next = 1;
                match mapping.find_text(key) {
                    Some(value) => value.clone(),
                    None => return broken(format!("there is no '{key}' to format")),
                }
            }
        };
        let precision = self.precision.filter(|p| *p > MAX_PRECISION);
        if precision.is_some() && self.is_number() {
            return broken("the precision of a format is too large");
        }
        match self.letter {
            's' | 'r' | 'a' => {
                let mut out = cx.buffer();
                match self.letter {
                    's' if safe => cx.write_str(&escape(cx, &value)?, &mut out)?,
                    's' => cx.write_str(&value, &mut out)?,
                    _repr => cx.write_repr(&value, &mut out)?,
                }
                let mut text = out.into_text();
                if self.letter == 'a' {
                    text = ascii(&text);
                }
                if let Some(n) = self.precision {
                    text = text.chars().take(n).collect();
                }
                Ok(text)
            }
            'c' => match (&value, value.as_int()) {
                (Value::Str(s), _) if s.chars().count() == 1 => Ok(s.to_string()),
                (_, Some(code)) => match u32::try_from(code).ok().and_then(char::from_u32) {
                    Some(c) => Ok(c.to_string()),
                    None => broken("%c arg not in range(0x110000)"),
                },
                (_, None) => broken("%c requires int or char"),
            },
            'd' | 'i' | 'u' => {
                let int = match &value {
                    Value::Float(f) if f.is_finite() && f.abs() < 1e38 => Some(*f as i128),
                    other => other.as_int(),
                };
                self.integer(int, &value)
            }
            'o' | 'x' | 'X' => self.integer(value.as_int(), &value),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                value.defined()?;
                let Some(float) = value.as_float() else {
                    return broken(format!("must be real number, not {}", value.type_name()));
                };
                let precision = self.precision.unwrap_or(6);
                let size = float::formatted(float, self.letter, precision, self.has('#'));
                let is_negative = float.is_sign_negative() && !float.is_nan();
                Ok(self.signed(is_negative, &size))
            }
            other => broken(format!("unsupported format character '{other}'")),
        }
    }

    fn integer(&self, int: Option<i128>, value: &Value) -> Result<String, Error> {
        value.defined()?;
        let letter = self.letter;
        let Some(int) = int else {
            let found = value.type_name();
            return broken(format!(
                "%{letter} format: a number is required, not {found}"
            ));
        };
        let size = int.unsigned_abs();
        let (prefix, digits) = match letter {
            'o' => ("0o", format!("{size:o}")),
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            _decimal => ("", size.to_string()),
        };
        let n_zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        let digits = "0".repeat(n_zeros) + &digits;
        let prefix = if self.has('#') { prefix } else { "" };
        Ok(self.signed(int < 0, &format!("{prefix}{digits}")))
    }

    fn signed(&self, is_negative: bool, size: &str) -> String {
        let sign = match is_negative {
            true => "-",
            false if self.has('+') => "+",
            false if self.has(' ') => " ",
            false => "",
        };
        format!("{sign}{size}")
    }
}

/// A number in a directive, or the next operand for a star.
fn count(rest: &mut &str, operands: &mut Operands<'_>) -> Result<Option<i128>, Error> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        return operands.next()?.int().map(Some);
    }
    let n = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let digits = &rest[..n];
    *rest = &rest[n..];
    match digits.is_empty() {
        true => Ok(None),
        false => match digits.parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => broken("a width is too large"),
        },
    }
}
