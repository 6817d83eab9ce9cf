//! The page that a browser shows.

use axum::extract::Path;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

/// The page for browsers, and a line for programs that look whether somebody is there.
pub(crate) async fn root(headers: HeaderMap) -> Response {
    let accepted = headers.get_all(ACCEPT).iter();
    let is_browser = accepted
        .filter_map(|kinds| kinds.to_str().ok())
        .any(|kinds| kinds.contains("text/html"));
    let mut response = match is_browser {
        true => answer(&INDEX),
        false => GREETING.into_response(),
    };
    let vary = axum::http::HeaderValue::from_static("accept");
    response.headers_mut().insert(VARY, vary);
    response
}

/// Answer to clients that ask whether somebody is there.
const GREETING: &str = "llm-run is running, for clients of OpenAI's API and of Ollama's\n";

/// A file that the page is made of.
pub(crate) async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => answer(file),
        None => ApiError::new(StatusCode::NOT_FOUND, "the page has no such file").into_response(),
    }
}

/// True of paths of the page: it holds no secrets, and whoever has to give a key gives it there.
pub(crate) fn is_of_page(path: &str) -> bool {
    path == "/" || path.starts_with("/page/")
}

struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const INDEX: File = File {
    name: "index.html",
    kind: "text/html; charset=utf-8",
    text: include_str!("page/index.html"),
};

const FILES: [File; 6] = [
    File {
        name: "page.css",
        kind: "text/css; charset=utf-8",
        text: include_str!("page/page.css"),
    },
    File {
        name: "page.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("page/page.js"),
    },
    File {
        name: "client.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("page/client.js"),
    },
    File {
        name: "panel.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("page/panel.js"),
    },
    File {
        name: "text.js",
        kind: "text/javascript; charset=utf-8",
        text: include_str!("page/text.js"),
    },
    File {
        name: "icon.svg",
        kind: "image/svg+xml",
        text: include_str!("page/icon.svg"),
    },
];

fn answer(file: &File) -> Response {
    let headers = [
        (CONTENT_TYPE, file.kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        // Another version of the program has another page.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, file.text).into_response()
}

/// Nothing but the page's own files, which are text to the last byte: what a model writes cannot become a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
