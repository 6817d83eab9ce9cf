//! Requests of OpenAI's API, as requests of the engine.

use llm_engine::{Request, Settings, nth_seed};
use llm_text::Conversation;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::format::response_format;
use crate::prompt::{chat_ids, check_prompt, message, text_ids};
use crate::settings::{MOST_TOKENS, settings, top_logprobs};
use crate::site::Served;

/// Form of an answer; exhaustive, as each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A message of a conversation.
    Chat,
    /// The continuation of a text.
    Text,
}

/// What a client asks for.
pub(crate) struct Asked {
    pub(crate) form: Form,
    /// The prompts of each choice, one after the other, as often as there are choices.
    pub(crate) requests: Vec<Request>,
    /// Choices for each prompt.
    pub(crate) n: usize,
    pub(crate) delivery: Delivery,
    /// True where log-probabilities were asked for.
    pub(crate) has_logprobs: bool,
}

/// Way of an answer to its client; exhaustive, as there are no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    /// Piece by piece, with the usage at the end where that is asked for.
    Stream {
        has_usage: bool,
    },
}

/// A request for a message.
///
/// # Errors
/// When it is not as it should be, or asks for what is not done here.
pub(crate) fn chat(served: &Served, object: Map<String, Value>) -> Result<Asked, ApiError> {
    let mut fields = Fields::new(object);
    let messages: Vec<Map<String, Value>> = fields.need("messages")?;
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` is empty"));
    }
    let mut conversation = Conversation {
        messages: messages
            .into_iter()
            .map(message)
            .collect::<Result<_, _>>()?,
        ..Conversation::default()
    };
    conversation.variables = fields.take("chat_template_kwargs")?.unwrap_or_default();
    let n_top = top_logprobs(&mut fields)?;
    // The older name of the same.
    let older = fields.whole("max_tokens", 1..=MOST_TOKENS)?;
    let n_new = fields.whole("max_completion_tokens", 1..=MOST_TOKENS)?;
    let mut settings = settings(served, &mut fields, n_new.or(older), n_top)?;
    response_format(&mut fields)?.hold(served, &mut settings, "response_format")?;
    let (n, delivery) = shape(&mut fields)?;
    check_model(served, &mut fields)?;
    fields.end()?;
    let prompt = chat_ids(&served.tokenizer, &conversation)?;
    Asked::new(served, Form::Chat, vec![prompt], settings, (n, delivery))
}

/// A request for a continuation.
///
/// # Errors
/// As [`chat`].
pub(crate) fn completion(served: &Served, object: Map<String, Value>) -> Result<Asked, ApiError> {
    let mut fields = Fields::new(object);
    let prompts = match fields.need("prompt")? {
        Prompts::Text(text) => vec![text_ids(&served.tokenizer, &text)?],
        Prompts::Ids(ids) if !ids.is_empty() => vec![ids],
        Prompts::Ids(_) => return Err(ApiError::invalid("prompt", "`prompt` is empty")),
        Prompts::Texts(texts) => {
            let ids = texts.iter().map(|text| text_ids(&served.tokenizer, text));
            ids.collect::<Result<_, _>>()?
        }
        Prompts::ManyIds(all) => all,
    };
    let n_top = fields.whole("logprobs", 0..=20)?;
    let n_new = fields.whole("max_tokens", 1..=MOST_TOKENS)?;
    let n_new = n_new.unwrap_or(USUAL_TOKENS);
    let mut settings = settings(served, &mut fields, Some(n_new), n_top)?;
    response_format(&mut fields)?.hold(served, &mut settings, "response_format")?;
    let shape = shape(&mut fields)?;
    check_model(served, &mut fields)?;
    fields.end()?;
    Asked::new(served, Form::Text, prompts, settings, shape)
}

/// Refuses another model's name than that of this one.
///
/// # Errors
/// When it is another's.
pub(crate) fn check_model(served: &Served, fields: &mut Fields) -> Result<(), ApiError> {
    let name: Option<String> = fields.take("model")?;
    match name {
        Some(name) if name != served.name => Err(ApiError::no_model(&name, &served.name)),
        Some(_) | None => Ok(()),
    }
}

impl Asked {
    /// Checks what can be checked before an answer begins.
    fn new(
        served: &Served,
        form: Form,
        prompts: Vec<Vec<u32>>,
        settings: Settings,
        (n, delivery): (usize, Delivery),
    ) -> Result<Self, ApiError> {
        for prompt in &prompts {
            check_prompt(served, prompt)?;
        }
        let has_logprobs = settings.logprobs.is_some();
        let of_prompt = |prompt: Vec<u32>| {
            let settings = settings.clone();
            (0..n).map(move |i| Request {
                prompt: prompt.clone(),
                settings: Settings {
                    // The first choice is the one that the seed makes where there are no others.
                    seed: match i {
                        0 => settings.seed,
                        i => nth_seed(settings.seed, i as u64),
                    },
                    ..settings.clone()
                },
            })
        };
        Ok(Asked {
            form,
            requests: prompts.into_iter().flat_map(of_prompt).collect(),
            n,
            delivery,
            has_logprobs,
        })
    }
}

/// Tokens of a continuation unless told otherwise, as OpenAI has it.
const USUAL_TOKENS: usize = 16;

/// Prompts as they may be given.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, a list of texts, of token ids, or of lists of these"
)]
enum Prompts {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// Number of choices, and the way to the client.
fn shape(fields: &mut Fields) -> Result<(usize, Delivery), ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct StreamOptions {
        #[serde(default)]
        include_usage: bool,
        // Padding against who listens in: none is made.
        #[serde(default, rename = "include_obfuscation")]
        _include_obfuscation: bool,
    }
    let n = fields.whole("n", 1..=MOST_CHOICES)?.unwrap_or(1);
    let is_streamed = fields.take("stream")?.unwrap_or(false);
    let options: Option<StreamOptions> = fields.take("stream_options")?;
    let delivery = match (is_streamed, options) {
        (false, Some(_)) => {
            let problem = "`stream_options` goes with `stream`";
            return Err(ApiError::invalid("stream_options", problem));
        }
        (false, None) => Delivery::Whole,
        (true, options) => Delivery::Stream {
            has_usage: options.unwrap_or_default().include_usage,
        },
    };
    Ok((n, delivery))
}

/// Choices of a request at most.
const MOST_CHOICES: u64 = 16;
