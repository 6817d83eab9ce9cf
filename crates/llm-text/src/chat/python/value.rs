//! Values with the types of Python, and the way to and from the engine's. Nothing in them changes once it is made, as
//! in the immutable sandbox of `jinja2`.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::Error;

use super::meter::Buffer;
use super::{Callable, Cx, broken};

mod engine;

#[derive(Clone)]
pub(crate) enum Value {
    Undefined,
    None,
    Bool(bool),
    /// An integer. Python's have no end; ours fail there.
    Int(i128),
    Float(f64),
    Str(Str),
    List(Arc<Seq>),
    Tuple(Arc<Seq>),
    Dict(Arc<Dict>),
    View(View, Arc<Dict>),
    Range(Arc<Range>),
    Generator(Arc<Generator>),
    Namespace(Arc<Namespace>),
    Function(Arc<Function>),
    /// One of the engine's own: a macro, a loop.
    Other(minijinja::Value),
}

/// A text, perhaps marked as safe HTML.
#[derive(Clone)]
pub(crate) struct Str {
    text: Arc<str>,
    is_markup: bool,
}

impl Str {
    pub(super) fn is_markup(&self) -> bool {
        self.is_markup
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// The items of a list or a tuple.
pub(crate) struct Seq {
    pub(super) items: Vec<Value>,
    pub(super) kind: SeqKind,
    depth: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SeqKind {
    List,
    Tuple,
    /// Pair of the filter `groupby`, whose items have names.
    Group,
}

/// A dictionary, which keeps the order it was written in.
pub(crate) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: u32,
}

impl Dict {
    /// The value of a key, if the key can be one and is there.
    pub(super) fn find(&self, key: &Value) -> Option<&Value> {
        let key = Key::new(key).ok()?;
        self.index.get(&key).map(|&idx| &self.entries[idx].1)
    }

    pub(super) fn find_text(&self, key: &str) -> Option<&Value> {
        // Few entries are told apart faster than hashed.
        self.entries
            .iter()
            .find(|(k, _)| k.as_str() == Some(key))
            .map(|(_, v)| v)
    }
}

/// One of the ways to look at a dictionary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

/// The numbers of `range`.
#[derive(PartialEq, Eq)]
pub(crate) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

impl Range {
    pub(super) fn len(&self) -> usize {
        let (from, to, step) = match self.step > 0 {
            true => (self.start, self.stop, self.step),
            false => (self.stop, self.start, -self.step),
        };
        let n = match to > from {
            true => (to - from - 1) / step + 1,
            false => 0,
        };
        usize::try_from(n).unwrap_or(usize::MAX)
    }

    pub(super) fn at(&self, idx: usize) -> Value {
        Value::Int(self.start + self.step * idx as i128)
    }
}

/// One-pass iterator.
pub(crate) struct Generator {
    pub(super) items: Mutex<VecDeque<Result<Value, String>>>,
    /// Python's name of its type.
    type_name: &'static str,
    depth: u32,
}

/// An object with attributes that `set` may change.
///
/// It may come to hold itself, and a chain of them may be long; so all are kept until the end and emptied there.
pub(crate) struct Namespace {
    attributes: Mutex<Vec<(String, Value)>>,
}

impl Namespace {
    pub(super) fn attributes(&self) -> Vec<(String, Value)> {
        let attributes = self.attributes.lock();
        attributes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, name: &str, value: Value) {
        let attributes = self.attributes.lock();
        let mut attributes = attributes.unwrap_or_else(PoisonError::into_inner);
        match attributes.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => attributes.push((name.to_owned(), value)),
        }
    }

    pub(super) fn clear(&self) {
        let attributes = self.attributes.lock();
        attributes.unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Callable value.
pub(crate) enum Function {
    /// The method of a value, and the context that it works in.
    Method(Value, &'static str, Cx),
    Global(&'static str, Callable, Cx),
    Cycler(Vec<Value>, AtomicUsize),
    Joiner(Value, AtomicBool),
}

impl Value {
    /// Python's truth.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Str(s) => !s.is_empty(),
            Value::List(s) | Value::Tuple(s) => !s.items.is_empty(),
            Value::Dict(d) | Value::View(_, d) => !d.entries.is_empty(),
            Value::Range(r) => r.len() > 0,
            Value::Generator(_) | Value::Namespace(_) | Value::Function(_) => true,
            Value::Other(_) => true,
        }
    }

    /// Python's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(s) if s.is_markup => "Markup",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::View(View::Keys, _) => "dict_keys",
            Value::View(View::Values, _) => "dict_values",
            Value::View(View::Items, _) => "dict_items",
            Value::Range(_) => "range",
            Value::Generator(g) => g.type_name,
            Value::Namespace(_) => "Namespace",
            Value::Function(f) => match **f {
                Function::Method(..) => "builtin_function_or_method",
                Function::Global(..) => "function",
                Function::Cycler(..) => "Cycler",
                Function::Joiner(..) => "Joiner",
            },
            Value::Other(_) => "function",
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _other => None,
        }
    }

    /// The integer that it is, a truth value being one.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(i) => Some(*i),
            Value::Bool(b) => Some(i128::from(*b)),
            _other => None,
        }
    }

    /// The number that it is, as a float.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            other => other.as_int().map(|i| i as f64),
        }
    }

    /// The integer, or what Python says to anything else in its place.
    pub(super) fn int(&self) -> Result<i128, Error> {
        self.defined()?;
        match self.as_int() {
            Some(i) => Ok(i),
            None => broken(format!(
                "'{}' object cannot be interpreted as an integer",
                self.type_name()
            )),
        }
    }

    /// Fails for what is not there.
    pub(super) fn defined(&self) -> Result<(), Error> {
        match self {
            Value::Undefined => broken("a value that is not defined is used"),
            _other => Ok(()),
        }
    }

    /// Levels of containers in it.
    fn depth(&self) -> u32 {
        match self {
            Value::List(s) | Value::Tuple(s) => s.depth,
            Value::Dict(d) | Value::View(_, d) => d.depth,
            Value::Generator(g) => g.depth,
            Value::Function(f) => match &**f {
                Function::Method(value, ..) | Function::Joiner(value, _) => value.depth() + 1,
                Function::Cycler(items, _) => items.iter().map(Value::depth).max().unwrap_or(0) + 1,
                Function::Global(..) => 0,
            },
            _other => 0,
        }
    }
}

