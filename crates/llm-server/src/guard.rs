//! What is looked at before a request is read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::page::is_of_page;
use crate::site::{Lock, Site};

/// Lets pass whoever has the key. Without one, lets pass what no web page but this server's own can have sent: a page of any
/// site may send to this machine, but not in JSON, not to `localhost` under a name of its own, and not without its browser
/// saying so.
pub(crate) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    let problem = match &site.lock {
        _ if path == "/health" => None,
        Lock::Key(key) => (!is_of_page(path) && !has_key(headers, key)).then(wrong_key),
        Lock::Local if !is_local(headers) => Some(ApiError::new(
            StatusCode::FORBIDDEN,
            "without a key, requests have to name localhost or an address as their host",
        )),
        Lock::Local if !(is_own(headers) || is_of_page(path) && is_visit(headers)) => {
            Some(ApiError::new(
                StatusCode::FORBIDDEN,
                "without a key, pages of other origins than this server's own are not answered",
            ))
        }
        Lock::Local | Lock::Anyone => None,
    };
    let problem = problem.or_else(|| {
        let is_wrong = request.method() == Method::POST && !is_json(headers);
        let message = "the content type has to be application/json";
        is_wrong.then(|| ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
    });
    let mut response = match problem {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    };
    // No browser is to take an answer for anything else than it says it is.
    let as_said = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, as_said);
    response
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

/// True unless a browser says that a page of another origin asks. Other programs say nothing of the kind.
fn is_own(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map_or(&b""[..], HeaderValue::as_bytes);
    let is_same = |origin: &HeaderValue| {
        let name = origin.as_bytes().strip_prefix(b"http://");
        name.is_some_and(|name| name.eq_ignore_ascii_case(host))
    };
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    // What a user types is of no site. Another port of this machine is the same site, and another origin.
    matches!(site, None | Some(b"none" | b"same-origin"))
        && headers.get_all(ORIGIN).iter().all(is_same)
}

/// True where somebody follows a link: the answer is shown, and the page that had the link cannot read it.
fn is_visit(headers: &HeaderMap) -> bool {
    let says = |name, value: &str| headers.get(name).is_some_and(|said| said == value);
    says(SEC_FETCH_MODE, "navigate")
        && says(SEC_FETCH_DEST, "document")
        && !headers.contains_key(ORIGIN)
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

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
    fn pages_of_other_origins_are_told_from_this_servers_and_from_programs() {
        let headers = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|&(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, value.parse().unwrap())
            });
            HeaderMap::from_iter(fields.chain([(HOST, "localhost:8080".parse().unwrap())]))
        };
        for own in [
            &[][..],
            &[("origin", "http://localhost:8080")],
            &[
                ("origin", "http://LocalHost:8080"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[("sec-fetch-site", "none")],
        ] {
            assert!(is_own(&headers(own)), "{own:?}");
        }
        let visit = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let framed = [visit[0], visit[1], ("sec-fetch-dest", "iframe")];
        for other in [
            &[("origin", "http://localhost:3000")][..],
            &[("origin", "https://localhost:8080")],
            &[("origin", "http://evil.example")],
            &[("origin", "null")],
            &[("origin", "")],
            &[
                ("origin", "http://localhost:8080"),
                ("origin", "http://evil.example"),
            ],
            &[
                ("origin", "http://localhost:8080"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &framed,
        ] {
            assert!(!is_own(&headers(other)), "{other:?}");
            assert!(!is_visit(&headers(other)), "{other:?}");
        }
        assert!(!is_own(&headers(&visit)) && is_visit(&headers(&visit)));
        let posted = [visit[0], visit[1], visit[2], ("origin", "null")];
        assert!(!is_visit(&headers(&posted)));
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
