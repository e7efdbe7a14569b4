//! Answers in JSON.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::problem::{Kind, Problem};

/// The initial capacity for an answer, in bytes.
const TYPICAL_BYTES: usize = 1024;
/// Capacity for the headers of an answer, including those of a replayed start. Growing the map would hash them again.
const MOST_HEADERS: usize = 12;

/// The value as an answer. It ends with a line break, so that a terminal's prompt starts on a new line.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(TYPICAL_BYTES);
    if let Err(error) = serde_json::to_writer(&mut text, value) {
        return Problem::from(Kind::Internal).because(error).into_response();
    }
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(MOST_HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
