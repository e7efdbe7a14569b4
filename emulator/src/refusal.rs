//! How Google says no: `{"error": {"code", "message", "status"}}`.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde_json::json;

/// An error answer of one of Google's APIs.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: StatusCode,
    pub(crate) status: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    }

    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", message)
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(crate) fn new(code: StatusCode, status: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            status,
            message: message.into(),
        }
    }

    /// The answer for a status that a fault names; Google's name for it where there is one.
    pub(crate) fn of_status(code: StatusCode) -> Self {
        let status = match code.as_u16() {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ABORTED",
            429 => "RESOURCE_EXHAUSTED",
            500 => "INTERNAL",
            503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            _ => "UNKNOWN",
        };
        Self::new(code, status, "A fault of the emulator.")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error =
            json!({ "code": self.code.as_u16(), "message": self.message, "status": self.status });
        (self.code, axum::Json(json!({ "error": error }))).into_response()
    }
}

/// What Google's front end answers before any API is reached: not JSON.
pub(crate) fn front_end(code: StatusCode, sentence: &str) -> Response {
    let title = format!(
        "Error {} ({})",
        code.as_u16(),
        code.canonical_reason().unwrap_or("?")
    );
    let page = format!(
        "<!DOCTYPE html>\n<html lang=en>\n<title>{title}</title>\n<p><b>{title}</b>\n<p>{sentence}\n"
    );
    (code, Html(page)).into_response()
}

/// The front end's answer to a path that no API has.
pub(crate) async fn no_such_url() -> Response {
    front_end(
        StatusCode::NOT_FOUND,
        "The requested URL was not found on this server. That’s all we know.",
    )
}
