//! Prompts from a file of JSON lines.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Error, Result};
use llm_runtime::RuntimeError;
use llm_text::{Conversation, Message, TextError};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{chat_ids, given_to_template, read_file, text_ids};
use crate::cli::GenerateArgs;
use crate::failure::UserError;
use crate::model::OpenModel;

/// One prompt of many.
pub(super) struct Prompt {
    /// The line that it stands in, counted from 1.
    pub(super) line: usize,
    /// What its result repeats.
    pub(super) id: Option<Value>,
    /// Its tokens, or why it cannot be continued.
    pub(super) ids: Result<Vec<u32>, String>,
    max_new_tokens: Option<NonZeroUsize>,
}

impl Prompt {
    /// Tokens to generate at most, `usual` unless the line says otherwise.
    pub(super) fn max_new_tokens(&self, usual: usize) -> usize {
        self.max_new_tokens.map_or(usual, usize::from)
    }
}

/// Reads and encodes all prompts of a file, `-` being standard input.
///
/// # Errors
/// When the file cannot be read or holds no prompt, a line is not as it should be, or the model lacks the tokenizer or
/// the chat template that a line needs.
pub(super) fn read(path: &Path, args: &GenerateArgs, model: &OpenModel) -> Result<Vec<Prompt>> {
    let text = read_file(path)?;
    let name = match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    // Some editors begin every file with a byte order mark.
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let prompts = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            prompt(i + 1, line, args, model).with_context(|| format!("{name}, line {}", i + 1))
        })
        .collect::<Result<Vec<_>>>()?;
    if prompts.is_empty() {
        return Err(UserError(format!("there are no prompts in {name}; give one a line")).into());
    }
    Ok(prompts)
}

fn prompt(line: usize, text: &str, args: &GenerateArgs, model: &OpenModel) -> Result<Prompt> {
    let Entry {
        id,
        max_new_tokens,
        content,
    } = parse(text).map_err(UserError)?;
    let ids = match ids(content, args, model) {
        Ok(ids) => Ok(ids),
        Err(error) if is_prompts_own(&error) => Err(format!("{error:#}")),
        Err(error) => return Err(error),
    };
    Ok(Prompt {
        line,
        id,
        ids,
        max_new_tokens,
    })
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

/// Whether other prompts may fare better.
fn is_prompts_own(error: &Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(RuntimeError::EmptyPrompt | RuntimeError::ContextFull { .. })
    ) || matches!(error.downcast_ref(), Some(TextError::ChatRefused { .. }))
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