/// The depth of what holds these; too deep a value could not even be dropped.
fn depth_above<'a>(items: impl Iterator<Item = &'a Value>) -> Result<u32, Error> {
    let depth = items.map(Value::depth).max().unwrap_or(0) + 1;
    match depth > MAX_DEPTH {
        true => broken("a value is nested too deeply"),
        false => Ok(depth),
    }
}

/// A value as what finds it again: equal numbers are one key, whatever their types.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Key {
    Undefined,
    None,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
}

impl Key {
    pub(super) fn new(value: &Value) -> Result<Key, Error> {
        Self::within(value, &mut 0)
    }

    fn within(value: &Value, n_parts: &mut usize) -> Result<Key, Error> {
        *n_parts += 1;
        if *n_parts > MAX_KEY_PARTS {
            return broken("a key has too many parts");
        }
        Ok(match value {
            Value::Undefined => Key::Undefined,
            Value::None => Key::None,
            Value::Bool(b) => Key::Int(i128::from(*b)),
            Value::Int(i) => Key::Int(*i),
            Value::Float(f) if *f == f.trunc() && f.abs() < 1e38 => Key::Int(*f as i128),
            Value::Float(f) => Key::Float(f.to_bits()),
            Value::Str(s) => Key::Str(s.text.clone()),
            Value::Tuple(s) => {
                let items = s.items.iter().map(|item| Self::within(item, n_parts));
                Key::Tuple(items.collect::<Result<_, _>>()?)
            }
            other => return broken(format!("unhashable type: '{}'", other.type_name())),
        })
    }
}

impl Cx {
    /// A text that is not safe HTML.
    pub(super) fn text(&self, text: impl Into<Arc<str>>) -> Result<Value, Error> {
        self.marked(text, false)
    }

    pub(super) fn marked(
        &self,
        text: impl Into<Arc<str>>,
        is_markup: bool,
    ) -> Result<Value, Error> {
        let text = text.into();
        self.meter.charge(text.len() + STR_BYTES)?;
        Ok(Value::Str(Str { text, is_markup }))
    }

