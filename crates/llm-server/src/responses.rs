//! OpenAI's Responses API: text in and out, and nothing kept.

mod events;
mod request;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};

use self::events::Events;
use self::request::{Asked, asked};
use crate::answer::completion;
use crate::error::ApiError;
use crate::guard::object;
use crate::single;
use crate::site::Site;
use crate::work::{Answer, submit, work};

/// Paths of the Responses API.
pub(crate) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/v1/responses", post(create))
        .route("/v1/responses/{*id}", get(stored).delete(stored))
}

async fn create(State(site): State<Arc<Site>>, body: Body) -> Answer {
    site.served()?;
    let object = object(&site, body).await?;
    let asked = work(&site, move |served| asked(served, object));
    let Asked {
        request,
        is_streamed,
        echo,
    } = asked.await?;
    let mut events = Events::new(echo, request.settings.logprobs.is_some());
    let (mut handles, places) = submit(&site, vec![request])?;
    let mut handle = handles.pop().ok_or_else(ApiError::lost)?;
    if is_streamed {
        return Ok(single::respond(site, handle, events, places));
    }
    let tokenizer = &site.served()?.tokenizer;
    let completion = completion(&mut handle, |token| events.look(tokenizer, token)).await?;
    let response = events.whole(&completion)?;
    drop(places);
    Ok(Json(response).into_response())
}

async fn stored() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "this server keeps no responses")
}
