use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use crate::TextError;
use crate::error::one_line;

mod python;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The instructions that the conversation is held under.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates know the role by.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// Whether a rendered conversation ends with the beginning of the model's turn; exhaustive, as it does or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// It does: the model is to answer.
    Add,
    /// It ends with the last message.
    Omit,
}

/// The Jinja template that turns a conversation into the text that a model was trained on.
///
/// It is rendered as `transformers` does, with its settings, functions and variables. A template comes with a model
/// and may say anything: it sees nothing but the conversation, and cannot run for ever.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    origin: String,
    special_tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    pub(crate) fn new(
        source: String,
        origin: String,
        special_tokens: Vec<(&'static str, String)>,
    ) -> Self {
        ChatTemplate {
            source,
            origin,
            special_tokens,
        }
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text. Special tokens are spelled out in it: encode it with
    /// [`SpecialTokens::AsIs`](crate::SpecialTokens::AsIs).
    ///
    /// # Errors
    ///
    /// [`TextError::ChatRefused`] if the template finds fault with the conversation, and
    /// [`TextError::BrokenChatTemplate`] if the fault is its own.
    pub fn render(
        &self,
        messages: &[Message],
        prompt: GenerationPrompt,
    ) -> Result<String, TextError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.name(), content => &m.content })
            .collect();
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        for (name, text) in &self.special_tokens {
            variables.insert(name, Value::from(text));
        }
        variables.insert("messages", Value::from(messages));
        variables.insert(
            "add_generation_prompt",
            (prompt == GenerationPrompt::Add).into(),
        );
        // Templates ask whether tools are none, which for an undefined variable they are not.
        variables.insert("tools", ().into());
        variables.insert("documents", ().into());
        let source = without_generation_marks(&self.source);
        let rendered = environment()
            .template_from_named_str("chat_template", &source)
            .and_then(|template| template.render(variables));
        rendered.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &Error) -> TextError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(Refusal(message)) = error.downcast_ref() {
                let message = one_line(message);
                return TextError::ChatRefused { message };
            }
            cause = error.source();
        }
        TextError::BrokenChatTemplate {
            origin: self.origin.clone(),
            problem: one_line(error),
        }
    }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the delimiters are the usual ones"),
    );
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(FUEL));
    env.add_filter("tojson", python::tojson);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", |format: &str| {
        python::strftime(&jiff::Zoned::now(), format)
    });
    env
}

/// What a template says when it does not accept a conversation.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: &str) -> Result<Value, Error> {
    let refusal = Refusal(message.to_owned());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which say what is trained on and change nothing else, by
/// an empty scope, so that the white space around them is treated alike.
fn without_generation_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + "%}".len());
        let word = tag.trim_matches(|c: char| "{}%+-".contains(c) || c.is_whitespace());
        match word {
            "generation" => result.push_str(&tag.replace(word, "with")),
            "endgeneration" => result.push_str(&tag.replace(word, "endwith")),
            _ => result.push_str(tag),
        }
        rest = after;
    }
    result.push_str(rest);
    result
}

/// Instructions that a template may execute: a long conversation needs thousands.
const FUEL: u64 = 20_000_000;

#[cfg(test)]
mod tests;
