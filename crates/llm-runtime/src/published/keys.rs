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

    /// `None` for −1, all columns.
    pub(super) fn group_size(self) -> Parsed<Option<NonZeroU64>> {
        match self
            .get("group_size")
            .map(|size| (size.as_i64(), size.as_u64()))
        {
            None | Some((Some(-1), _)) => Ok(None),
            Some((_, size)) => {
                let size = size.and_then(NonZeroU64::new);
                size.map(Some)
                    .ok_or_else(|| self.bad("group_size", "-1 or a positive number"))
            }
        }
    }
}
