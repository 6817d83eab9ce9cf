//! Requests of Ollama's API, as requests of the engine.

use axum::http::StatusCode;
use llm_engine::{Request, Settings};
use llm_text::{Conversation, Message, Role};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::format::json_or_schema;
use crate::prompt::{chat_ids, check_prompt, message, text_ids};
use crate::settings::{MOST_TOKENS, settings, top_logprobs};
use crate::site::Served;

/// Form of an answer; exhaustive, as each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The answer to a prompt.
    Generate,
    /// A message of a conversation.
    Chat,
}

/// What a client asks for.
pub(crate) struct Asked {
    /// The model as the client calls it.
    pub(crate) model: String,
    /// Nothing where the model is only to be loaded, which it is.
    pub(crate) request: Option<Request>,
    pub(crate) is_streamed: bool,
}

/// A request for the answer to a prompt.
///
/// # Errors
/// When it is not as it should be, or asks for what is not done here.
pub(crate) fn generate(served: &Served, object: Map<String, Value>) -> Result<Asked, ApiError> {
    let mut fields = Fields::new(object);
    let common = Common::take(served, &mut fields)?;
    let prompt: Option<String> = fields.take("prompt")?;
    let system: Option<String> = fields.take("system")?;
    let system = system.filter(|system| !system.is_empty());
    let is_raw = fields.take("raw")?.unwrap_or(false);
    common.end(served, fields, |conversation| {
        let Some(prompt) = prompt.filter(|prompt| !prompt.is_empty()) else {
            return Ok(None);
        };
        let has_template = served.tokenizer.chat_template().is_some();
        if is_raw && system.is_some() {
            return Err(ApiError::invalid(
                "system",
                "`system` and `raw` exclude each other",
            ));
        }
        if is_raw || (!has_template && system.is_none()) {
            return text_ids(&served.tokenizer, &prompt).map(Some);
        }
        let turns = [(Role::System, system), (Role::User, Some(prompt))];
        let turns = turns.into_iter();
        conversation.messages = turns
            .filter_map(|(role, text)| Some(Message::new(role, text?)))
            .collect();
        chat_ids(&served.tokenizer, conversation).map(Some)
    })
}

/// A request for a message.
///
/// # Errors
/// As [`generate`].
pub(crate) fn chat(served: &Served, object: Map<String, Value>) -> Result<Asked, ApiError> {
    let mut fields = Fields::new(object);
    let common = Common::take(served, &mut fields)?;
    let messages: Option<Vec<Map<String, Value>>> = fields.take("messages")?;
    common.end(served, fields, |conversation| {
        let messages = messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(None);
        }
        let messages = messages.into_iter().map(|mut fields| {
            let images = fields.remove("images");
            match images.as_ref().and_then(Value::as_array) {
                Some(images) if !images.is_empty() => Err(ApiError::unsupported("images")),
                Some(_) | None => message(fields),
            }
        });
        conversation.messages = messages.collect::<Result<_, _>>()?;
        chat_ids(&served.tokenizer, conversation).map(Some)
    })
}

/// Refuses another model's name than that of this one, with a tag or without.
///
/// # Errors
/// When it is another's, or there is none.
pub(crate) fn model_name(served: &Served, fields: &mut Fields) -> Result<String, ApiError> {
    // The older name of the same.
    let older: Option<String> = fields.take("name")?;
    let name: Option<String> = fields.take("model")?;
    let missing = || ApiError::invalid("model", "`model` is missing");
    let name = name.or(older).ok_or_else(missing)?;
    if name == served.name || name == with_tag(&served.name) {
        return Ok(name);
    }
    let message = format!(
        "model '{name}' not found; this server has '{}'",
        served.name
    );
    Err(ApiError::new(StatusCode::NOT_FOUND, message))
}

/// A name as Ollama lists it: one without a tag has the usual one.
pub(crate) fn with_tag(name: &str) -> String {
    match name.contains(':') {
        true => name.to_owned(),
        false => format!("{name}:latest"),
    }
}

/// What all requests may say.
struct Common {
    model: String,
    settings: Settings,
    is_streamed: bool,
    variables: Map<String, Value>,
    /// True where the model is to be given up once nothing else is asked for.
    is_unloading: bool,
}

