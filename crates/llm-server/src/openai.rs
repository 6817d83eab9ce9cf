//! Requests of OpenAI's API, as requests of the engine.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use llm_engine::{Length, Request, Settings, nth_seed};
use llm_text::{Conversation, GenerationPrompt, Message, SpecialTokens, TextError, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::Fields;
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
    let n_top = match (
        fields.take("logprobs")?.unwrap_or(false),
        fields.whole("top_logprobs", 0..=20)?,
    ) {
        (false, Some(1..)) => {
            let problem = "`top_logprobs` goes with `logprobs`";
            return Err(ApiError::invalid("top_logprobs", problem));
        }
        (false, _) => None,
        (true, n_top) => Some(n_top.unwrap_or(0)),
    };
    // The older name of the same.
    let older = fields.whole("max_tokens", 1..=MOST_TOKENS)?;
    let n_new = fields.whole("max_completion_tokens", 1..=MOST_TOKENS)?;
    let settings = settings(served, &mut fields, n_new.or(older), n_top)?;
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
    let settings = settings(served, &mut fields, Some(n_new), n_top)?;
    let shape = shape(&mut fields)?;
    check_model(served, &mut fields)?;
    fields.end()?;
    Asked::new(served, Form::Text, prompts, settings, shape)
}

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

/// Tokens of an answer at most: more than any context has.
const MOST_TOKENS: u64 = u32::MAX as u64;

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

/// Settings of an answer of up to `n_new` tokens with the log-probabilities of `n_top`.
fn settings(
    served: &Served,
    fields: &mut Fields,
    n_new: Option<usize>,
    n_top: Option<usize>,
) -> Result<Settings, ApiError> {
    let mut settings = served.settings.clone();
    let temperature = fields.number("temperature", (|x| (0.0..=2.0).contains(&x), "0 to 2"))?;
    let share = |x| x > 0.0 && x <= 1.0;
    let top_p = fields.number("top_p", (share, "above 0, up to 1"))?;
    let top_k = fields.whole("top_k", 0..=u64::from(u32::MAX))?;
    let min_p = fields.number("min_p", (|x| (0.0..=1.0).contains(&x), "0 to 1"))?;
    let sampling = &mut settings.sampling;
    let has_filter = top_p.is_some() || top_k.is_some() || min_p.is_some();
    match temperature {
        Some(temperature) => sampling.temperature = temperature,
        // Who chooses among several has them chosen from.
        None if has_filter && sampling.temperature == 0.0 => sampling.temperature = 1.0,
        None => {}
    }
    sampling.top_p = top_p.unwrap_or(sampling.top_p);
    sampling.top_k = top_k.unwrap_or(sampling.top_k);
    sampling.min_p = min_p.unwrap_or(sampling.min_p);
    let rules = &mut settings.rules;
    let penalty: (fn(f64) -> bool, _) = (|x| (-2.0..=2.0).contains(&x), "-2 to 2");
    if let Some(penalty) = fields.number("presence_penalty", penalty)? {
        rules.presence_penalty = penalty;
    }
    if let Some(penalty) = fields.number("frequency_penalty", penalty)? {
        rules.frequency_penalty = penalty;
    }
    if let Some(penalty) = fields.number("repetition_penalty", (|x| x > 0.0, "above 0"))? {
        rules.repetition_penalty = penalty;
    }
    let biases: Option<BTreeMap<String, f64>> = fields.take("logit_bias")?;
    for (id, bias) in biases.unwrap_or_default() {
        let known = id
            .parse()
            .ok()
            .filter(|&id: &u32| (id as usize) < served.vocab);
        let (Some(id), true) = (known, (-100.0..=100.0).contains(&bias)) else {
            let problem =
                format!("`logit_bias`: {id:?} with {bias}; expected a token id with -100 to 100");
            return Err(ApiError::invalid("logit_bias", problem));
        };
        rules.sequence_bias.push((vec![id], bias as f32));
    }
    if fields.take("ignore_eos")?.unwrap_or(false) {
        rules.eos_ids.clear();
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    match fields.take("stop")? {
        Some(Stop::One(stop)) => settings.stop = vec![stop],
        Some(Stop::Many(stops)) => settings.stop = stops,
        None => {}
    }
    let is_odd = |stop: &String| stop.is_empty() || stop.len() > LONGEST_STOP;
    if settings.stop.len() > MOST_STOPS || settings.stop.iter().any(is_odd) {
        let problem = format!("`stop` takes up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} bytes");
        return Err(ApiError::invalid("stop", problem));
    }
    // Any whole number, negative ones too, as the client writes it.
    let seed: Option<i64> = fields.take("seed")?;
    settings.seed = seed.map_or_else(|| RandomState::new().hash_one(0), i64::cast_unsigned);
    if let Some(n_new) = n_new {
        settings.length = Length::New(n_new);
    }
    settings.logprobs = n_top;
    Ok(settings)
}

/// Stop strings of a request at most,
const MOST_STOPS: usize = 16;
/// and bytes of each: the text is searched for them with every token.
const LONGEST_STOP: usize = 256;

/// A message as templates know it: parts of text are one text.
fn message(mut fields: Map<String, Value>) -> Result<Message, ApiError> {
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

fn chat_ids(tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Vec<u32>, ApiError> {
    let template = tokenizer.chat_template().ok_or_else(|| {
        let problem = "the model has no chat template; use /v1/completions, or an instruct model";
        ApiError::invalid("messages", problem)
    })?;
    let wrong = |error: TextError| ApiError::invalid("messages", error.to_string());
    let text = template.render(conversation, GenerationPrompt::Add);
    let ids = tokenizer.encode(&text.map_err(wrong)?, SpecialTokens::AsIs);
    ids.map_err(wrong)
}
