//! What requests have in common, whatever API they speak.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::response::Response;
use llm_engine::{Busy, Handle, Request};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::ApiError;
use crate::site::{Served, Site};

/// What a request is answered with.
pub(crate) type Answer = Result<Response, ApiError>;

/// Does what takes a while where nobody waits behind it: texts may be long, and templates may compute.
///
/// # Errors
/// Those of the work.
pub(crate) async fn work<T: Send + 'static>(
    site: &Arc<Site>,
    work: impl FnOnce(&Served) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let site = Arc::clone(site);
    let done = tokio::task::spawn_blocking(move || work(site.served()?)).await;
    done.unwrap_or_else(|_| Err(ApiError::lost()))
}

/// Hands requests to the engine, all or none, with the places that they take.
///
/// # Errors
/// When too many are answered or wait already.
pub(crate) fn submit(
    site: &Site,
    requests: Vec<Request>,
) -> Result<(Vec<Handle>, OwnedSemaphorePermit), ApiError> {
    let places = site.places(requests.len())?;
    let handles = site.served()?.engine.submit_all(requests);
    let handles = handles.map_err(|busy| match busy {
        Busy::Ended => ApiError::lost(),
        _ => ApiError::busy(),
    })?;
    Ok((handles, places))
}

/// A name for an answer, which no other of this server has.
pub(crate) fn name(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}{:x}-{count:x}", now())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.unwrap_or_default().as_secs()
}
