//! Refusals in the form of Google's APIs, `{"error": {"code", "message", "status"}}`, and of its front end.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use crate::refusal::{Code, Refusal};

/// The result of most handlers: JSON or a refusal.
pub(crate) type Answer = Result<Json<Value>, Refusal>;

impl Code {
    pub(crate) fn http(self) -> StatusCode {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition => StatusCode::BAD_REQUEST,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::Aborted => "ABORTED",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        google_error(self.code.http(), self.code.name(), &self.message)
    }
}

pub(crate) fn google_error(code: StatusCode, status: &str, message: &str) -> Response {
    let error = json!({ "code": code.as_u16(), "message": message, "status": status });
    (code, Json(json!({ "error": error }))).into_response()
}

/// The message of every injected error.
pub(crate) const INJECTED: &str = "This error was injected by a fault rule of the emulator.";

/// The error response for the HTTP status of a fault, with Google's name for that status if there is one.
pub(crate) fn error_of_status(code: StatusCode) -> Response {
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
    google_error(code, status, INJECTED)
}

/// An error page of Google's front end, which answers in HTML before any API is reached.
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
