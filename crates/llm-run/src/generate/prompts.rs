//! Prompts from JSON lines.

use std::num::NonZeroUsize;

use anyhow::Result;
use llm_runtime::RuntimeError;
use llm_text::{Conversation, Message};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::prompt::{given_to_template, text_ids};
use crate::cli::GenerateArgs;
use crate::input::lines::Line;
use crate::input::template::chat_ids;
use crate::open::OpenModel;
use llm_engine::Length;

/// One prompt of many.
pub(super) struct Prompt {
    /// The line that it stands in, counted from 1.
    pub(super) line: usize,
    /// Value that its result repeats.
    pub(super) id: Option<Value>,
    /// Its tokens, or why it cannot be continued.
    pub(super) ids: Result<Vec<u32>, String>,
    max_new_tokens: Option<NonZeroUsize>,
}

impl Prompt {
    /// Length of the answer at most, `usual` unless the line says otherwise.
    pub(super) fn length(&self, usual: &Length) -> Length {
        let own = self.max_new_tokens.map(|n| Length::New(n.into()));
        own.unwrap_or_else(|| usual.clone())
    }
}

/// Reads and encodes the prompt of a line. What is wrong with it, or what the model lacks for it, is its own error.
pub(super) fn read(line: Line, args: &GenerateArgs, model: &OpenModel) -> Prompt {
    let number = line.number;
    let entry = match &line.text {
        Ok(text) => parse(text.trim_end_matches(['\r', '\n'])),
        Err(flaw) => Err(flaw.clone()),
    };
    match entry {
        Ok(Entry {
            id,
            max_new_tokens,
            content,
        }) => Prompt {
            line: number,
            id,
            ids: ids(content, args, model).map_err(|error| format!("{error:#}")),
            max_new_tokens,
        },
        Err(flaw) => Prompt {
            line: number,
            id: line.text.ok().and_then(|text| id_of(&text)),
            ids: Err(flaw),
            max_new_tokens: None,
        },
    }
}

/// The `id` of a line that is wrong otherwise.
fn id_of(text: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    value.as_object_mut()?.shift_remove("id")
}

fn ids(content: Content, args: &GenerateArgs, model: &OpenModel) -> Result<Vec<u32>> {
    let ids = match content {
        Content::Text(text) => text_ids(text, args, model)?,
        Content::Ids(ids) => ids,
        Content::Conversation(mut conversation) => {
            given_to_template(args, &mut conversation)?;
            chat_ids(model.tokenizer()?, &conversation)?
        }
    };
    let (n_tokens, context) = (ids.len(), model.bound.spec().context);
    if n_tokens > context {
        return Err(RuntimeError::ContextFull {
            n_tokens,
            context,
            model_context: context,
        }
        .into());
    }
    Ok(ids)
}

/// A line that is as it should be.
struct Entry {
    id: Option<Value>,
    max_new_tokens: Option<NonZeroUsize>,
    content: Content,
}

enum Content {
    Text(String),
    Ids(Vec<u32>),
    Conversation(Conversation),
}

/// A line that is an object, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object or a string")]
struct Object {
    prompt: Option<String>,
    token_ids: Option<Vec<u32>>,
    messages: Option<Vec<Map<String, Value>>>,
    tools: Option<Vec<Map<String, Value>>>,
    documents: Option<Vec<Map<String, Value>>>,
    /// Variables of the chat template.
    #[serde(default)]
    chat_template_kwargs: Map<String, Value>,
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
    max_new_tokens: Option<NonZeroUsize>,
}

/// Tells a null from what is not there.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// Reads a line; what is wrong with it otherwise.
fn parse(line: &str) -> Result<Entry, String> {
    let text_alone = |text| Entry {
        id: None,
        max_new_tokens: None,
        content: Content::Text(text),
    };
    match line.trim_start().as_bytes().first() {
        Some(b'"') => serde_json::from_str(line)
            .map(text_alone)
            .map_err(|error| in_line(&error)),
        // Which would else be the fields in their order.
        Some(b'[') => Err("expected an object or a string, found an array".to_owned()),
        Some(b'{') => serde_json::from_str(line)
            .map_err(|error| in_line(&error))
            .and_then(Object::entry),
        _ => match serde_json::from_str::<Object>(line) {
            Ok(object) => object.entry(),
            Err(error) => Err(format!("{}; a text is written in quotes", in_line(&error))),
        },
    }
}

impl Object {
    /// Exactly one of the three ways to give a prompt is taken.
    fn entry(self) -> Result<Entry, String> {
        let not_one = |found| {
            let expected = "expected one of `prompt`, `token_ids` and `messages`";
            Err(format!("{expected}, found {found}"))
        };
        let has_more = self.tools.is_some()
            || self.documents.is_some()
            || !self.chat_template_kwargs.is_empty();
        if self.messages.is_none() && has_more {
            let names = "`tools`, `documents` and `chat_template_kwargs`";
            return Err(format!("{names} go with `messages`, found without"));
        }
        let content = match (self.prompt, self.token_ids, self.messages) {
            (Some(text), None, None) => Content::Text(text),
            (None, Some(ids), None) => Content::Ids(ids),
            (None, None, Some(messages)) => {
                let messages = messages.into_iter().map(Message::from_fields);
                let messages = messages.collect::<Result<_, _>>();
                Content::Conversation(Conversation {
                    messages: messages.map_err(|error| error.to_string())?,
                    tools: self.tools,
                    documents: self.documents,
                    variables: self.chat_template_kwargs,
                })
            }
            (None, None, None) => return not_one("none"),
            (_, _, _) => return not_one("more than one"),
        };
        Ok(Entry {
            id: self.id,
            max_new_tokens: self.max_new_tokens,
            content,
        })
    }
}

/// The parser's words without its line, which is always the first.
fn in_line(error: &serde_json::Error) -> String {
    let (said, column) = (error.to_string(), error.column());
    let place = format!(" at line {} column {column}", error.line());
    match said.strip_suffix(&place) {
        Some(problem) => format!("column {column}: {problem}"),
        None => said,
    }
}
