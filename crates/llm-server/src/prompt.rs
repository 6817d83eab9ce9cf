//! Prompts, as the engine reads them.

use llm_text::{Conversation, GenerationPrompt, Message, SpecialTokens, TextError, Tokenizer};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::site::Served;

/// Tokens of a text.
///
/// # Errors
/// When there are none.
pub(crate) fn text_ids(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid("prompt", "`prompt` is empty"));
    }
    tokenizer
        .encode(text, SpecialTokens::Add)
        .map_err(|error| ApiError::invalid("prompt", error.to_string()))
}

/// Tokens of a conversation whose next message is to be made.
///
/// # Errors
/// When the model has no template for such a conversation.
pub(crate) fn chat_ids(
    tokenizer: &Tokenizer,
    conversation: &Conversation,
) -> Result<Vec<u32>, ApiError> {
    let template = tokenizer.chat_template().ok_or_else(|| {
        let problem = "the model has no chat template; have it continue a text with /v1/completions or /api/generate, or use an instruct model";
        ApiError::invalid("messages", problem)
    })?;
    let wrong = |error: TextError| ApiError::invalid("messages", error.to_string());
    let text = template.render(conversation, GenerationPrompt::Add);
    let ids = tokenizer.encode(&text.map_err(wrong)?, SpecialTokens::AsIs);
    ids.map_err(wrong)
}

/// A message as templates know it: parts of text are one text.
///
/// # Errors
/// When it has other parts, or no role.
pub(crate) fn message(mut fields: Map<String, Value>) -> Result<Message, ApiError> {
    if let Some(Value::Array(parts)) = fields.get("content") {
        let text_of = |part: &Value| match part["type"].as_str() {
            Some("text") => part["text"].as_str().map(str::to_owned),
            _ => None,
        };
        let texts: Option<Vec<String>> = parts.iter().map(text_of).collect();
        let texts = texts.ok_or_else(|| {
            let problem = "parts of a message other than of type `text` are not supported";
            ApiError::invalid("messages", problem)
        })?;
        fields.insert("content".to_owned(), texts.concat().into());
    }
    // OpenAI's newer name, which templates do not know.
    if fields.get("role").is_some_and(|role| role == "developer") {
        fields.insert("role".to_owned(), "system".into());
    }
    Message::from_fields(fields).map_err(|error| ApiError::invalid("messages", error.to_string()))
}

/// Checks a prompt before anything is computed.
///
/// # Errors
/// When it is empty, longer than the context, or has tokens that the model does not know.
pub(crate) fn check_prompt(served: &Served, prompt: &[u32]) -> Result<(), ApiError> {
    if prompt.is_empty() {
        return Err(ApiError::invalid("prompt", "a prompt has no tokens"));
    }
    let (n_tokens, most) = (prompt.len(), served.context);
    if n_tokens > most {
        let problem = format!("the prompt has {n_tokens} tokens, and the context {most}");
        return Err(ApiError::too_long(problem));
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= served.vocab) {
        let problem = format!("token id {id} is not below {}", served.vocab);
        return Err(ApiError::invalid("prompt", problem));
    }
    Ok(())
}
