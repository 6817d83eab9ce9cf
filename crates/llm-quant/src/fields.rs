use llm_tensor::DType;
use serde_json::{Map, Value};

use crate::{QuantError, Result};

/// The values of a JSON object; every complaint names the key, what is there and what should be.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl Fields<'_> {
    /// Value of `key` after `parse`; `None` when the object does not have the key.
    pub(crate) fn optional<T>(
        self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        let bad = || bad_value(key, shortened(value.to_string()), expected);
        parse(value).map(Some).ok_or_else(bad)
    }

    /// As [`Fields::optional`], of a key that must be there.
    pub(crate) fn required<T>(
        self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T> {
        self.optional(key, expected, parse)?
            .ok_or_else(|| bad_value(key, "missing".to_owned(), expected))
    }

    /// False unless the object says otherwise.
    pub(crate) fn flag(self, key: &str) -> Result<bool> {
        let flag = self.optional(key, "true or false", Value::as_bool)?;
        Ok(flag.unwrap_or(false))
    }

    /// # Errors
    /// [`QuantError::UnknownKey`] when there is a key that is not among the known ones.
    pub(crate) fn check_keys(self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(QuantError::UnknownKey {
                key: shortened(key.clone()),
                known: known.join(", "),
            }),
            None => Ok(()),
        }
    }
}

/// One of some element types, under the name that PyTorch gives it.
pub(crate) fn dtype_among(value: &Value, allowed: &[DType]) -> Option<DType> {
    let dtype = value.as_str()?.parse().ok()?;
    allowed.contains(&dtype).then_some(dtype)
}

pub(crate) fn bad_value(key: &str, found: String, expected: &str) -> QuantError {
    QuantError::BadValue {
        key: key.to_owned(),
        found,
        expected: expected.to_owned(),
    }
}

/// So that a hostile file's message stays one that can be read.
pub(crate) fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_FOUND) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Characters of a file that a message repeats at most.
const MAX_FOUND: usize = 80;
