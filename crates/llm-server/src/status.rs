//! State of a server, for its page and for whoever waits for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use llm_engine::Stats;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;

use crate::site::{Served, Site};

/// The state as it is.
pub(crate) async fn status(State(site): State<Arc<Site>>) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(state(&site))).into_response()
}

/// The state as server-sent events: at once, and whenever it has changed, until the client or the server goes.
pub(crate) async fn events(State(site): State<Arc<Site>>) -> Response {
    let (sender, events) = channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = site.stop.asked() => {}
            () = sender.closed() => {}
            () = tell(&site, &sender) => {}
        }
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(Events(events))).into_response()
}

struct Events(Receiver<Bytes>);

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().0.poll_recv(cx).map(|event| event.map(Ok))
    }
}

/// Sends the state whenever it has changed, and a comment where it has not for long: who is gone is not noticed otherwise.
async fn tell(site: &Site, to: &Sender<Bytes>) {
    let (mut last, mut told) = (Value::Null, Instant::now());
    loop {
        let state = state(site);
        let event = match is_same(&state, &last) {
            false => Some(format!("data: {state}\n\n")),
            true => (told.elapsed() >= SILENCE).then(|| ":\n\n".to_owned()),
        };
        if let Some(event) = event {
            if to.send(event.into()).await.is_err() {
                return;
            }
            (last, told) = (state, Instant::now());
        }
        sleep(PERIOD).await;
    }
}

/// Time between two looks at the state.
const PERIOD: Duration = Duration::from_millis(250);

/// Time without an event at most.
const SILENCE: Duration = Duration::from_secs(15);

/// True where nothing has changed but the time, and nothing is about to.
fn is_same(state: &Value, last: &Value) -> bool {
    let without_time = |state: &Value| {
        let mut state = state.clone();
        if let Some(engine) = state["engine"].as_object_mut() {
            engine.remove("seconds");
        }
        state
    };
    let is_idle = state["engine"]["requests_running"].as_u64().unwrap_or(0) == 0;
    is_idle && without_time(state) == without_time(last)
}

fn state(site: &Site) -> Value {
    let (name, message, served, loading) = match site.served() {
        Ok(served) => ("ready", None, Some(served), None),
        Err(error) => {
            let (name, loading) = match site.is_open() {
                true => ("failed", None),
                false => ("loading", Some(site.loading.progress())),
            };
            (name, Some(error.message().to_owned()), None, loading)
        }
    };
    json!({
        "state": name,
        "message": message,
        "version": env!("CARGO_PKG_VERSION"),
        "loading": loading,
        "model": served.map(model),
        "memory": served.map(|served| &served.memory),
        "engine": served.map(|served| engine(&served.engine.stats(), site.since)),
    })
}

fn model(served: &Served) -> Value {
    let sampling = &served.settings.sampling;
    json!({
        "name": served.name,
        "context": served.context,
        // Without one, texts are continued.
        "has_chat_template": served.tokenizer.chat_template().is_some(),
        "defaults": {
            "temperature": decimal(sampling.temperature),
            "top_p": decimal(sampling.top_p),
        },
    })
}

/// The number as it was written: 0.95 and not the f32 next to it.
fn decimal(x: f32) -> Option<f64> {
    x.to_string().parse().ok()
}

/// What the engine is at.
fn engine(stats: &Stats, since: Instant) -> Value {
    json!({
        // What counts of tokens are to be held against.
        "seconds": since.elapsed().as_secs_f64(),
        "requests_running": stats.n_running,
        "requests_waiting": stats.n_waiting,
        "sequences": stats.n_sequences,
        "kv_positions_held": stats.n_held,
        "kv_positions": stats.n_positions,
        "passes": stats.n_passes,
        "tokens": stats.n_made_tokens,
        "prompt_tokens": stats.n_prompt_tokens,
        "prompt_tokens_cached": stats.n_shared_tokens,
    })
}
