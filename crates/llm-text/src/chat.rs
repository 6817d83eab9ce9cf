use serde_json::{Map, Value};

use crate::TextError;

mod engine;
mod python;
mod source;

/// One turn of a conversation.
///
/// Templates know more of a turn than who speaks and what is said: calls of tools and their results, parts of the
/// content, what the model thought. So a message is a JSON object with a `role`, whose other fields are the template's.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, content: String) -> Self {
        let role = ("role".to_owned(), Value::from(role.name()));
        let content = ("content".to_owned(), Value::from(content));
        Message {
            fields: Map::from_iter([role, content]),
        }
    }

    /// A message with any fields. Those that are null are left out, as `transformers` does.
    ///
    /// # Errors
    ///
    /// [`TextError::BrokenMessage`] if there is no `role` that is a text.
    pub fn from_fields(fields: Map<String, Value>) -> Result<Self, TextError> {
        if !fields.get("role").is_some_and(Value::is_string) {
            let problem = "it has no `role` that is a text".to_owned();
            return Err(TextError::BrokenMessage { problem });
        }
        let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
        Ok(Message {
            fields: fields.collect(),
        })
    }

    /// The message as templates see it.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

/// Speaker in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The instructions that the conversation is held under.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The name that chat templates know the role by.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A conversation and what else a template may ask for.
///
/// ```
/// use llm_text::{Conversation, Message, Role};
///
/// let messages = vec![Message::new(Role::User, "Who lit the lamp?".to_owned())];
/// let mut conversation = Conversation::new(messages);
/// conversation.variables.insert("enable_thinking".to_owned(), false.into());
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
    /// The tools that the model may call, each as its JSON schema.
    pub tools: Option<Vec<Map<String, Value>>>,
    /// The documents that the answer is to draw on.
    pub documents: Option<Vec<Map<String, Value>>>,
    /// Variables of the template by name, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// A conversation of turns alone.
    pub fn new(messages: Vec<Message>) -> Self {
        Conversation {
            messages,
            ..Conversation::default()
        }
    }
}

/// Generation prompt at the end of a rendered conversation; exhaustive, as it is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// Present: the model is to answer.
    Add,
    /// Absent: the conversation ends with the last message.
    Omit,
}

/// The Jinja template that turns a conversation into the text that a model was trained on.
///
/// It is rendered as `transformers` does, with its settings, functions and variables. A template comes with a model
/// and may say anything: it sees nothing but the conversation, and takes no more than two seconds and 64 MB.
///
/// ```
/// use llm_text::{Conversation, GenerationPrompt, Message, Role, Tokenizer};
///
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/text/sentencepiece");
/// let tokenizer = Tokenizer::from_folder(&folder)?;
/// let template = tokenizer.chat_template().expect("a model for conversations");
/// let question = Message::new(Role::User, "Who lit the lamp?".to_owned());
/// let text = template.render(&Conversation::new(vec![question]), GenerationPrompt::Add)?;
/// assert_eq!(text, "<s>[ASK] Who lit the lamp? [/ASK]");
/// # Ok::<(), llm_text::TextError>(())
/// ```
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    sources: Vec<Source>,
    special_tokens: Vec<(&'static str, String)>,
}

/// One of a model's templates.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    text: String,
    /// The file or the key that it came from.
    origin: String,
}

impl ChatTemplate {
    pub(crate) fn new(
        source: String,
        origin: String,
        special_tokens: Vec<(&'static str, String)>,
    ) -> Self {
        Self::named([(DEFAULT.to_owned(), source, origin)], special_tokens)
    }

    /// Templates by name, each with where it came from.
    pub(crate) fn named(
        sources: impl IntoIterator<Item = (String, String, String)>,
        special_tokens: Vec<(&'static str, String)>,
    ) -> Self {
        let sources = sources
            .into_iter()
            .map(|(name, text, origin)| Source { name, text, origin });
        ChatTemplate {
            sources: sources.collect(),
            special_tokens,
        }
    }

    /// The template of plain conversations as it was written, if there is one.
    pub fn source(&self) -> Option<&str> {
        self.find(DEFAULT).map(|source| source.text.as_str())
    }

    /// The conversation as text. Special tokens are spelled out in it: encode it with
    /// [`SpecialTokens::AsIs`](crate::SpecialTokens::AsIs).
    ///
    /// Where the model has a template of its own for conversations with tools, called `tool_use`, that one is taken
    /// for them.
    ///
    /// # Errors
    ///
    /// [`TextError::ChatRefused`] if the template finds fault with the conversation, [`TextError::BrokenChatTemplate`]
    /// if the fault is its own, and [`TextError::NoDefaultTemplate`] if none of several is for such a conversation.
    pub fn render(
        &self,
        conversation: &Conversation,
        prompt: GenerationPrompt,
    ) -> Result<String, TextError> {
        let for_tools = conversation
            .tools
            .as_ref()
            .and_then(|_| self.find(TOOL_USE));
        let source = for_tools.or_else(|| self.find(DEFAULT));
        let Some(source) = source else {
            let names = self.sources.iter().map(|source| source.name.clone());
            return Err(TextError::NoDefaultTemplate {
                origin: self.origin().to_owned(),
                names: names.collect(),
            });
        };
        let variables = engine::variables(conversation, &self.special_tokens, prompt);
        variables
            .and_then(|variables| engine::render(&source.text, variables))
            .map_err(|failure| match failure {
                engine::Failure::Refused(message) => TextError::ChatRefused { message },
                engine::Failure::Broken(problem) => TextError::BrokenChatTemplate {
                    origin: source.origin.clone(),
                    problem,
                },
            })
    }

    fn find(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == name)
    }

    fn origin(&self) -> &str {
        self.sources.first().map_or("", |source| &source.origin)
    }
}

/// The template's name that counts where nothing else is said.
pub(crate) const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

#[cfg(test)]
mod tests;
