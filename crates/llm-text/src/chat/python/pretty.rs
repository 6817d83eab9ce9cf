//! The filter `pprint`: `pprint.pformat` of 80 columns.

use minijinja::Error;

use super::value::Value;
use super::{Cx, broken};

impl Cx {
    pub(super) fn pretty(&self, value: &Value) -> Result<Value, Error> {
        let text = self.pretty_at(value, 0, 0)?;
        self.text(text)
    }

    /// A value that begins in a column and that so many characters follow on its last line.
    fn pretty_at(&self, value: &Value, column: usize, n_after: usize) -> Result<String, Error> {
        let flat = self.sorted_repr(value)?;
        let room = (WIDTH + 1).saturating_sub(column + n_after + 1);
        if flat.chars().count() <= room {
            return Ok(flat);
        }
        let (open, close, items) = match value {
            Value::List(s) => ("[", "]", &s.items),
            Value::Tuple(s) => ("(", if s.items.len() == 1 { ",)" } else { ")" }, &s.items),
            Value::Dict(d) => {
                let mut lines = Vec::new();
                let entries = self.by_key(&d.entries)?;
                for (idx, (key, value)) in entries.iter().enumerate() {
                    let key = self.sorted_repr(key)?;
                    let after = if idx + 1 == entries.len() {
                        n_after + 1
                    } else {
                        1
                    };
                    let inner = column + 1 + key.chars().count() + 2;
                    lines.push(format!("{key}: {}", self.pretty_at(value, inner, after)?));
                }
                return self.lines("{", &lines, "}", column);
            }
            Value::Str(_) => return broken("pprint of a text that is longer than a line"),
            _other => return Ok(flat),
        };
        let mut lines = Vec::new();
        for (idx, item) in items.iter().enumerate() {
            let is_last = idx + 1 == items.len();
            let after = if is_last { n_after + close.len() } else { 1 };
            lines.push(self.pretty_at(item, column + 1, after)?);
        }
        self.lines(open, &lines, close, column)
    }

    fn lines(
        &self,
        open: &str,
        lines: &[String],
        close: &str,
        column: usize,
    ) -> Result<String, Error> {
        let mut out = self.buffer();
        out.push(open)?;
        for (idx, line) in lines.iter().enumerate() {
            if idx > 0 {
                out.push(",\n")?;
                out.repeat(" ", column + 1)?;
            }
            out.push(line)?;
        }
        out.push(close)?;
        Ok(out.into_text())
    }

    /// `repr` with the keys of dictionaries sorted.
    fn sorted_repr(&self, value: &Value) -> Result<String, Error> {
        let mut out = self.buffer();
        let (open, close, items) = match value {
            Value::List(s) => ("[", "]", &s.items),
            Value::Tuple(s) => ("(", if s.items.len() == 1 { ",)" } else { ")" }, &s.items),
            Value::Dict(d) => {
                out.push("{")?;
                for (idx, (key, value)) in self.by_key(&d.entries)?.iter().enumerate() {
                    out.push(if idx > 0 { ", " } else { "" })?;
                    out.push(&self.sorted_repr(key)?)?;
                    out.push(": ")?;
                    out.push(&self.sorted_repr(value)?)?;
                }
                out.push("}")?;
                return Ok(out.into_text());
            }
            other => {
                self.write_repr(other, &mut out)?;
                return Ok(out.into_text());
            }
        };
        out.push(open)?;
        for (idx, item) in items.iter().enumerate() {
            out.push(if idx > 0 { ", " } else { "" })?;
            out.push(&self.sorted_repr(item)?)?;
        }
        out.push(close)?;
        Ok(out.into_text())
    }

    /// Entries in the order of their keys; unlike ones have an order of their types only.
    fn by_key(&self, entries: &[(Value, Value)]) -> Result<Vec<(Value, Value)>, Error> {
        let keyed = entries.iter().enumerate();
        let keyed = keyed.map(|(idx, (key, _))| (key.clone(), Value::Int(idx as i128)));
        let order = self.sorted(keyed.collect(), false)?;
        let at = |idx: &Value| Some(entries.get(idx.as_int()? as usize)?.clone());
        Ok(order.iter().filter_map(at).collect())
    }
}

const WIDTH: usize = 80;
