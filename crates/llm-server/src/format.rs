//! Forms that answers are held to.

use llm_engine::{EngineError, Settings};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::site::Served;

/// Form of an answer's text.
pub(crate) enum Format {
    /// Whatever the model writes.
    Text,
    /// An object in JSON.
    Object,
    /// A value in JSON that a schema describes.
    Schema(Value),
}

/// `response_format` of a request.
///
/// # Errors
/// When it is none that is known.
pub(crate) fn response_format(fields: &mut Fields) -> Result<Format, ApiError> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
    enum ResponseFormat {
        Text,
        JsonObject,
        JsonSchema { json_schema: Described },
    }
    let format = match fields.take("response_format")? {
        None | Some(ResponseFormat::Text) => Format::Text,
        Some(ResponseFormat::JsonObject) => Format::Object,
        Some(ResponseFormat::JsonSchema { json_schema }) => json_schema.format(),
    };
    Ok(format)
}

/// `text` of a request for a response.
///
/// # Errors
/// As [`response_format`], and when it says more than the format.
pub(crate) fn text_format(fields: &mut Fields) -> Result<Format, ApiError> {
    #[derive(Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum TextFormat {
        Text,
        JsonObject,
        JsonSchema(Described),
    }
    let text: Option<Map<String, Value>> = fields.take("text")?;
    let mut text = Fields::new(text.unwrap_or_default());
    let format = match text.take("format")? {
        None | Some(TextFormat::Text) => Format::Text,
        Some(TextFormat::JsonObject) => Format::Object,
        Some(TextFormat::JsonSchema(described)) => described.format(),
    };
    text.end_but(&[], &[("verbosity", r#""medium""#)])?;
    Ok(format)
}

/// `format` of a request of Ollama's API.
///
/// # Errors
/// As [`response_format`].
pub(crate) fn json_or_schema(fields: &mut Fields) -> Result<Format, ApiError> {
    match fields.take::<Value>("format")? {
        None => Ok(Format::Text),
        Some(Value::String(name)) if name.is_empty() => Ok(Format::Text),
        Some(Value::String(name)) if name == "json" => Ok(Format::Object),
        Some(schema @ Value::Object(_)) => Ok(Format::Schema(schema)),
        Some(other) => {
            let problem = format!("`format` is {other}; expected \"json\" or a schema");
            Err(ApiError::invalid("format", problem))
        }
    }
}

/// A schema and what it is called.
#[derive(Deserialize)]
struct Described {
    schema: Option<Value>,
    // What is said of it besides changes no answer: any is held to its schema strictly.
}

impl Described {
    fn format(self) -> Format {
        self.schema.map_or(Format::Object, Format::Schema)
    }
}

impl Format {
    /// Holds the answer with these settings to the form, which the field `param` asks for.
    ///
    /// # Errors
    /// When there is no grammar for it.
    pub(crate) fn hold(
        self,
        served: &Served,
        settings: &mut Settings,
        param: &str,
    ) -> Result<(), ApiError> {
        let is_endless = settings.rules.eos_ids.is_empty();
        let constraint = match &self {
            Format::Text => return Ok(()),
            Format::Object | Format::Schema(_) if is_endless => {
                let problem =
                    format!("`{param}`: such an answer ends where `ignore_eos` has it go on");
                return Err(ApiError::invalid(param, problem));
            }
            Format::Object => served.grammars.object(),
            Format::Schema(schema) => served.grammars.schema(schema),
        };
        let wrong = |error: EngineError| ApiError::invalid(param, format!("`{param}`: {error}"));
        settings.constraint = Some(constraint.map_err(wrong)?);
        Ok(())
    }
}
