//! Answers as OpenAI's API writes them.

use llm_engine::{Completion, EndReason, Event, Handle, Logprobs, Token};
use llm_text::{SpecialText, Tokenizer};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::openai::Form;
use crate::site::Served;

/// What all parts of an answer begin with.
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) form: Form,
    /// Choices for each prompt.
    pub(crate) n: usize,
}

impl Head {
    /// An object of an answer, or of a part of it.
    pub(crate) fn object(&self, is_part: bool, choices: Vec<Value>) -> Value {
        let kind = match (self.form, is_part) {
            (Form::Chat, false) => "chat.completion",
            (Form::Chat, true) => "chat.completion.chunk",
            (Form::Text, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

/// Tokens of a request, as they are counted.
#[derive(Default)]
pub(crate) struct Usage {
    n_prompt: usize,
    n_shared: usize,
    n_completion: usize,
}

impl Usage {
    /// Counts the choice `index`, of `n` for each prompt: a prompt is counted once.
    pub(crate) fn add(&mut self, (index, n): (usize, usize), completion: &Completion) {
        if index.is_multiple_of(n) {
            self.n_prompt += completion.n_prompt_tokens;
            self.n_shared += completion.n_shared;
        }
        self.n_completion += completion.ids.len();
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_completion,
            "total_tokens": self.n_prompt + self.n_completion,
            "prompt_tokens_details": {"cached_tokens": self.n_shared},
        })
    }
}

/// `finish_reason` of an answer.
///
/// # Errors
/// When it was broken off.
pub(crate) fn finish_reason(end: EndReason) -> Result<&'static str, ApiError> {
    match end {
        EndReason::Eos | EndReason::Stop => Ok("stop"),
        EndReason::Length | EndReason::Context | EndReason::Time => Ok("length"),
        EndReason::Interrupted => Err(ApiError::ending()),
    }
}

/// The whole answer, once all of it is there.
///
/// # Errors
/// When a choice fails.
pub(crate) async fn whole(
    served: &Served,
    head: &Head,
    handles: Vec<Handle>,
    has_logprobs: bool,
) -> Result<Value, ApiError> {
    let (mut choices, mut usage) = (Vec::new(), Usage::default());
    for (index, mut handle) in handles.into_iter().enumerate() {
        let mut logprobs = LogprobsJson::new(head.form);
        let look = |token: &Token| logprobs.push(&served.tokenizer, token);
        let completion = completion(&mut handle, look).await?;
        usage.add((index, head.n), &completion);
        let mut choice = json!({
            "index": index,
            "finish_reason": finish_reason(completion.end)?,
            "logprobs": has_logprobs.then(|| logprobs.take()),
        });
        match head.form {
            Form::Chat => {
                choice["message"] =
                    json!({"role": "assistant", "content": completion.text, "refusal": null});
            }
            Form::Text => choice["text"] = completion.text.into(),
        }
        choices.push(choice);
    }
    let mut object = head.object(false, choices);
    object["usage"] = usage.json();
    Ok(object)
}

/// The end of an answer, whose tokens are looked at meanwhile.
///
/// # Errors
/// When it fails.
pub(crate) async fn completion(
    handle: &mut Handle,
    mut look: impl FnMut(&Token),
) -> Result<Completion, ApiError> {
    loop {
        match handle.next().await.ok_or_else(ApiError::lost)? {
            Event::Token(token) => look(&token),
            Event::Ended(completion) => return Ok(completion),
            Event::Failed(error) => return Err(ApiError::of_answer(&error)),
        }
    }
}

/// Log-probabilities that are not written yet.
pub(crate) struct LogprobsJson {
    form: Form,
    tokens: Vec<Value>,
    /// Of continuations: their log-probabilities, those of the most probable ones, and where each begins in the text.
    chosen: Vec<f32>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    offset: usize,
}

impl LogprobsJson {
    pub(crate) fn new(form: Form) -> Self {
        LogprobsJson {
            form,
            tokens: Vec::new(),
            chosen: Vec::new(),
            top: Vec::new(),
            offsets: Vec::new(),
            offset: 0,
        }
    }

    /// Takes those of a token, if there are any.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: &Token) {
        let Some(Logprobs { chosen, top }) = &token.logprobs else {
            return;
        };
        match self.form {
            Form::Chat => {
                let mut object = of_token(tokenizer, token.id, *chosen);
                let top = top.iter().map(|(id, x)| of_token(tokenizer, *id, *x));
                object["top_logprobs"] = top.collect();
                self.tokens.push(object);
            }
            Form::Text => {
                let top = top
                    .iter()
                    .map(|(id, x)| (spelling(tokenizer, *id), json!(x)));
                self.top.push(Value::Object(top.collect()));
                self.tokens.push(spelling(tokenizer, token.id).into());
                self.chosen.push(*chosen);
                self.offsets.push(self.offset);
                self.offset += token.text.chars().count();
            }
        }
    }

    /// Those that were taken, which are forgotten.
    pub(crate) fn take(&mut self) -> Value {
        let tokens = std::mem::take(&mut self.tokens);
        match self.form {
            Form::Chat => json!({"content": tokens, "refusal": null}),
            Form::Text => json!({
                "tokens": tokens,
                "token_logprobs": std::mem::take(&mut self.chosen),
                "top_logprobs": std::mem::take(&mut self.top),
                "text_offset": std::mem::take(&mut self.offsets),
            }),
        }
    }
}

fn of_token(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Value {
    let text = spelling(tokenizer, id);
    // Half a character has bytes that its text does not tell.
    let bytes = (!text.contains('\u{fffd}')).then(|| text.as_bytes().to_vec());
    json!({"token": text, "logprob": logprob, "bytes": bytes})
}

/// A token as text; empty where a padded vocabulary has an entry that is none.
fn spelling(tokenizer: &Tokenizer, id: u32) -> String {
    let text = tokenizer.decode(&[id], SpecialText::Keep);
    text.unwrap_or_default()
}
