//! Every refusal: its status, the words for the caller, and the cause for the log.

use std::borrow::Cow;
use std::fmt::Display;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Declares [`Kind`]: name, status, slug, whether the same request may succeed later, title.
macro_rules! kinds {
    ($($name:ident $status:literal $slug:literal $retryable:literal $title:literal)*) => {
        /// What went wrong, as a caller tells it apart: one per `type` of a problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $title] $name),* }

        impl Kind {
            /// Every kind, in the order of the statuses.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The status of the answer, and the last segment of the problem's `type`.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self { $(Self::$name => $status),* };
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// The last segment of the problem's `type`.
            pub fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug),* }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable),* }
            }

            /// The kind in a few words, the same for every problem of the kind.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }
        }
    };
}

kinds! {
    InvalidScope 400 "invalid-scope" false "The scope is not valid"
    MalformedRequest 400 "malformed-request" false "The request is not valid"
    MalformedJson 400 "malformed-json" false "The body is not JSON"
    IdempotencyKeyInvalid 400 "idempotency-key-invalid" false "The Idempotency-Key is not valid"
    Unauthenticated 401 "unauthenticated" false "Authentication is needed"
    ScopeForbidden 403 "scope-forbidden" false "The scope is not yours"
    OperationForbidden 403 "operation-forbidden" false "The operation is not allowed"
    CsrfRejected 403 "csrf-rejected" false "The page's origin is not allowed"
    NotFound 404 "not-found" false "Nothing is here"
    ExecutionNotFound 404 "execution-not-found" false "The scope has no such execution"
    MethodNotAllowed 405 "method-not-allowed" false "The method is not allowed here"
    RequestTimeout 408 "request-timeout" true "The request took too long to arrive"
    IdempotencyInProgress 409 "idempotency-in-progress" true "The same start is under way"
    ScopeBusy 409 "scope-busy" true "The scope has an unfinished execution"
    PayloadTooLarge 413 "payload-too-large" false "The body is too large"
    UnsupportedMediaType 415 "unsupported-media-type" false "The body's type is not supported"
    ValidationFailed 422 "validation-failed" false "The parameters are not valid"
    IdempotencyKeyReused 422 "idempotency-key-reused" false "The Idempotency-Key was used for another request"
    RateLimited 429 "rate-limited" true "Too many requests"
    Internal 500 "internal" false "An error of ours"
    UpstreamRejected 502 "upstream-rejected" false "Cloud Run refused the request"
    UpstreamMisconfigured 502 "upstream-misconfigured" false "The service is not set up for this job"
    UpstreamAuth 502 "upstream-auth" false "Cloud Run refused the service's identity"
    UpstreamProtocol 502 "upstream-protocol" false "Cloud Run's answer was not understood"
    Overloaded 503 "overloaded" true "Too busy"
    Draining 503 "draining" true "Shutting down"
    UpstreamUnavailable 503 "upstream-unavailable" true "Cloud Run cannot be reached"
    UpstreamThrottled 503 "upstream-throttled" true "Cloud Run asks to slow down"
    UpstreamAuthUnavailable 503 "upstream-auth-unavailable" true "The service has no access token"
    IdempotencyStoreUnavailable 503 "idempotency-store-unavailable" true "The idempotency store cannot be reached"
    AuthUnavailable 503 "auth-unavailable" true "The identity provider's keys cannot be reached"
    StartOutcomeUnknown 504 "start-outcome-unknown" true "Whether the execution started is not known"
    UpstreamTimeout 504 "upstream-timeout" true "Cloud Run did not answer in time"
}

impl Kind {
    /// What the caller can do, where the place of the failure knows nothing better.
    fn advice(self) -> &'static str {
        match self {
            Self::Unauthenticated => {
                "Send a token of the identity provider that this service trusts: unexpired, and made for this service."
            }
            Self::ScopeForbidden => {
                "Your token grants nothing on this scope; ask the operator for it."
            }
            Self::OperationForbidden => {
                "Your token grants something else on this scope; ask the operator for this operation."
            }
            Self::ExecutionNotFound => "The scope has no execution of this name.",
            Self::NotFound => "There is nothing at this path; GET / shows what is here.",
            Self::MethodNotAllowed => {
                "The path exists, but not for this method; see the Allow header."
            }
            Self::RequestTimeout => "Send the whole request sooner.",
            Self::Internal => "Report the requestId to the operator, whose log has the cause.",
            Self::UpstreamRejected | Self::UpstreamMisconfigured | Self::UpstreamAuth => {
                "Nothing was started. Only the operator can mend this; the log has the cause under the requestId."
            }
            Self::UpstreamProtocol => "The operator's log has the cause under the requestId.",
            Self::Overloaded | Self::UpstreamUnavailable | Self::UpstreamThrottled => {
                "Nothing was started. Repeat the request after the time in Retry-After."
            }
            Self::UpstreamAuthUnavailable
            | Self::IdempotencyStoreUnavailable
            | Self::AuthUnavailable => {
                "Nothing was started. Repeat the request after the time in Retry-After."
            }
            Self::Draining => "Repeat the request; another instance will take it.",
            Self::UpstreamTimeout => "Repeat the request after the time in Retry-After.",
            _ => self.title(),
        }
    }

    /// Seconds after which to try again, where the place of the failure knows nothing better.
    fn retry_after_seconds(self) -> Option<u64> {
        matches!(self.status().as_u16(), 409 | 429 | 503 | 504).then_some(1)
    }
}

/// A refusal on its way out. Its `detail` is for the caller, its cause for the log alone.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What went wrong.
    pub kind: Kind,
    detail: Cow<'static, str>,
    cause: Option<String>,
    retry_after_seconds: Option<u64>,
    execution: Option<String>,
}

impl Problem {
    /// A problem with words of its own for the caller: what is wrong, and what to do about it.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_seconds = kind.retry_after_seconds();
        Self {
            kind,
            detail: detail.into(),
            cause: None,
            retry_after_seconds,
            execution: None,
        }
    }

    /// Adds what the log should say and the caller should not see.
    pub fn because(mut self, cause: impl Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Sets `Retry-After`, in seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Names the execution that stands in the way, by its path.
    pub fn execution(mut self, path: String) -> Self {
        self.execution = Some(path);
        self
    }

    /// What the log should say of it; nothing for a mere mistake of the caller's.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The answer in full: `application/problem+json` (RFC 9457).
    pub fn render(&self, request_id: &str) -> Response {
        let body = Body {
            r#type: format!("/problems/{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            retryable: self.kind.retryable(),
            request_id,
            execution: self.execution.as_deref(),
        };
        let mut response = (self.kind.status(), Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::Unauthenticated {
            // Without RFC 6750's `error`: whether there was no token or a wrong one is the log's to say.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self::new(kind, kind.advice())
    }
}

/// The problem travels as an extension to the outermost layer, which alone knows the request's id and logs it once.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    retryable: bool,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slugs_are_unique_and_statuses_are_errors() {
        let slugs: HashSet<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert!(
            Kind::ALL
                .iter()
                .all(|kind| kind.status().is_client_error() || kind.status().is_server_error())
        );
    }
}