    pub(super) fn buffer(&self) -> Buffer<'_> {
        Buffer::new(&self.meter)
    }

    /// The text that was written.
    pub(super) fn finish(&self, buffer: Buffer<'_>, is_markup: bool) -> Result<Value, Error> {
        let text = buffer.into_text().into();
        Ok(Value::Str(Str { text, is_markup }))
    }

    pub(super) fn list(&self, items: Vec<Value>) -> Result<Value, Error> {
        Ok(Value::List(self.seq(items, SeqKind::List)?))
    }

    pub(super) fn tuple(&self, items: Vec<Value>) -> Result<Value, Error> {
        Ok(Value::Tuple(self.seq(items, SeqKind::Tuple)?))
    }

    pub(super) fn seq(&self, items: Vec<Value>, kind: SeqKind) -> Result<Arc<Seq>, Error> {
        self.meter.charge(SEQ_BYTES + ITEM_BYTES * items.len())?;
        let depth = depth_above(items.iter())?;
        Ok(Arc::new(Seq { items, kind, depth }))
    }

    pub(super) fn dict(&self, pairs: Vec<(Value, Value)>) -> Result<Value, Error> {
        self.meter.charge(SEQ_BYTES + ENTRY_BYTES * pairs.len())?;
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        let mut index = HashMap::with_capacity(pairs.len());
        for (key, value) in pairs {
            // The first key stays and the last value counts.
            let idx = *index.entry(Key::new(&key)?).or_insert(entries.len());
            match entries.get_mut(idx) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
        }
        let depth = depth_above(entries.iter().flat_map(|(k, v)| [k, v]))?;
        Ok(Value::Dict(Arc::new(Dict {
            entries,
            index,
            depth,
        })))
    }

    pub(super) fn namespace(&self, attributes: Vec<(String, Value)>) -> Result<Value, Error> {
        self.meter.charge(SEQ_BYTES * (1 + attributes.len()))?;
        let namespace = Arc::new(Namespace {
            attributes: Mutex::new(attributes),
        });
        let kept = self.namespaces.lock();
        let mut kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.push(namespace.clone());
        Ok(Value::Namespace(namespace))
    }

    /// One-pass iterator. Python fails only where it gets to; so an error waits there.
    pub(super) fn generator(
        &self,
        items: impl IntoIterator<Item = Result<Value, Error>>,
        type_name: &'static str,
    ) -> Result<Value, Error> {
        let mut kept = VecDeque::new();
        for item in items {
            self.meter.charge(ITEM_BYTES * 2)?;
            let item = item.map_err(|error| {
                error
                    .detail()
                    .map_or_else(|| error.to_string(), str::to_owned)
            });
            let is_last = item.is_err();
            kept.push_back(item);
            if is_last {
                break;
            }
        }
        let depth = depth_above(kept.iter().filter_map(|item| item.as_ref().ok()))?;
        Ok(Value::Generator(Arc::new(Generator {
            items: Mutex::new(kept),
            type_name,
            depth,
        })))
    }

    /// The items of whatever can be gone through.
    pub(super) fn items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        let n = match value {
            Value::Generator(_) => 0,
            value => self.len(value).unwrap_or(0),
        };
        self.meter.charge(ITEM_BYTES * n)?;
        let of =
            |parts: fn(&(Value, Value)) -> Value, d: &Dict| d.entries.iter().map(parts).collect();
        Ok(match value {
            Value::Undefined => Vec::new(),
            Value::Str(s) => {
                let chars = s.chars().map(|c| self.text(c.to_string()));
                chars.collect::<Result<_, _>>()?
            }
            Value::List(s) | Value::Tuple(s) => s.items.clone(),
            Value::Dict(d) | Value::View(View::Keys, d) => of(|(k, _)| k.clone(), d),
            Value::View(View::Values, d) => of(|(_, v)| v.clone(), d),
            Value::View(View::Items, d) => {
                let pairs = d.entries.iter();
                let pairs = pairs.map(|(k, v)| self.tuple(vec![k.clone(), v.clone()]));
                pairs.collect::<Result<_, _>>()?
            }
            Value::Range(r) => (0..r.len()).map(|idx| r.at(idx)).collect(),
            Value::Generator(g) => {
                let mut items = g.items.lock().unwrap_or_else(PoisonError::into_inner);
                let items = items.drain(..).map(|item| item.or_else(broken));
                items.collect::<Result<_, _>>()?
            }
            other => return broken(format!("'{}' object is not iterable", other.type_name())),
        })
    }

    /// Number of items, where Python knows it.
    pub(super) fn len(&self, value: &Value) -> Result<usize, Error> {
        match value {
            Value::Undefined => Ok(0),
            Value::Str(s) => {
                self.meter.read(s)?;
                Ok(s.chars().count())
            }
            Value::List(s) | Value::Tuple(s) => Ok(s.items.len()),
            Value::Dict(d) | Value::View(_, d) => Ok(d.entries.len()),
            Value::Range(r) => Ok(r.len()),
            other => broken(format!(
                "object of type '{}' has no len()",
                other.type_name()
            )),
        }
    }
}

/// Containers within one another.
const MAX_DEPTH: u32 = 150;
const MAX_KEY_PARTS: usize = 1000;
pub(super) const STR_BYTES: usize = 48;
const SEQ_BYTES: usize = 96;
pub(super) const ITEM_BYTES: usize = size_of::<Value>();
const ENTRY_BYTES: usize = 160;
