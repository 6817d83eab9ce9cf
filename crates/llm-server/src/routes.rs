//! What is answered under which path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use llm_engine::Busy;
use serde_json::{Value, json};

use crate::answer::{Head, whole};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::guard::{guard, object};
use crate::openai::{Asked, Delivery, Form, chat, check_model, completion, text_ids};
use crate::site::{Served, Site};
use crate::{metrics, page, status, stream};

/// All paths of a site.
pub(crate) fn router(site: &Arc<Site>) -> Router {
    Router::new()
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
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(site), guard))
        .with_state(Arc::clone(site))
}

type Answer = Result<Response, ApiError>;

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
    let places = site.places(requests.len())?;
    let served = site.served()?;
    let handles = served.engine.submit_all(requests);
    let handles = handles.map_err(|busy| match busy {
        Busy::Ended => ApiError::lost(),
        _ => ApiError::busy(),
    })?;
    let head = Head {
        id: id(form),
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

/// Does what takes a while where nobody waits behind it: texts may be long, and templates may compute.
async fn work<T: Send + 'static>(
    site: &Arc<Site>,
    work: impl FnOnce(&Served) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let site = Arc::clone(site);
    let done = tokio::task::spawn_blocking(move || work(site.served()?)).await;
    done.unwrap_or_else(|_| Err(ApiError::lost()))
}

async fn nothing() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is nothing under this path")
}

async fn wrong_method() -> ApiError {
    let message = "this path is not for this method";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Seconds since 1970.
fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.unwrap_or_default().as_secs()
}

/// A name for an answer, which no other of this server has.
fn id(form: Form) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let prefix = match form {
        Form::Chat => "chatcmpl",
        Form::Text => "cmpl",
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{count:x}", now())
}
