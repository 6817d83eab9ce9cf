//! The filter `tojson` as `transformers` defines it: `json.dumps` without escapes for HTML.

use minijinja::Error;

use super::arguments::{Args, is_true, text};
use super::meter::Buffer;
use super::value::Value;
use super::{Cx, broken, float};

pub(super) fn tojson(cx: &Cx, args: Args) -> Result<Value, Error> {
    let parameters = ["value", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ensure_ascii, indent, separators, sort_keys] =
        args.bind("tojson", parameters, 1)?;
    let indent = match &indent {
        None | Some(Value::None) => None,
        Some(Value::Str(s)) => Some(s.to_string()),
        Some(n) => {
            let n = super::arguments::count(n.int()?);
            if n > MAX_INDENT {
                return broken("the indent is too large");
            }
            Some(" ".repeat(n))
        }
    };
    let (item, key) = match &separators {
        None | Some(Value::None) if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None | Some(Value::None) => (", ".to_owned(), ": ".to_owned()),
        Some(two) => match cx.items(two)?.as_slice() {
            [item, key] => (text(item)?.to_owned(), text(key)?.to_owned()),
            _other => return broken("separators must be two"),
        },
    };
    let mut json = JsonWriter {
        cx,
        out: cx.buffer(),
        indent,
        item,
        key,
        ensure_ascii: is_true(&ensure_ascii),
        sort_keys: is_true(&sort_keys),
    };
    json.value(&value.unwrap_or(Value::None), 0)?;
    cx.finish(json.out, false)
}

struct JsonWriter<'c> {
    cx: &'c Cx,
    out: Buffer<'c>,
    /// Indentation of each level; without it everything is on one line.
    indent: Option<String>,
    /// Separator of items.
    item: String,
    /// Separator of a key from its value.
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        match value {
            Value::Str(s) => self.string(s),
            Value::List(s) | Value::Tuple(s) => {
                self.enclosed(['[', ']'], &s.items, level, |json, item| {
                    json.value(item, level + 1)
                })
            }
            Value::Dict(d) => {
                let mut entries = d.entries.clone();
                if self.sort_keys {
                    let keyed = entries.iter().enumerate();
                    let keyed = keyed.map(|(idx, (k, _))| (k.clone(), Value::Int(idx as i128)));
                    let order = self.cx.sorted(keyed.collect(), false)?;
                    let at = |idx: &Value| Some(d.entries.get(idx.as_int()? as usize)?.clone());
                    entries = order.iter().filter_map(at).collect();
                }
                self.enclosed(['{', '}'], &entries, level, |json, (key, value)| {
                    match key {
                        Value::Str(s) => json.string(s)?,
                        key => match scalar(key) {
                            Some(text) => json.string(&text)?,
                            None => {
                                let found = key.type_name();
                                return broken(format!(
                                    "keys must be str, int, float, bool or None, not {found}"
                                ));
                            }
                        },
                    }
                    json.out.push(&json.key)?;
                    json.value(value, level + 1)
                })
            }
            other => match scalar(other) {
                Some(text) => self.out.push(&text),
                None => {
                    let found = other.type_name();
                    broken(format!("Object of type {found} is not JSON serializable"))
                }
            },
        }
    }

    fn enclosed<T>(
        &mut self,
        [open, close]: [char; 2],
        items: &[T],
        level: usize,
        write: impl Fn(&mut Self, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push_char(open)?;
        for (idx, item) in items.iter().enumerate() {
            if idx > 0 {
                self.out.push(&self.item)?;
            }
            self.new_line(level + 1)?;
            write(self, item)?;
        }
        if !items.is_empty() {
            self.new_line(level)?;
        }
        self.out.push_char(close)
    }

    fn new_line(&mut self, level: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            self.out.push("\n")?;
            self.out.repeat(indent, level)?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        self.cx.meter.has_room(text.len())?;
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            return self.out.push(&quoted);
        }
        for c in quoted.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                self.out.push_char(c)?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                self.out.push(&format!("\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }
}

fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) if f.is_nan() => "NaN".to_owned(),
        Value::Float(f) if f.is_infinite() && *f > 0.0 => "Infinity".to_owned(),
        Value::Float(f) if f.is_infinite() => "-Infinity".to_owned(),
        Value::Float(f) => float::repr(*f),
        _other => return None,
    })
}

const MAX_INDENT: usize = 1000;
