//! What is answered under which path.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};

use crate::answer::{Head, whole};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::guard::{guard, object};
use crate::openai::{Asked, Delivery, Form, chat, check_model, completion};
use crate::prompt::text_ids;
use crate::site::{Served, Site};
use crate::work::{Answer, name, now, submit, work};
use crate::{metrics, ollama, page, responses, status, stream};

/// All paths of a site.
pub(crate) fn router(site: &Arc<Site>) -> Router {
    Router::new()
        .merge(ollama::routes())
        .merge(responses::routes())
        .route("/", get(page::root))
        .route("/page/{name}", get(page::file))
        .route("/status", get(status::status))
        .route("/status/events", get(status::events))
        .route("/health", get(health))
        .route("/metrics", get(counts))
        .route("/tokenize", post(tokenize))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(site), guard))
        .layer(middleware::from_fn(ollama::errors))
        .with_state(Arc::clone(site))
}

async fn health(State(site): State<Arc<Site>>) -> Answer {
    site.served()?;
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn counts(State(site): State<Arc<Site>>) -> Answer {
    let stats = site.served()?.engine.stats();
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, metrics::text(&stats)).into_response())
}

async fn models(State(site): State<Arc<Site>>) -> Answer {
    let served = site.served()?;
    let list = json!({"object": "list", "data": [about(served)]});
    Ok(Json(list).into_response())
}

async fn model(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Answer {
    let served = site.served()?;
    match name == served.name {
        true => Ok(Json(about(served)).into_response()),
        false => Err(ApiError::no_model(&name, &served.name)),
    }
}

fn about(served: &Served) -> Value {
    json!({
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llm-run",
        "max_model_len": served.context,
    })
}

async fn tokenize(State(site): State<Arc<Site>>, body: Body) -> Answer {
    site.served()?;
    let object = object(&site, body).await?;
    let ids = work(&site, move |served| {
        let mut fields = Fields::new(object);
        // Of a text on its own, and of one as a prompt.
        let text: Option<String> = fields.take("prompt")?;
        let text = match text {
            Some(text) => text,
            None => fields.need("content")?,
        };
        check_model(served, &mut fields)?;
        fields.end()?;
        text_ids(&served.tokenizer, &text)
    });
    let ids = ids.await?;
    let served = site.served()?;
    let count = json!({"count": ids.len(), "max_model_len": served.context, "tokens": ids});
    Ok(Json(count).into_response())
}

async fn chat_completions(State(site): State<Arc<Site>>, body: Body) -> Answer {
    answer(site, body, Form::Chat).await
}

async fn completions(State(site): State<Arc<Site>>, body: Body) -> Answer {
    answer(site, body, Form::Text).await
}

async fn answer(site: Arc<Site>, body: Body, form: Form) -> Answer {
    site.served()?;
    let object = object(&site, body).await?;
    let asked = work(&site, move |served| match form {
        Form::Chat => chat(served, object),
        Form::Text => completion(served, object),
    });
    let Asked {
        form,
        requests,
        n,
        delivery,
        has_logprobs,
    } = asked.await?;
    let (handles, places) = submit(&site, requests)?;
    let served = site.served()?;
    let head = Head {
        id: name(match form {
            Form::Chat => "chatcmpl-",
            Form::Text => "cmpl-",
        }),
        created: now(),
        model: served.name.clone(),
        form,
        n,
    };
    match delivery {
        Delivery::Whole => {
            let object = whole(served, &head, handles, has_logprobs).await?;
            drop(places);
            Ok(Json(object).into_response())
        }
        Delivery::Stream { has_usage } => {
            let site = Arc::clone(&site);
            let has = (has_usage, has_logprobs);
            Ok(stream::respond(site, head, handles, has, places))
        }
    }
}

async fn embeddings() -> ApiError {
    let message = "this server makes no embeddings";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, message)
}

async fn nothing() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is nothing under this path")
}

async fn wrong_method() -> ApiError {
    let message = "this path is not for this method";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
