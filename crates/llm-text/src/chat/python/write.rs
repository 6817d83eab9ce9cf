//! Values as text, as `str` and `repr` write them.

use std::sync::Arc;

use minijinja::Error;

use super::Cx;
use super::broken;
use super::float;
use super::meter::Buffer;
use super::value::{Str, Value, View};

impl Cx {
    /// `str(value)`.
    pub(super) fn str(&self, value: &Value) -> Result<Str, Error> {
        if let Value::Str(s) = value {
            return Ok(s.clone());
        }
        let mut out = self.buffer();
        self.write_str(value, &mut out)?;
        match self.finish(out, false)? {
            Value::Str(s) => Ok(s),
            other => broken(format!("expected a text, found {}", other.type_name())),
        }
    }

    pub(super) fn write_str(&self, value: &Value, out: &mut Buffer<'_>) -> Result<(), Error> {
        match value {
            Value::Str(s) => out.push(s),
            Value::Undefined => Ok(()),
            _other => self.write_repr(value, out),
        }
    }

    /// `repr(value)`.
    pub(super) fn write_repr(&self, value: &Value, out: &mut Buffer<'_>) -> Result<(), Error> {
        self.write_inner(value, 0, out)
    }

    fn write_inner(&self, value: &Value, depth: u32, out: &mut Buffer<'_>) -> Result<(), Error> {
        match value {
            Value::Undefined => out.push("Undefined"),
            Value::None => out.push("None"),
            Value::Bool(true) => out.push("True"),
            Value::Bool(false) => out.push("False"),
            Value::Int(i) => out.push(&i.to_string()),
            Value::Float(f) => out.push(&float::repr(*f)),
            Value::Str(s) => {
                if s.is_markup() {
                    out.push("Markup(")?;
                }
                write_quoted(s, out)?;
                match s.is_markup() {
                    true => out.push(")"),
                    false => Ok(()),
                }
            }
            Value::List(s) => {
                out.push("[")?;
                self.write_items(&s.items, depth, out)?;
                out.push("]")
            }
            Value::Tuple(s) => {
                out.push("(")?;
                self.write_items(&s.items, depth, out)?;
                out.push(if s.items.len() == 1 { ",)" } else { ")" })
            }
            Value::Dict(d) => self.write_pairs(&d.entries, depth, out),
            Value::View(view, _) => {
                out.push(match view {
                    View::Keys => "dict_keys([",
                    View::Values => "dict_values([",
                    View::Items => "dict_items([",
                })?;
                self.write_items(&self.items(value)?, depth, out)?;
                out.push("])")
            }
            Value::Range(r) => {
                let (start, stop, step) = (r.start, r.stop, r.step);
                out.push(&match step {
                    1 => format!("range({start}, {stop})"),
                    _other => format!("range({start}, {stop}, {step})"),
                })
            }
            Value::Namespace(n) => {
                let pairs = n.attributes().into_iter();
                let pairs = pairs.map(|(name, value)| Ok((self.text(name)?, value)));
                let pairs: Vec<_> = pairs.collect::<Result<_, Error>>()?;
                // It may hold itself.
                if depth >= MAX_NAMESPACES {
                    return broken("a namespace holds itself");
                }
                out.push("<Namespace ")?;
                self.write_pairs(&pairs, depth + 1, out)?;
                out.push(">")
            }
            Value::Generator(_) | Value::Function(_) => self.no_text(value),
            Value::Other(other) => match other.to_string() {
                text if text.starts_with('<') => out.push(&text),
                _unknown => self.no_text(value),
            },
        }
    }

    /// Python writes an address there, which nobody means.
    fn no_text(&self, value: &Value) -> Result<(), Error> {
        let hint = match value {
            Value::Generator(_) => "; `| list` makes a list of it",
            _other => "; parentheses call it",
        };
        broken(format!(
            "a {} has no text of its own{hint}",
            value.type_name()
        ))
    }

    fn write_items(&self, items: &[Value], depth: u32, out: &mut Buffer<'_>) -> Result<(), Error> {
        for (idx, item) in items.iter().enumerate() {
            if idx > 0 {
                out.push(", ")?;
            }
            self.write_inner(item, depth, out)?;
        }
        Ok(())
    }

    fn write_pairs(
        &self,
        pairs: &[(Value, Value)],
        depth: u32,
        out: &mut Buffer<'_>,
    ) -> Result<(), Error> {
        out.push("{")?;
        for (idx, (key, value)) in pairs.iter().enumerate() {
            if idx > 0 {
                out.push(", ")?;
            }
            self.write_inner(key, depth, out)?;
            out.push(": ")?;
            self.write_inner(value, depth, out)?;
        }
        out.push("}")
    }
}

/// A text in quotes, with escapes for what cannot be seen.
pub(super) fn write_quoted(text: &str, out: &mut Buffer<'_>) -> Result<(), Error> {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.push("\\\\")?,
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            c if c == quote => {
                out.push("\\")?;
                out.push_char(c)?;
            }
            c if is_printable(c) => out.push_char(c)?,
            c => out.push(&escaped(c))?,
        }
    }
    out.push_char(quote)
}

/// The escape of a character that is not written as itself.
pub(super) fn escaped(c: char) -> String {
    match u32::from(c) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// True if Python shows a character as it is.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Rust goes by the same categories. After a letter it also shows marks that combine.
    let mut buffer = [b'a', 0, 0, 0, 0];
    let len = c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..=len]).is_ok_and(|text| text.escape_debug().eq(text.chars()))
}

/// HTML with its special characters escaped, unless it is safe already.
pub(super) fn escape(cx: &Cx, value: &Value) -> Result<Value, Error> {
    let text = cx.str(value)?;
    if text.is_markup() {
        return Ok(Value::Str(text));
    }
    let mut out = cx.buffer();
    let mut rest = &*text;
    while let Some(at) = rest.find(['&', '<', '>', '\'', '"']) {
        out.push(&rest[..at])?;
        out.push(match &rest[at..=at] {
            "&" => "&amp;",
            "<" => "&lt;",
            ">" => "&gt;",
            "'" => "&#39;",
            _quote => "&#34;",
        })?;
        rest = &rest[at + 1..];
    }
    out.push(rest)?;
    cx.finish(out, true)
}

/// True if two values are one object.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Str(a), Value::Str(b)) => std::ptr::eq(&**a, &**b) || **a == **b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Arc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Arc::ptr_eq(a, b),
        (Value::Range(a), Value::Range(b)) => Arc::ptr_eq(a, b),
        (Value::Generator(a), Value::Generator(b)) => Arc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Arc::ptr_eq(a, b),
        (Value::Function(a), Value::Function(b)) => Arc::ptr_eq(a, b),
        (_, _) => false,
    }
}

/// Namespaces within one another that are written out.
const MAX_NAMESPACES: u32 = 20;

/// A text with escapes for all that is not ASCII.
pub(super) fn ascii(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_ascii() {
            true => result.push(c),
            false => result.push_str(&escaped(c)),
        }
    }
    result
}
