//! What is looked at before a request is read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::site::{Lock, Site};

/// Lets pass whoever has the key. Without one, lets pass what no web page can have sent: a page of any site may send to this
/// machine, but not in JSON, and not to `localhost` under a name of its own.
pub(crate) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let problem = match &site.lock {
        _ if request.uri().path() == "/health" => None,
        Lock::Key(key) => (!has_key(headers, key)).then(wrong_key),
        Lock::Local => (!is_local(headers)).then(|| {
            let message =
                "without a key, requests have to name localhost or an address as their host";
            ApiError::new(StatusCode::FORBIDDEN, message)
        }),
        Lock::Anyone => None,
    };
    let problem = problem.or_else(|| {
        let is_wrong = request.method() == Method::POST && !is_json(headers);
        let message = "the content type has to be application/json";
        is_wrong.then(|| ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
    });
    match problem {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    }
}

fn wrong_key() -> ApiError {
    let message = "give the server's key as `Authorization: Bearer KEY`";
    ApiError::new(StatusCode::UNAUTHORIZED, message)
}

fn has_key(headers: &HeaderMap, key: &blake3::Hash) -> bool {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| value.split_at_checked(BEARER.len()));
    // Hashes are compared in constant time.
    given.is_some_and(|(scheme, given)| {
        scheme.eq_ignore_ascii_case(BEARER) && blake3::hash(given.trim_ascii()) == *key
    })
}

const BEARER: &[u8] = b"Bearer ";

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// True where the host is one that no name server has a say in.
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        // HTTP/1.0: no browser.
        return true;
    };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// The object that a request's body is.
///
/// # Errors
/// When it is none, is too large or does not come.
pub(crate) async fn object(site: &Site, body: Body) -> Result<Map<String, Value>, ApiError> {
    let read = async {
        let turn = site.bodies.acquire().await;
        let bytes = bytes(body).await;
        drop(turn);
        bytes
    };
    let bytes = tokio::time::timeout(BODY_TIME, read).await;
    let late = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let bytes = bytes.map_err(late)??;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("the body is no JSON object: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, message)
    })
}

async fn bytes(mut body: Body) -> Result<Vec<u8>, ApiError> {
    let (mut all, mut n_bytes) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let broken = |_| ApiError::new(StatusCode::BAD_REQUEST, "the body breaks off");
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        n_bytes += data.len();
        // Who is still sending hears no answer: some more is read, and not kept.
        if n_bytes <= MOST_BYTES {
            all.extend_from_slice(&data);
        } else if n_bytes <= MOST_PASSED_OVER {
            all = Vec::new();
        } else {
            break;
        }
    }
    if n_bytes > MOST_BYTES {
        let message = format!("the body is larger than {MOST_BYTES} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(all)
}

/// Bytes of the largest body.
const MOST_BYTES: usize = 4 << 20;

/// Bytes of a larger one that are read nevertheless.
const MOST_PASSED_OVER: usize = 64 << 20;

/// Time within which a body has to come.
const BODY_TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_a_name_server_answers_for_are_not_local() {
        let is_local = |host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            is_local(&headers)
        };
        for host in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1:80",
            "[::1]:8080",
            "10.0.0.2",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com:8080",
            "127.0.0.1.example.com",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn only_the_whole_key_is_the_key() {
        let key = blake3::hash(b"secret");
        let has_key = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            has_key(&headers, &key)
        };
        assert!(has_key("Bearer secret") && has_key("bearer  secret"));
        for wrong in [
            "secret",
            "Bearer",
            "Bearer ",
            "Bearer secre",
            "Bearer secret2",
            "Basic secret",
        ] {
            assert!(!has_key(wrong), "{wrong}");
        }
        assert!(!super::has_key(&HeaderMap::new(), &key));
    }
}
