//! What chat templates take for granted from Python: how `json.dumps` and `strftime` write.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// The filter `tojson` as `transformers` defines it: `json.dumps` without escapes for HTML.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("separators must be two")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(invalid("the indent is too large"));
    }
    let mut json = JsonWriter {
        out: String::new(),
        indent,
        item,
        key,
        ensure_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    json.value(value, 0)?;
    Ok(json.out)
}

/// The time as `strftime` writes it.
pub(super) fn strftime(time: &jiff::Zoned, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, time).map_err(|error| {
        let problem = format!("strftime_now does not know the format `{format}`");
        Error::new(ErrorKind::InvalidOperation, problem).with_source(error)
    })
}

struct JsonWriter {
    out: String,
    /// Spaces per level; without it everything is on one line.
    indent: Option<usize>,
    /// What separates items.
    item: String,
    /// What separates a key from its value.
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        if level > MAX_DEPTH {
            return Err(invalid("a value is nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool if value.is_true() => self.out.push_str("true"),
            ValueKind::Bool => self.out.push_str("false"),
            ValueKind::Number => self.out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.enclosed(['[', ']'], items, level, |json, item| {
                    json.value(&item, level + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.enclosed(['{', '}'], keys, level, |json, key| {
                    json.string(&key.to_string());
                    let separator = json.key.clone();
                    json.out.push_str(&separator);
                    json.value(&value.get_item(&key)?, level + 1)
                })?;
            }
            kind => return Err(invalid(&format!("{kind} is nothing that JSON can say"))),
        }
        Ok(())
    }

    fn enclosed(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<Value>,
        level: usize,
        write: impl Fn(&mut Self, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let is_empty = items.is_empty();
        for (idx, item) in items.into_iter().enumerate() {
            if idx > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.new_line(level + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.new_line(level);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, level: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * level));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                self.out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}

fn invalid(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}

const MAX_INDENT: usize = 64;
const MAX_DEPTH: usize = 128;
