//! Fields of a request, taken out one by one: what is left is not known here.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Fields of a request's object that nobody has looked at.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn new(object: Map<String, Value>) -> Self {
        Fields(object)
    }

    /// Takes a field out; null is as good as nothing.
    ///
    /// # Errors
    /// When it is of another type.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.0.remove(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let wrong = |error| ApiError::invalid(name, format!("`{name}`: {error}"));
        serde_json::from_value(value).map(Some).map_err(wrong)
    }

    /// A field that stays.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Takes a field out that has to be there.
    ///
    /// # Errors
    /// As [`Fields::take`], and when it is not there.
    pub(crate) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        let missing = || ApiError::invalid(name, format!("`{name}` is missing"));
        self.take(name)?.ok_or_else(missing)
    }

    /// Takes a number out that lies within bounds.
    ///
    /// # Errors
    /// As [`Fields::take`], and when it does not.
    pub(crate) fn number(
        &mut self,
        name: &str,
        (holds, expected): (fn(f64) -> bool, &str),
    ) -> Result<Option<f32>, ApiError> {
        match self.take::<f64>(name)? {
            Some(x) if !x.is_finite() || !holds(x) => {
                let problem = format!("`{name}` is {x}; expected {expected}");
                Err(ApiError::invalid(name, problem))
            }
            x => Ok(x.map(|x| x as f32)),
        }
    }

    /// Takes a whole number out that lies within bounds.
    ///
    /// # Errors
    /// As [`Fields::number`].
    pub(crate) fn whole(
        &mut self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<usize>, ApiError> {
        match self.take::<u64>(name)? {
            Some(n) if !bounds.contains(&n) => {
                let (least, most) = bounds.into_inner();
                let problem = format!("`{name}` is {n}; expected {least} to {most}");
                Err(ApiError::invalid(name, problem))
            }
            n => Ok(n.map(|n| n as usize)),
        }
    }

    /// Refuses what is left, but for what says nothing and what changes no answer.
    ///
    /// # Errors
    /// When something is left that would change an answer, or may.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        self.end_but(&OF_NO_EFFECT, &NEUTRAL)
    }

    /// The same where others change no answer: some whatever they say, some where they have a value, as JSON, that is what is
    /// done anyway.
    ///
    /// # Errors
    /// As [`Fields::end`].
    pub(crate) fn end_but(
        self,
        of_no_effect: &[&str],
        neutral: &[(&str, &str)],
    ) -> Result<(), ApiError> {
        let says = |(name, value): &(String, Value)| {
            let is_empty = match value {
                Value::Null => true,
                Value::Array(values) => values.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
            };
            let json = value.to_string();
            let is_neutral = neutral
                .iter()
                .any(|(field, neutral)| field == name && *neutral == json);
            !is_empty && !is_neutral && !of_no_effect.contains(&name.as_str())
        };
        match self.0.into_iter().find(says) {
            Some((name, _)) => Err(ApiError::unsupported(&name)),
            None => Ok(()),
        }
    }
}

/// Fields that change no answer, whatever they say.
const OF_NO_EFFECT: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    // Without tools there are no calls.
    "parallel_tool_calls",
];

/// Fields of which one value, as JSON, is what is done anyway.
const NEUTRAL: [(&str, &str); 9] = [
    ("tool_choice", r#""none""#),
    ("tool_choice", r#""auto""#),
    ("modalities", r#"["text"]"#),
    ("echo", "false"),
    ("best_of", "1"),
    ("suffix", r#""""#),
    ("use_beam_search", "false"),
    ("skip_special_tokens", "true"),
    ("function_call", r#""none""#),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn what_would_change_an_answer_is_not_passed_over() {
        for harmless in [
            json!({}),
            json!({"user": "me", "metadata": {"a": "b"}, "tools": [], "functions": null}),
            json!({"echo": false, "best_of": 1}),
        ] {
            assert!(fields(harmless).end().is_ok());
        }
        for asked in [
            json!({"response_format": {"type": "json_object"}}),
            json!({"tools": [{}]}),
            json!({"echo": true}),
            json!({"temprature": 0}),
        ] {
            assert!(fields(asked.clone()).end().is_err(), "{asked}");
        }
    }

    #[test]
    fn numbers_have_bounds_and_types() {
        let mut found = fields(json!({"a": 0.5, "b": 3, "c": "x", "d": 1e300, "e": -1}));
        let share = (|x| (0.0..=1.0).contains(&x)) as fn(f64) -> bool;
        assert_eq!(found.number("a", (share, "a share")).unwrap(), Some(0.5));
        assert!(found.number("b", (share, "a share")).is_err());
        assert!(found.whole("c", 0..=9).is_err());
        assert!(found.whole("d", 0..=9).is_err());
        assert!(found.whole("e", 0..=9).is_err());
        assert_eq!(found.whole("f", 0..=9).unwrap(), None);
    }
}
