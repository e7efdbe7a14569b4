//! Calls to Google's APIs: each with an access token, a second try if the token was refused, and a variant for every way to fail.

use std::error::Error as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use axum::http::uri::{Authority, InvalidUri};
use axum::http::{Method, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout_at;

use crate::gcp::access_token::AccessToken;
use crate::gcp::http_client::{self, GoogleApisClient, ReadError, causes, read_capped};
use crate::gcp::metadata;
use crate::gcp::upstream_timing;

/// The largest error answer read, in bytes, for the log alone.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// The longest `Retry-After` that is kept, in seconds: a day, far beyond any deadline of this service.
const MAX_RETRY_AFTER_READ_SECONDS: u64 = 24 * 3600;
/// Headers of a request, the client's own included.
const HEADERS: usize = 4;
/// How much of Google's error message goes into the log, in bytes.
const MAX_MESSAGE_BYTES: usize = 512;

/// A caller of Google's APIs as the service account.
#[derive(Clone)]
pub struct Google {
    http: GoogleApisClient,
    /// None for an emulator that takes requests without a token.
    token: Option<Arc<AccessToken>>,
}

/// One call.
pub struct Call<'a> {
    /// GET reads; POST may change something.
    pub method: Method,
    /// The URL.
    pub uri: &'a Uri,
    /// The body, which is JSON. None for a call without one.
    pub body: Option<Bytes>,
    /// How long the call may take, a second try included. Nothing is sent after it, even if the wait for the token was the cause.
    pub timeout: Duration,
    /// The largest answer read, in bytes.
    pub max_bytes: usize,
}

/// How a call failed. Calls that may have had an effect and calls that cannot have had one are different variants.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no access token or no valid URL: nothing was sent.
    #[error("{0}")]
    Metadata(#[from] metadata::Error),
    /// There was no connection, or the server says that it did not process the request: the call had no effect.
    #[error("the call had no effect: {0}")]
    NoEffect(String),
    /// A complete answer with an error status.
    #[error("answered {status}: {message}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// `Retry-After`, in seconds.
        retry_after_seconds: Option<u64>,
        /// Google's name of the error, such as `ALREADY_EXISTS` (google.rpc.Code); empty if a front end answered.
        code: String,
        /// Google's name of the cause, such as `SERVICE_DISABLED` (google.rpc.ErrorInfo), if the answer has one.
        reason: Option<String>,
        /// Google's words, cut short; for the log.
        message: String,
    },
    /// The request may have arrived, and no answer came.
    #[error("no answer: {0}")]
    NoResponse(String),
    /// A 2xx whose content is larger than the caller reads.
    #[error("the answer is too large: {0}")]
    TooLarge(String),
    /// A 2xx whose content is cut off or cannot be parsed.
    #[error("the answer is unreadable: {0}")]
    Unreadable(String),
    /// A 2xx or 3xx that the API cannot have sent.
    #[error("this is not the API: {0}")]
    NotTheApi(String),
}

impl Error {
    /// Whether the token was refused: the call had no effect, and may succeed with a fresh token.
    pub fn is_about_the_token(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED)
    }
}

impl Google {
    /// Calls with tokens of `token`, or without any, for an emulator.
    pub fn new(http: GoogleApisClient, token: Option<Arc<AccessToken>>) -> Self {
        Self { http, token }
    }

    /// The body of a 2xx answer. After a 401, which proves that the call had no effect, there is one more try with a fresh token.
    pub async fn call(&self, call: &Call<'_>) -> Result<Bytes, Error> {
        let began = Instant::now();
        let end = began + call.timeout;
        match self.try_by(began, end, call).await {
            Err(error) if error.is_about_the_token() => {
                self.try_by(Instant::now(), end, call).await
            }
            outcome => outcome,
        }
    }

    /// As [`Self::call`], with one try. After a 401 the next call fetches a fresh token.
    pub async fn call_once(&self, call: &Call<'_>) -> Result<Bytes, Error> {
        let began = Instant::now();
        self.try_by(began, began + call.timeout, call).await
    }

