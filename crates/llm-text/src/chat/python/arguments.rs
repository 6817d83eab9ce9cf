//! Arguments of a call.

use minijinja::Error;
use minijinja::value::Kwargs;

use super::broken;
use super::value::Value;

#[derive(Default)]
pub(crate) struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Args {
    pub(super) fn from_engine(values: &[minijinja::Value]) -> Result<Args, Error> {
        let mut args = Args::default();
        for value in values {
            if !value.is_kwargs() {
                args.positional.push(Value::from_engine(value));
                continue;
            }
            let named = Kwargs::try_from(value.clone())?;
            for name in named.args() {
                let value = Value::from_engine(&named.get::<minijinja::Value>(name)?);
                args.named.push((name.to_owned(), value));
            }
        }
        Ok(args)
    }

    /// The arguments as the engine takes them.
    pub(super) fn into_engine(self) -> Vec<minijinja::Value> {
        let mut values: Vec<_> = self
            .positional
            .into_iter()
            .map(Value::into_engine)
            .collect();
        if !self.named.is_empty() {
            let named = self.named.into_iter();
            let named = named.map(|(name, value)| (name, value.into_engine()));
            values.push(Kwargs::from_iter(named).into());
        }
        values
    }

    pub(super) fn of(positional: Vec<Value>) -> Args {
        Args {
            positional,
            named: Vec::new(),
        }
    }

    /// The arguments by the function's parameters, of which the first `n_required` have no default.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        parameters: [&str; N],
        n_required: usize,
    ) -> Result<[Option<Value>; N], Error> {
        let n_given = self.positional.len();
        if n_given > N {
            return broken(format!(
                "{function} takes {N} arguments at most, not {n_given}"
            ));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match parameters.iter().position(|parameter| **parameter == *name) {
                None => return broken(format!("{function} has no argument named {name}")),
                Some(idx) if bound[idx].is_some() => {
                    return broken(format!("{function} got its argument {name} twice"));
                }
                Some(idx) => bound[idx] = Some(value),
            }
        }
        match bound[..n_required].iter().position(Option::is_none) {
            Some(idx) => broken(format!("{function} needs the argument {}", parameters[idx])),
            None => Ok(bound),
        }
    }

    /// The arguments of a function whose parameters have no names.
    pub(super) fn unnamed<const N: usize>(
        self,
        function: &str,
        n_required: usize,
    ) -> Result<[Option<Value>; N], Error> {
        if let Some((name, _)) = self.named.first() {
            return broken(format!(
                "{function} takes no argument by its name, here {name}"
            ));
        }
        let n_given = self.positional.len();
        if n_given < n_required {
            return broken(format!(
                "{function} needs {n_required} arguments, not {n_given}"
            ));
        }
        self.bind(function, [""; N], 0)
    }

    /// Fails if there are any.
    pub(super) fn none(self, function: &str) -> Result<(), Error> {
        self.unnamed::<0>(function, 0).map(|_| ())
    }
}

/// The text of an argument.
pub(super) fn text(value: &Value) -> Result<&str, Error> {
    match (value.as_str(), value) {
        (Some(text), _) => Ok(text),
        (None, Value::Undefined) => value.defined().map(|()| ""),
        (None, other) => broken(format!("expected str, found {}", other.type_name())),
    }
}

/// The text of an argument that may be left out or none.
pub(super) fn text_or_none(value: &Option<Value>) -> Result<Option<&str>, Error> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => text(value).map(Some),
    }
}

/// The integer of an argument that may be left out.
pub(super) fn int_or(value: &Option<Value>, default: i128) -> Result<i128, Error> {
    value.as_ref().map_or(Ok(default), Value::int)
}

/// A count, of which a negative one is none.
pub(super) fn count(n: i128) -> usize {
    usize::try_from(n.max(0)).unwrap_or(usize::MAX)
}

pub(super) fn is_true(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}
