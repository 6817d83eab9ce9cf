//! Requests of the Responses API, as requests of the engine.

use llm_engine::Request;
use llm_text::{Conversation, Message, Role};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::format::text_format;
use crate::openai::check_model;
use crate::prompt::{chat_ids, check_prompt, message};
use crate::settings::{MOST_TOKENS, settings};
use crate::site::Served;

/// What a client asks for.
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) is_streamed: bool,
    /// Fields of the response that say what was asked for.
    pub(crate) echo: Map<String, Value>,
}

/// A request for a response.
///
/// # Errors
/// When it is not as it should be, or asks for what is not done here.
pub(crate) fn asked(served: &Served, object: Map<String, Value>) -> Result<Asked, ApiError> {
    let mut fields = Fields::new(object);
    let kept = ["previous_response_id", "conversation", "prompt"];
    for name in kept {
        if fields.take::<Value>(name)?.is_some() {
            let problem = format!(
                "`{name}`: this server keeps nothing between requests; give all in `input`"
            );
            return Err(ApiError::invalid(name, problem));
        }
    }
    let instructions: Option<String> = fields.take("instructions")?;
    let mut messages = Vec::from_iter(
        instructions
            .clone()
            .map(|text| Message::new(Role::System, text)),
    );
    match fields.need("input")? {
        Input::Text(text) => messages.push(Message::new(Role::User, text)),
        Input::Items(items) => {
            for item in items {
                messages.push(message(item_fields(item)?)?);
            }
        }
    }
    if messages.len() == usize::from(instructions.is_some()) {
        return Err(ApiError::invalid("input", "`input` is empty"));
    }
    let conversation = Conversation {
        variables: fields.take("chat_template_kwargs")?.unwrap_or_default(),
        ..Conversation::new(messages)
    };
    let n_new = fields.whole("max_output_tokens", 1..=MOST_TOKENS)?;
    let n_top = logprobs(&mut fields)?;
    let mut settings = settings(served, &mut fields, n_new, n_top)?;
    let text = fields.get("text").cloned();
    text_format(&mut fields)?.hold(served, &mut settings, "text")?;
    let is_streamed = fields.take("stream")?.unwrap_or(false);
    // Padding against who listens in: none is made.
    let _: Option<Value> = fields.take("stream_options")?;
    let metadata: Option<Map<String, Value>> = fields.take("metadata")?;
    let user: Option<Value> = fields.take("user")?;
    check_model(served, &mut fields)?;
    fields.end_but(&OF_NO_EFFECT, &NEUTRAL)?;
    let prompt = chat_ids(&served.tokenizer, &conversation)?;
    check_prompt(served, &prompt)?;
    let echo = json!({
        "model": served.name,
        "instructions": instructions,
        "max_output_tokens": n_new,
        "metadata": metadata.unwrap_or_default(),
        "temperature": settings.sampling.temperature,
        "top_p": settings.sampling.top_p,
        "top_logprobs": n_top.unwrap_or(0),
        "user": user,
        "background": false,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": false,
        "text": text.unwrap_or_else(|| json!({"format": {"type": "text"}})),
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
    });
    let Value::Object(echo) = echo else {
        return Err(ApiError::lost());
    };
    Ok(Asked {
        request: Request { prompt, settings },
        is_streamed,
        echo,
    })
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of items")]
enum Input {
    Text(String),
    Items(Vec<Map<String, Value>>),
}

/// Fields of the message that an item of the input is.
fn item_fields(item: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let mut item = Fields::new(item);
    let kind: Option<String> = item.take("type")?;
    if let Some(kind) = kind.filter(|kind| kind != "message") {
        let problem = format!("items of `input` of type {kind:?} are not supported");
        return Err(ApiError::invalid("input", problem));
    }
    let (role, mut content) = (item.need::<String>("role")?, item.need::<Value>("content")?);
    // What a response was is given back with what it was called.
    item.end_but(&["id", "status", "phase"], &[])?;
    for part in content.as_array_mut().into_iter().flatten() {
        let is_text = |kind: &&str| ["input_text", "output_text"].contains(kind);
        match part["type"].as_str() {
            Some(kind) if is_text(&kind) => part["type"] = "text".into(),
            Some(_) | None => {
                let problem = "parts of a message other than of type `input_text` and `output_text` are not supported";
                return Err(ApiError::invalid("input", problem));
            }
        }
    }
    Ok(Map::from_iter([
        ("role".to_owned(), role.into()),
        ("content".to_owned(), content),
    ]))
}

/// Log-probabilities that are asked for.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let n_top = fields.whole("top_logprobs", 0..=20)?;
    let include: Option<Vec<String>> = fields.take("include")?;
    let mut is_asked = n_top.is_some_and(|n_top| n_top > 0);
    for what in include.unwrap_or_default() {
        match what.as_str() {
            "message.output_text.logprobs" => is_asked = true,
            // Of what models think there is nothing to be included.
            "reasoning.encrypted_content" => {}
            _ => {
                let problem = format!("`include`: {what:?} is not supported by this server");
                return Err(ApiError::invalid("include", problem));
            }
        }
    }
    Ok(is_asked.then(|| n_top.unwrap_or(0)))
}

/// Fields that change no answer, whatever they say. A client that has its response stored finds none when it asks for it.
const OF_NO_EFFECT: [&str; 7] = [
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    // Without tools there are no calls.
    "parallel_tool_calls",
    "max_tool_calls",
];

/// Fields of which one value, as JSON, is what is done anyway.
const NEUTRAL: [(&str, &str); 5] = [
    ("background", "false"),
    ("tool_choice", r#""none""#),
    ("tool_choice", r#""auto""#),
    ("truncation", r#""disabled""#),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
];