    async fn try_by(&self, began: Instant, end: Instant, call: &Call<'_>) -> Result<Bytes, Error> {
        let bearer = match &self.token {
            Some(token) => {
                let _waiting = upstream_timing::token(began);
                Some(token.bearer().await?)
            }
            None => None,
        };
        let ready = Instant::now();
        // Callers rely on this: a call that was not sent by its deadline is never sent, even if the process was paused meanwhile.
        if ready >= end {
            return Err(Error::NoEffect("the deadline had passed".to_owned()));
        }
        let waiting = upstream_timing::upstream(ready);
        let sent = pin!(self.send(call, bearer.clone())); // pinned, since a large future would be copied
        let answer = timeout_at(end.into(), sent).await;
        drop(waiting);
        let answer = answer.unwrap_or_else(|_| Err(Error::NoResponse("timed out".to_owned())));
        if let (Some(token), Some(bearer), Err(error)) = (&self.token, bearer, &answer)
            && error.is_about_the_token()
        {
            token.forget(&bearer);
        }
        answer
    }

    async fn send(&self, call: &Call<'_>, bearer: Option<HeaderValue>) -> Result<Bytes, Error> {
        let answer = self.http.request(request(call, bearer)).await;
        let answer = answer.map_err(|error| {
            if had_no_effect(&error) {
                Error::NoEffect(format!(
                    "{}: {}",
                    call.uri.authority().map_or("", Authority::as_str),
                    causes(&error)
                ))
            } else {
                Error::NoResponse(causes(&error))
            }
        });
        accepted(answer?, call.max_bytes).await
    }
}

fn request(call: &Call<'_>, bearer: Option<HeaderValue>) -> Request<Full<Bytes>> {
    let body = call.body.clone().unwrap_or_default();
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = call.uri.clone();
    let headers = request.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(http_client::USER_AGENT),
    );
    if let Some(bearer) = bearer {
        headers.insert(AUTHORIZATION, bearer);
    }
    if call.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    request
}

/// Whether the request certainly had no effect: there was no connection, or the server says that it did not process it
/// (RFC 9113, section 8.7).
fn had_no_effect(error: &legacy::Error) -> bool {
    let refused = |cause: &h2::Error| {
        let reason = if cause.is_go_away() {
            h2::Reason::NO_ERROR
        } else {
            h2::Reason::REFUSED_STREAM
        };
        cause.is_remote() && cause.reason() == Some(reason)
    };
    let cause = error.source().and_then(|hyper| hyper.source());
    error.is_connect()
        || cause
            .and_then(|cause| cause.downcast_ref())
            .is_some_and(refused)
}

async fn accepted(response: Response<Incoming>, max_bytes: usize) -> Result<Bytes, Error> {
    let status = response.status();
    if status.is_redirection() {
        return Err(Error::NotTheApi(format!("it answered {status}")));
    }
    if !status.is_success() {
        return Err(refusal(response).await);
    }
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    let is_json = kind.is_none_or(|kind| kind.starts_with(b"application/json"));
    let body = read_capped(response.into_body(), max_bytes)
        .await
        .map_err(|error| match error {
            ReadError::TooLarge(_) => Error::TooLarge(error.to_string()),
            ReadError::BrokenOff(_) => Error::NoResponse(error.to_string()),
        })?;
    if is_json {
        Ok(body)
    } else {
        Err(Error::NotTheApi("the answer is not JSON".to_owned()))
    }
}

async fn refusal(response: Response<Incoming>) -> Error {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let retry_after_seconds = retry_after
        .and_then(|value| value.parse().ok())
        .map(|seconds: u64| seconds.min(MAX_RETRY_AFTER_READ_SECONDS));
    let body = read_capped(response.into_body(), MAX_REFUSAL_BYTES)
        .await
        .unwrap_or_default();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let code = json["error"]["status"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let details = json["error"]["details"].as_array();
    let reason = details
        .into_iter()
        .flatten()
        .find_map(|detail| detail["reason"].as_str());
    Error::Refused {
        status,
        retry_after_seconds,
        code,
        reason: reason.map(str::to_owned),
        message: message(&json, &body),
    }
}

/// Parses an answer's JSON. UTF-8 is checked once for the whole answer, not for each text in it.
pub fn json<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Error> {
    let text = str::from_utf8(answer).map_err(|error| Error::Unreadable(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| Error::Unreadable(error.to_string()))
}

/// The error for an address that is not a URI.
pub fn not_a_uri(error: InvalidUri) -> Error {
    Error::NoEffect(error.to_string())
}

/// Google's message in an error answer: that of the JSON, or the beginning of what a front end sent instead.
fn message(json: &Value, body: &[u8]) -> String {
    let message = json["error"]["message"].as_str();
    let text = message.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    text[..text.floor_char_boundary(MAX_MESSAGE_BYTES)].to_owned()
}
