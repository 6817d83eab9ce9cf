//! Answers as Ollama's API writes them: an object a line.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use llm_engine::{Completion, Token};
use llm_text::Tokenizer;
use serde_json::{Value, json};

use super::request::Form;
use crate::answer::{LogprobsJson, finish_reason};
use crate::error::ApiError;
use crate::openai;
use crate::single::Writer;

/// An answer and its times.
pub(crate) struct Lines {
    form: Form,
    model: String,
    /// When it was asked for.
    begin: Instant,
    /// When its first token was there.
    first: Option<Instant>,
    logprobs: Option<LogprobsJson>,
}

impl Lines {
    pub(crate) fn new(form: Form, model: String, begin: Instant, has_logprobs: bool) -> Self {
        Lines {
            form,
            model,
            begin,
            first: None,
            logprobs: has_logprobs.then(|| LogprobsJson::new(openai::Form::Chat)),
        }
    }

    /// What is said where the model was only to be loaded.
    pub(crate) fn loaded(form: Form, model: &str) -> Value {
        let mut object = object(form, model, "");
        object["done"] = true.into();
        object["done_reason"] = "load".into();
        object
    }

    /// Takes note of a token.
    pub(crate) fn look(&mut self, tokenizer: &Tokenizer, token: &Token) {
        self.first.get_or_insert_with(Instant::now);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.push(tokenizer, token);
        }
    }

    /// The answer as one object.
    ///
    /// # Errors
    /// When it was broken off.
    pub(crate) fn whole(&mut self, completion: &Completion) -> Result<Value, ApiError> {
        let mut object = self.part(&completion.text);
        self.finish(&mut object, completion)?;
        Ok(object)
    }

    fn part(&mut self, text: &str) -> Value {
        let mut object = object(self.form, &self.model, text);
        if let Some(logprobs) = &mut self.logprobs {
            object["logprobs"] = logprobs.take()["content"].take();
        }
        object
    }

    /// Adds the end, with counts and times.
    fn finish(&self, object: &mut Value, completion: &Completion) -> Result<(), ApiError> {
        let end = Instant::now();
        let first = self.first.unwrap_or(end);
        object["done"] = true.into();
        object["done_reason"] = finish_reason(completion.end)?.into();
        object["total_duration"] = nanoseconds(end - self.begin);
        // The model was loaded before anybody asked.
        object["load_duration"] = 0.into();
        object["prompt_eval_count"] = completion.n_prompt_tokens.into();
        object["prompt_eval_duration"] = nanoseconds(first - self.begin);
        object["eval_count"] = completion.ids.len().into();
        object["eval_duration"] = nanoseconds(end - first);
        Ok(())
    }
}

impl Writer for Lines {
    const KIND: &'static str = "application/x-ndjson";

    fn begin(&mut self) -> String {
        String::new()
    }

    fn token(&mut self, tokenizer: &Tokenizer, token: Token) -> Option<String> {
        self.look(tokenizer, &token);
        let is_worth = !token.text.is_empty() || self.logprobs.is_some();
        is_worth.then(|| line(&self.part(&token.text)))
    }

    fn end(&mut self, completion: Completion) -> Result<String, ApiError> {
        let rest = match completion.rest.is_empty() {
            true => String::new(),
            false => line(&object(self.form, &self.model, &completion.rest)),
        };
        let mut last = object(self.form, &self.model, "");
        self.finish(&mut last, &completion)?;
        Ok(rest + &line(&last))
    }

    fn fail(&mut self, error: &ApiError) -> String {
        line(&json!({"error": error.message()}))
    }
}

fn object(form: Form, model: &str, text: &str) -> Value {
    let mut object = json!({
        "model": model,
        "created_at": Timestamp::now().to_string(),
        "done": false,
    });
    match form {
        Form::Generate => object["response"] = text.into(),
        Form::Chat => object["message"] = json!({"role": "assistant", "content": text}),
    }
    object
}

/// A time of which clients make tokens a second: never 0.
fn nanoseconds(time: Duration) -> Value {
    u64::try_from(time.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
        .into()
}

/// An object's line. JSON has no line breaks of its own.
fn line(object: &Value) -> String {
    format!("{object}\n")
}
