//! Answers of one choice, piece by piece, as an API other than OpenAI's older ones writes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use llm_engine::{Completion, Event, Handle, Token};
use llm_text::Tokenizer;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::site::Site;

/// The way in which an API writes an answer's pieces.
pub(crate) trait Writer: Send + Unpin + 'static {
    /// Content type of all of them.
    const KIND: &'static str;

    /// The first piece, before there is a token.
    fn begin(&mut self) -> String;

    /// The piece of a token, if it is worth one.
    fn token(&mut self, tokenizer: &Tokenizer, token: Token) -> Option<String>;

    /// The last piece.
    ///
    /// # Errors
    /// When the answer was broken off.
    fn end(&mut self, completion: Completion) -> Result<String, ApiError>;

    /// The last piece of an answer that failed.
    fn fail(&mut self, error: &ApiError) -> String;
}

/// The response that hands out an answer as it is made.
pub(crate) fn respond<W: Writer>(
    site: Arc<Site>,
    handle: Handle,
    mut writer: W,
    places: OwnedSemaphorePermit,
) -> Response {
    let begin = writer.begin();
    let headers = [(CONTENT_TYPE, W::KIND), (CACHE_CONTROL, "no-cache")];
    let pieces = Pieces {
        site,
        handle: Some(handle),
        begin: Some(begin).filter(|begin| !begin.is_empty()),
        writer,
        _places: places,
    };
    (headers, Body::from_stream(pieces)).into_response()
}

/// An answer that is being written. Dropping it, as happens when its client goes away, cancels what it waits for.
struct Pieces<W> {
    site: Arc<Site>,
    /// None once its answer is over.
    handle: Option<Handle>,
    /// None once it is written, or where there is none.
    begin: Option<String>,
    writer: W,
    _places: OwnedSemaphorePermit,
}

impl<W: Writer> Stream for Pieces<W> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(begin) = this.begin.take() {
            return Poll::Ready(Some(Ok(begin.into())));
        }
        // A channel gives way to others by itself, after so many events.
        while let Some(handle) = &mut this.handle {
            let event = ready!(handle.poll_next(cx));
            if let Some(piece) = this.piece(event) {
                return Poll::Ready(Some(Ok(piece.into())));
            }
        }
        Poll::Ready(None)
    }
}

impl<W: Writer> Pieces<W> {
    fn piece(&mut self, event: Option<Event>) -> Option<String> {
        let ended = match event {
            Some(Event::Token(token)) => match self.site.served() {
                Ok(served) => return self.writer.token(&served.tokenizer, token),
                Err(error) => Err(error),
            },
            Some(Event::Ended(completion)) => self.writer.end(completion),
            Some(Event::Failed(error)) => Err(ApiError::of_answer(&error)),
            None => Err(ApiError::lost()),
        };
        self.handle = None;
        Some(ended.unwrap_or_else(|error| self.writer.fail(&error)))
    }
}
