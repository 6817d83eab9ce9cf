//! JSON as Python's `json` module writes it.
//!
//! Configurations of models are written by Python, whose JSON has numbers that the standard lacks: `Infinity`,
//! `-Infinity` and `NaN`. [`parse`] takes them, where everything else is as strict as the standard. A [`Value`] cannot
//! hold such a number: it becomes the string of the same letters, so that a key of which nothing is read passes, and one
//! whose number matters is refused with its value named.

mod clean;

use std::fmt;

use serde_core::de::DeserializeOwned;
use serde_json::Value;

/// Reads a JSON document.
///
/// Of several entries with one key the last counts, a byte order mark is passed over, and half of a surrogate pair
/// becomes U+FFFD.
///
/// ```
/// let value = llm_json::parse(br#"{"limit": [0.0, Infinity], "a": 1, "a": 2}"#)?;
/// assert_eq!(value["limit"][1], "Infinity");
/// assert_eq!(value["a"], 2);
/// # Ok::<(), llm_json::JsonError>(())
/// ```
///
/// # Errors
/// [`JsonError`] with line and column, when the text is no JSON or more than the document.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let cleaned = clean::clean(text);
    serde_json::from_slice(&cleaned.text).map_err(|error| {
        if let Some(what) = mistaken(text) {
            return JsonError {
                reason: format!("it is {what}"),
                place: None,
            };
        }
        let (line, column) = cleaned.place(error.line(), error.column());
        JsonError {
            reason: without_place(&error),
            place: Some(Place { line, column }),
        }
    })
}

/// Reads a JSON document into a type.
///
/// # Errors
/// As [`parse`], and when the document is not what the type expects, then without a place.
pub fn parse_as<T: DeserializeOwned>(text: &[u8]) -> Result<T, JsonError> {
    serde_json::from_value(parse(text)?).map_err(|error| JsonError {
        reason: without_place(&error),
        place: None,
    })
}

/// Description of what came in the place of a download, by its first bytes, with what can be done; `None` if unknown.
pub fn mistaken(text: &[u8]) -> Option<&'static str> {
    let front = &text[..text.len().min(LONGEST_FRONT)];
    let front = front.trim_ascii_start().to_ascii_lowercase();
    let begins = |words: &[&[u8]]| words.iter().any(|word| front.starts_with(word));
    if begins(&[b"version https://git-lfs"]) {
        Some("a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    } else if begins(&[b"<!doctype html", b"<html", b"<head"]) {
        Some(
            "an HTML page, not the file itself; download it with the hub's own tool or from its `resolve` link",
        )
    } else {
        None
    }
}

/// Problem with a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct JsonError {
    /// The problem.
    pub reason: String,
    /// Place, if there is one.
    pub place: Option<Place>,
}

/// A place in a text, both from 1, the column in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match self.place {
            Some(Place { line, column }) => write!(f, " at line {line} column {column}"),
            None => Ok(()),
        }
    }
}

/// The message of an error alone, whose place would be that in the cleaned text.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}

/// Bytes that tell what a file is.
const LONGEST_FRONT: usize = 512;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests;
