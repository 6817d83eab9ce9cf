//! Answers piece by piece, as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use llm_engine::{Event, Handle};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::answer::{Head, LogprobsJson, Usage, finish_reason};
use crate::error::ApiError;
use crate::openai::Form;
use crate::site::{Served, Site};

/// An answer that is being written. Dropping it, as happens when its client goes away, cancels what it waits for.
struct Pieces {
    site: Arc<Site>,
    head: Head,
    choices: Vec<Choice>,
    /// The choice to look at first: none is to wait for another.
    turn: usize,
    usage: Usage,
    has_usage: bool,
    has_logprobs: bool,
    end: End,
    _places: OwnedSemaphorePermit,
}

struct Choice {
    /// None once its answer is over.
    handle: Option<Handle>,
    has_begun: bool,
    logprobs: LogprobsJson,
}

/// What is left to be said when all choices are over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Usage,
    Done,
    Nothing,
}

/// The response that hands out answers as they are made.
pub(crate) fn respond(
    site: Arc<Site>,
    head: Head,
    handles: Vec<Handle>,
    (has_usage, has_logprobs): (bool, bool),
    places: OwnedSemaphorePermit,
) -> Response {
    let choice = |handle| Choice {
        handle: Some(handle),
        has_begun: false,
        logprobs: LogprobsJson::new(head.form),
    };
    let pieces = Pieces {
        choices: handles.into_iter().map(choice).collect(),
        turn: 0,
        usage: Usage::default(),
        has_usage,
        has_logprobs,
        end: match has_usage {
            true => End::Usage,
            false => End::Done,
        },
        site,
        head,
        _places: places,
    };
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let n_choices = this.choices.len();
        let mut is_over = true;
        for i in (0..n_choices).map(|i| (this.turn + i) % n_choices) {
            let Some(handle) = &mut this.choices[i].handle else {
                continue;
            };
            is_over = false;
            let Poll::Ready(event) = handle.poll_next(cx) else {
                continue;
            };
            this.turn = (i + 1) % n_choices;
            if let Some(text) = this.piece(i, event) {
                return Poll::Ready(Some(Ok(text.into())));
            }
            // Nothing to be said yet: the next event may be there.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !is_over {
            return Poll::Pending;
        }
        let text = match this.end {
            End::Usage => {
                this.end = End::Done;
                let mut object = this.head.object(true, Vec::new());
                object["usage"] = this.usage.json();
                event(&object)
            }
            End::Done => {
                this.end = End::Nothing;
                "data: [DONE]\n\n".to_owned()
            }
            End::Nothing => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(text.into())))
    }
}

impl Pieces {
    /// What is to be written of an event of the choice `i`, if anything.
    fn piece(&mut self, i: usize, next: Option<Event>) -> Option<String> {
        let choice = &mut self.choices[i];
        let (text, end) = match next {
            None => return Some(self.fail(&ApiError::lost())),
            Some(Event::Failed(error)) => return Some(self.fail(&ApiError::of_answer(&error))),
            Some(Event::Token(token)) => {
                if let Ok(served) = self.site.served() {
                    push(served, choice, &token);
                }
                if token.text.is_empty() && !self.has_logprobs {
                    return None;
                }
                (token.text, None)
            }
            Some(Event::Ended(completion)) => {
                choice.handle = None;
                self.usage.add((i, self.head.n), &completion);
                match finish_reason(completion.end) {
                    Ok(end) => (completion.rest, Some(end)),
                    Err(error) => return Some(self.fail(&error)),
                }
            }
        };
        let choice = &mut self.choices[i];
        let mut object = json!({
            "index": i,
            "finish_reason": end,
            "logprobs": (self.has_logprobs && end.is_none()).then(|| choice.logprobs.take()),
        });
        match self.head.form {
            Form::Text => object["text"] = text.into(),
            Form::Chat => {
                let mut delta = serde_json::Map::new();
                if !choice.has_begun {
                    delta.insert("role".to_owned(), "assistant".into());
                }
                if !text.is_empty() || !choice.has_begun {
                    delta.insert("content".to_owned(), text.into());
                }
                object["delta"] = delta.into();
            }
        }
        choice.has_begun = true;
        let mut object = self.head.object(true, vec![object]);
        if self.has_usage {
            object["usage"] = Value::Null;
        }
        Some(event(&object))
    }

    /// Breaks off with an error: what is not over is cancelled.
    fn fail(&mut self, error: &ApiError) -> String {
        for choice in &mut self.choices {
            choice.handle = None;
        }
        self.end = End::Nothing;
        event(&error.body())
    }
}

fn push(served: &Served, choice: &mut Choice, token: &llm_engine::Token) {
    choice.logprobs.push(&served.tokenizer, token);
}

/// A server-sent event. JSON has no line breaks of its own: whatever a model writes ends no event.
fn event(object: &Value) -> String {
    format!("data: {object}\n\n")
}
