//! Errors as clients of OpenAI's API expect them.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use llm_engine::{EngineError, RuntimeError};
use serde_json::{Value, json};

/// Message of an error, beside the response that tells it as OpenAI's API does.
#[derive(Debug, Clone)]
pub(crate) struct Told(pub(crate) String);

/// An error of a request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// A field that cannot be what it is.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        ApiError {
            param: Some(param.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// A field that would change the answer, and does nothing here.
    pub(crate) fn unsupported(param: &str) -> Self {
        let message = format!("`{param}` is not supported by this server");
        ApiError {
            code: Some("unsupported_parameter"),
            ..Self::invalid(param, message)
        }
    }

    pub(crate) fn too_long(message: impl Into<String>) -> Self {
        ApiError {
            code: Some("context_length_exceeded"),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// Another model than the one that is served.
    pub(crate) fn no_model(name: &str, served: &str) -> Self {
        let message = format!("there is no model {name:?} here; this server has {served:?}");
        ApiError {
            param: Some("model".to_owned()),
            code: Some("model_not_found"),
            ..Self::new(StatusCode::NOT_FOUND, message)
        }
    }

    pub(crate) fn busy() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests are answered or wait already",
        )
    }

    pub(crate) fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// An answer that failed.
    pub(crate) fn of_answer(error: &EngineError) -> Self {
        match error.of_runtime() {
            Some(RuntimeError::ContextFull { .. }) => Self::too_long(error.to_string()),
            Some(RuntimeError::Interrupted) => Self::ending(),
            Some(RuntimeError::NoTokenLeft) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
            }
            Some(cause) if cause.is_users() => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
            }
            None if !matches!(error, EngineError::Text(_)) => {
                Self::new(StatusCode::BAD_REQUEST, error.to_string())
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// The server ends.
    pub(crate) fn ending() -> Self {
        Self::unavailable("the server is shutting down")
    }

    /// An engine that handed out no end.
    pub(crate) fn lost() -> Self {
        let message = "the engine has failed";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let is_passing = matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        let mut response = (self.status, Json(self.body())).into_response();
        response.extensions_mut().insert(Told(self.message));
        if is_passing {
            let soon = HeaderValue::from_static(RETRY_SECONDS);
            response.headers_mut().insert(RETRY_AFTER, soon);
        }
        response
    }
}

/// Time after which a request may do better.
const RETRY_SECONDS: &str = "2";
