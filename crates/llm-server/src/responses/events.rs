//! Responses as they are written: events with numbers, each of which says what has become of what.

use llm_engine::{Completion, EndReason, Token};
use llm_text::Tokenizer;
use serde_json::{Map, Value, json};

use crate::answer::{LogprobsJson, finish_reason};
use crate::error::ApiError;
use crate::openai::Form;
use crate::single::Writer;
use crate::work::{name, now};

/// A response that is being made. Its one item is a message, whose one part is the text.
pub(crate) struct Events {
    id: String,
    item: String,
    created: u64,
    echo: Map<String, Value>,
    /// Events so far.
    n_events: usize,
    text: String,
    logprobs: Option<LogprobsJson>,
    /// Those of all tokens that were written.
    all_logprobs: Vec<Value>,
}

impl Events {
    pub(crate) fn new(echo: Map<String, Value>, has_logprobs: bool) -> Self {
        Events {
            id: name("resp_"),
            item: name("msg_"),
            created: now(),
            echo,
            n_events: 0,
            text: String::new(),
            logprobs: has_logprobs.then(|| LogprobsJson::new(Form::Chat)),
            all_logprobs: Vec::new(),
        }
    }

    /// Takes note of a token.
    pub(crate) fn look(&mut self, tokenizer: &Tokenizer, token: &Token) {
        self.text.push_str(&token.text);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.push(tokenizer, token);
        }
    }

    /// The response once it is over.
    ///
    /// # Errors
    /// When it was broken off.
    pub(crate) fn whole(&mut self, completion: &Completion) -> Result<Value, ApiError> {
        finish_reason(completion.end)?;
        self.text.clone_from(&completion.text);
        self.take_logprobs();
        let (n_prompt, n_new) = (completion.n_prompt_tokens, completion.ids.len());
        let status = status(completion.end);
        let mut response = self.response(status, vec![self.message(status)]);
        match status {
            "incomplete" => {
                response["incomplete_details"] = json!({"reason": "max_output_tokens"});
            }
            _ => response["completed_at"] = now().into(),
        }
        response["usage"] = json!({
            "input_tokens": n_prompt,
            "input_tokens_details": {"cached_tokens": completion.n_shared, "cache_write_tokens": 0},
            "output_tokens": n_new,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": n_prompt + n_new,
        });
        Ok(response)
    }

    fn response(&self, status: &str, output: Vec<Value>) -> Value {
        let mut response = Value::Object(self.echo.clone());
        response["id"] = self.id.as_str().into();
        response["object"] = "response".into();
        response["created_at"] = self.created.into();
        response["status"] = status.into();
        response["output"] = output.into();
        response["error"] = Value::Null;
        response["incomplete_details"] = Value::Null;
        response["usage"] = Value::Null;
        response
    }

    fn message(&self, status: &str) -> Value {
        let content = match status {
            "in_progress" => Vec::new(),
            _ => vec![self.part()],
        };
        json!({
            "id": self.item,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        })
    }

    /// The text as far as it is written.
    fn part(&self) -> Value {
        json!({
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.all_logprobs,
        })
    }

    /// Log-probabilities that are not written yet.
    fn take_logprobs(&mut self) -> Value {
        let Some(logprobs) = &mut self.logprobs else {
            return json!([]);
        };
        let new = logprobs.take()["content"].take();
        self.all_logprobs
            .extend(new.as_array().into_iter().flatten().cloned());
        new
    }

    fn delta(&mut self, text: &str) -> String {
        let logprobs = self.take_logprobs();
        self.of_text(
            "response.output_text.delta",
            json!({"delta": text, "logprobs": logprobs}),
        )
    }

    /// An event of the text.
    fn of_text(&mut self, kind: &str, mut event: Value) -> String {
        event["item_id"] = self.item.as_str().into();
        event["content_index"] = 0.into();
        self.of_item(kind, event)
    }

    /// An event of the message.
    fn of_item(&mut self, kind: &str, mut event: Value) -> String {
        event["output_index"] = 0.into();
        self.event(kind, event)
    }

    fn event(&mut self, kind: &str, mut event: Value) -> String {
        event["type"] = kind.into();
        event["sequence_number"] = self.n_events.into();
        self.n_events += 1;
        // JSON has no line breaks of its own: whatever a model writes ends no event.
        format!("event: {kind}\ndata: {event}\n\n")
    }
}

impl Writer for Events {
    const KIND: &'static str = "text/event-stream; charset=utf-8";

    fn begin(&mut self) -> String {
        let response = self.response("in_progress", Vec::new());
        let created = self.event("response.created", json!({"response": response}));
        let begun = self.event("response.in_progress", json!({"response": response}));
        let item = self.message("in_progress");
        let item = self.of_item("response.output_item.added", json!({"item": item}));
        let part = self.part();
        let part = self.of_text("response.content_part.added", json!({"part": part}));
        created + &begun + &item + &part
    }

    fn token(&mut self, tokenizer: &Tokenizer, token: Token) -> Option<String> {
        self.look(tokenizer, &token);
        let is_worth = !token.text.is_empty() || self.logprobs.is_some();
        is_worth.then(|| self.delta(&token.text))
    }

    fn end(&mut self, completion: Completion) -> Result<String, ApiError> {
        finish_reason(completion.end)?;
        let rest = match completion.rest.is_empty() {
            true => String::new(),
            false => self.delta(&completion.rest),
        };
        let response = self.whole(&completion)?;
        let text = json!({"text": self.text, "logprobs": self.all_logprobs});
        let text = self.of_text("response.output_text.done", text);
        let part = self.part();
        let part = self.of_text("response.content_part.done", json!({"part": part}));
        let status = status(completion.end);
        let item = self.message(status);
        let item = self.of_item("response.output_item.done", json!({"item": item}));
        let end = self.event(&format!("response.{status}"), json!({"response": response}));
        Ok(rest + &text + &part + &item + &end)
    }

    fn fail(&mut self, error: &ApiError) -> String {
        let message = self.message("incomplete");
        let mut response = self.response("failed", vec![message]);
        response["error"] = json!({"code": "server_error", "message": error.message()});
        self.event("response.failed", json!({"response": response}))
    }
}

fn status(end: EndReason) -> &'static str {
    match end {
        EndReason::Eos | EndReason::Stop => "completed",
        EndReason::Length | EndReason::Context | EndReason::Time | EndReason::Interrupted => {
            "incomplete"
        }
    }
}