impl Common {
    fn take(served: &Served, fields: &mut Fields) -> Result<Self, ApiError> {
        let model = model_name(served, fields)?;
        let n_top = top_logprobs(fields)?;
        let options: Map<String, Value> = fields.take("options")?.unwrap_or_default();
        let mut variables = Map::new();
        match fields.take::<Value>("think")? {
            None => {}
            // What templates of models that reason call it.
            Some(Value::Bool(false)) => {
                variables.insert("enable_thinking".to_owned(), false.into());
            }
            Some(_) => {
                let problem = "`think`: what a model thinks is not told from its answer here; it is part of the text";
                return Err(ApiError::invalid("think", problem));
            }
        }
        let keep_alive: Option<Value> = fields.take("keep_alive")?;
        let mut settings = options_as_settings(served, Fields::new(options), n_top)?;
        json_or_schema(fields)?.hold(served, &mut settings, "format")?;
        Ok(Common {
            settings,
            model,
            is_streamed: fields.take("stream")?.unwrap_or(true),
            variables,
            is_unloading: keep_alive.is_some_and(|time| time == 0 || time == "0" || time == "0s"),
        })
    }

    /// The request, once nothing is left of it but its prompt.
    fn end(
        self,
        served: &Served,
        fields: Fields,
        prompt: impl FnOnce(&mut Conversation) -> Result<Option<Vec<u32>>, ApiError>,
    ) -> Result<Asked, ApiError> {
        fields.end_but(&OF_NO_EFFECT, &NEUTRAL)?;
        let mut conversation = Conversation {
            variables: self.variables,
            ..Conversation::default()
        };
        let prompt = prompt(&mut conversation)?;
        match &prompt {
            Some(prompt) => check_prompt(served, prompt)?,
            None if self.is_unloading => {
                let problem = "`keep_alive`: the model stays as long as this server runs";
                return Err(ApiError::invalid("keep_alive", problem));
            }
            None => {}
        }
        Ok(Asked {
            model: self.model,
            request: prompt.map(|prompt| Request {
                prompt,
                settings: self.settings,
            }),
            is_streamed: self.is_streamed,
        })
    }
}

/// Settings by Ollama's names for them.
fn options_as_settings(
    served: &Served,
    mut options: Fields,
    n_top: Option<usize>,
) -> Result<Settings, ApiError> {
    // 0 and what is below mean as many as there is room for.
    let n_new: Option<i64> = options.take("num_predict")?;
    let n_new = n_new
        .filter(|n| *n > 0)
        .map(|n| n.cast_unsigned().min(MOST_TOKENS) as usize);
    if let Some(n) = options.whole("num_ctx", 1..=MOST_TOKENS)?
        && n > served.context
    {
        let most = served.context;
        let problem = format!(
            "`num_ctx` is {n}, and this server's context {most}; start it with --context {n}"
        );
        return Err(ApiError::invalid("num_ctx", problem));
    }
    let penalty = options.number("repeat_penalty", (|x| x > 0.0, "above 0"))?;
    let penalty = match options.take::<i64>("repeat_last_n")? {
        None | Some(-1) => penalty,
        Some(0) => Some(1.0),
        Some(n) => {
            let problem =
                format!("`repeat_last_n` is {n}; expected -1, for all tokens, or 0, for none");
            return Err(ApiError::invalid("repeat_last_n", problem));
        }
    };
    let share = |x| x > 0.0 && x <= 1.0;
    let typical_p = options.number("typical_p", (share, "above 0, up to 1"))?;
    let seed: Option<i64> = options.take("seed")?;
    let mut settings = settings(served, &mut options, n_new, n_top)?;
    options.end_but(&OF_MACHINES, &NEUTRAL_OPTIONS)?;
    settings.rules.repetition_penalty = penalty.unwrap_or(settings.rules.repetition_penalty);
    settings.sampling.typical_p = typical_p.unwrap_or(settings.sampling.typical_p);
    // -1 is none, and one by chance is there already.
    if let Some(seed) = seed.filter(|seed| *seed != -1) {
        settings.seed = seed.cast_unsigned();
    }
    Ok(settings)
}

/// Fields that change no answer here: a prompt that is too long is refused, whatever they say.
const OF_NO_EFFECT: [&str; 1] = ["truncate"];

/// Fields of which one value, as JSON, is what is done anyway.
const NEUTRAL: [(&str, &str); 3] = [
    ("suffix", r#""""#),
    ("template", r#""""#),
    ("shift", "false"),
];

/// Options that say where and how fast an answer is computed, or what of a prompt stays that is never cut here.
const OF_MACHINES: [&str; 15] = [
    "numa",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "embedding_only",
    "num_thread",
    "num_keep",
    // Of `mirostat`, which is refused.
    "mirostat_tau",
    "mirostat_eta",
];

/// Options of which one value, as JSON, is what is done anyway.
const NEUTRAL_OPTIONS: [(&str, &str); 4] = [
    ("mirostat", "0"),
    ("tfs_z", "1"),
    ("tfs_z", "1.0"),
    ("penalize_newline", "true"),
];
