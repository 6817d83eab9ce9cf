//! Ollama's API on the same engine, as far as it is about the model that is served.

mod about;
mod lines;
mod request;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use self::lines::Lines;
use self::request::{Asked, Form, chat, generate};
use crate::answer::completion;
use crate::error::{ApiError, Told};
use crate::guard::object;
use crate::single;
use crate::site::Site;
use crate::work::{Answer, submit, work};

/// Paths of Ollama's API.
pub(crate) fn routes() -> Router<Arc<Site>> {
    Router::new()
        .route("/api/generate", post(generations))
        .route("/api/chat", post(chats))
        .route("/api/tags", get(about::tags))
        .route("/api/show", post(about::show))
        .route("/api/ps", get(about::running))
        .route("/api/version", get(about::version))
        .route("/api/embed", post(no_embeddings))
        .route("/api/embeddings", post(no_embeddings))
        .route("/api/pull", post(one_model))
        .route("/api/push", post(one_model))
        .route("/api/create", post(one_model))
        .route("/api/copy", post(one_model))
        .route("/api/delete", axum::routing::delete(one_model))
}

/// Writes errors under Ollama's paths as its clients expect them: a text, not an object.
pub(crate) async fn errors(request: Request, next: Next) -> Response {
    let is_ours = request.uri().path().starts_with("/api/");
    let mut response = next.run(request).await;
    if is_ours && let Some(Told(message)) = response.extensions_mut().remove() {
        *response.body_mut() = Body::from(json!({"error": message}).to_string());
    }
    response
}

async fn generations(State(site): State<Arc<Site>>, body: Body) -> Answer {
    answer(site, body, Form::Generate).await
}

async fn chats(State(site): State<Arc<Site>>, body: Body) -> Answer {
    answer(site, body, Form::Chat).await
}

async fn answer(site: Arc<Site>, body: Body, form: Form) -> Answer {
    let begin = Instant::now();
    site.served()?;
    let object = object(&site, body).await?;
    let asked = work(&site, move |served| match form {
        Form::Generate => generate(served, object),
        Form::Chat => chat(served, object),
    });
    let Asked {
        model,
        request,
        is_streamed,
    } = asked.await?;
    let Some(request) = request else {
        return Ok(Json(Lines::loaded(form, &model)).into_response());
    };
    let has_logprobs = request.settings.logprobs.is_some();
    let mut lines = Lines::new(form, model, begin, has_logprobs);
    let (mut handles, places) = submit(&site, vec![request])?;
    let mut handle = handles.pop().ok_or_else(ApiError::lost)?;
    if is_streamed {
        return Ok(single::respond(site, handle, lines, places));
    }
    let tokenizer = &site.served()?.tokenizer;
    let completion = completion(&mut handle, |token| lines.look(tokenizer, token)).await?;
    let body = lines.whole(&completion)?.to_string();
    drop(places);
    Ok(([(CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response())
}

async fn no_embeddings() -> ApiError {
    let message = "this server makes no embeddings";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, message)
}

async fn one_model() -> ApiError {
    let message = "this server has the one model that it was started with; `llm-run pull` and `llm-run remove` bring and remove others";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, message)
}
