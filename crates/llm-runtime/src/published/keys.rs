//! Keys of a configuration, read or refused by name.

use std::num::NonZeroU64;

use llm_quant::QuantError;
use serde_json::{Map, Value};

pub(super) type Parsed<T> = Result<T, QuantError>;

/// The keys of a `quantization_config`.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub(super) fn known(self, known: &[&str]) -> Parsed<()> {
        // What is null says nothing.
        let mut said = self.0.iter().filter(|(_, value)| !value.is_null());
        match said.find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some((key, _)) => Err(QuantError::UnknownKey {
                key: key.clone(),
                known: known.join(", "),
            }),
        }
    }

    pub(super) fn bad(self, key: &str, expected: &str) -> QuantError {
        let found = self
            .0
            .get(key)
            .map_or_else(|| "missing".to_owned(), Value::to_string);
        QuantError::BadValue {
            key: key.to_owned(),
            found: found.chars().take(80).collect(),
            expected: expected.to_owned(),
        }
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn one_of(self, key: &str, words: &[&'static str]) -> Parsed<Option<&'static str>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let found = words.iter().find(|word| value == **word);
        let found = found.ok_or_else(|| self.bad(key, &words.join(" or ")))?;
        Ok(Some(found))
    }

    pub(super) fn flag(self, key: &str) -> Parsed<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let flag = value.as_bool();
        flag.map(Some).ok_or_else(|| self.bad(key, "true or false"))
    }

    pub(super) fn number(
        self,
        key: &str,
        expected: &str,
        is_right: fn(u64) -> bool,
    ) -> Parsed<u64> {
        let number = self.get(key).and_then(Value::as_u64);
        let number = number.filter(|number| is_right(*number));
        number.ok_or_else(|| self.bad(key, expected))
    }

    /// −1 for all columns. Rules for some modules may say otherwise.
    pub(super) fn group_size(self) -> Parsed<GroupSize> {
        let Some(size) = self.get("group_size") else {
            return Ok(GroupSize::Untold);
        };
        let columns = match (size.as_i64(), size.as_u64().and_then(NonZeroU64::new)) {
            (Some(-1), _) => None,
            (_, Some(size)) => Some(size),
            (_, None) => return Err(self.bad("group_size", "-1 or a positive number")),
        };
        let rules = self.get("dynamic").and_then(Value::as_object);
        Ok(match rules.is_some_and(|rules| !rules.is_empty()) {
            true => GroupSize::Usual(columns),
            false => GroupSize::Of(columns),
        })
    }
}

/// Columns of a group as a configuration says them, `None` being all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupSize {
    /// Not at all: each matrix has groups of its own size.
    Untold,
    /// Of matrices that nothing else is said of.
    Usual(Option<NonZeroU64>),
    /// Of every matrix.
    Of(Option<NonZeroU64>),
}

impl GroupSize {
    /// Columns of a group of most matrices.
    pub(crate) fn columns(self) -> Option<NonZeroU64> {
        match self {
            GroupSize::Untold => None,
            GroupSize::Usual(columns) | GroupSize::Of(columns) => columns,
        }
    }
}
