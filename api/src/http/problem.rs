//! Problems: each has a status, a text for the caller, and a cause for the log.

use std::borrow::Cow;
use std::fmt::Display;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::auth;
use crate::gcp::{client, cloud_logging};
use crate::http::json::json;
use crate::starts::{self, Busy};
use crate::{overrides, parameters, watch};

/// Declares [`Kind`]: its name, status, slug, whether the same request may succeed later, title, reason and cure.
macro_rules! kinds {
    ($($name:ident $status:literal $slug:literal $retryable:literal $title:literal $why:literal $cure:literal)*) => {
        /// The kinds of problems that callers can distinguish, one for each `type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = $title] $name),* }

        impl Kind {
            /// Every kind, in the order of the statuses.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The status of the answer.
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

            /// The kind in a few words, which are the same for every problem of the kind.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            /// The reason for such a problem.
            pub fn why(self) -> &'static str {
                match self { $(Self::$name => $why),* }
            }

            /// What the caller can do. This is the `detail` unless the problem has a more specific one.
            pub fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure),* }
            }
        }
    };
}

kinds! {
    InvalidScope 400 "invalid-scope" false "The scope is not valid"
        "The scope in the path is empty, is too long, or has a character that a scope must not have."
        "Use 1 to 63 letters, digits, dots, underscores or hyphens, with a letter or a digit at both ends."
    MalformedRequest 400 "malformed-request" false "The request is not valid"
        "The query has an unknown field or a value that is not allowed, the page belongs to another list, or the body ended early."
        "Read detail, and compare the request with GET /openapi.json."
    MalformedJson 400 "malformed-json" false "The body is not JSON"
        "The body is not a JSON object in UTF-8, or it has a name twice."
        "Send one JSON object with each name once, or no body."
    IdempotencyKeyInvalid 400 "idempotency-key-invalid" false "The Idempotency-Key is not valid"
        "The header Idempotency-Key was sent twice, is empty or too long, or has a character that a key must not have."
        "Send one key of 1 to 128 letters, digits, dots, underscores, colons, tildes or hyphens, such as a UUID, or leave the header out."
    Unauthenticated 401 "unauthenticated" false "Authentication is needed"
        "The request has no token, or its token has expired, or this service does not accept it."
        "Get a new token from the identity provider and send it as Authorization: Bearer TOKEN."
    ScopeForbidden 403 "scope-forbidden" false "The scope is not allowed"
        "The token is valid, but grants nothing in this scope. The answer is the same whether or not the scope has executions."
        "Use a scope that you may use, or ask the operator to grant you this one."
    OperationForbidden 403 "operation-forbidden" false "The operation is not allowed"
        "The token grants other operations in this scope, but not this one."
        "Ask the operator to grant you the operation: start, read or cancel."
    CsrfRejected 403 "csrf-rejected" false "The page's origin is not allowed"
        "A browser sent the request on behalf of a page whose origin this service does not list."
        "Ask the operator to add the page's origin to cors.origins."
    NotFound 404 "not-found" false "The path does not exist"
        "The service has no such path."
        "GET /openapi.json lists the paths."
    ExecutionNotFound 404 "execution-not-found" false "The scope has no such execution"
        "There never was such an execution, or it was deleted (Cloud Run keeps the newest 1,000 that have ended), or it belongs to another scope."
        "Check its name and scope, or list the scope's executions."
    ResultNotFound 404 "result-not-found" false "There is no result"
        "The job has not reported a result: not yet, or not at all."
        "Wait until the execution has finished. Its log lines show what it did report."
    ProcessNotFound 404 "process-not-found" false "There is no such process"
        "The path names a process that the service's settings do not have."
        "Use the name of one of the processes in GET /openapi.json, or POST /scopes/SCOPE/process for the unnamed one."
    MethodNotAllowed 405 "method-not-allowed" false "The method is not allowed here"
        "The path exists, but not for this method."
        "Use a method that the Allow header names."
    RequestTimeout 408 "request-timeout" true "The request took too long to arrive"
        "The body did not arrive completely in time."
        "Send the whole request sooner."
    IdempotencyInProgress 409 "idempotency-in-progress" true "The same start is in progress"
        "Another request with the same Idempotency-Key has not been answered yet."
        "Repeat the request with the same key after the time in Retry-After: the answer will be that of the first."
    ScopeBusy 409 "scope-busy" true "The scope has an unfinished execution"
        "The scope has an unfinished execution and on_running is reject, or the execution to be replaced did not end in time."
        "Follow the execution at the path in the field execution and start again once it has finished, or choose another on_running."
    PayloadTooLarge 413 "payload-too-large" false "The body is too large"
        "The body is larger than the service takes."
        "Send a smaller body, with references to data in place of the data."
    UnsupportedMediaType 415 "unsupported-media-type" false "The body's type is not supported"
        "The body was not declared as JSON, or it is compressed."
        "Send the header Content-Type: application/json and no Content-Encoding."
    ValidationFailed 422 "validation-failed" false "The parameters are not valid"
        "The body has a field that is not a declared parameter, lacks a required one, or has a value that the parameter's schema does not allow."
        "Correct the parameter that detail names; GET /openapi.json has its schema."
    IdempotencyKeyReused 422 "idempotency-key-reused" false "The Idempotency-Key was used for another request"
        "The same key was used for a request with another body or query."
        "Use a new key for a new start. Use an old key only to repeat exactly the same request."
    RateLimited 429 "rate-limited" true "Too many requests"
        "The caller sent more requests a minute than allowed, the scope had more starts a minute than allowed, or the service has read logs as often as it may."
        "Repeat the request after the time in Retry-After."
    Internal 500 "internal" false "The service failed"
        "The service has a defect."
        "Report the requestId to the operator, whose log has the cause."
    UpstreamRejected 502 "upstream-rejected" false "Cloud Run refused the request"
        "Cloud Run did not accept the request for this job. Nothing was started."
        "Report the requestId to the operator: only the operator can correct this, and the log has the cause."
    UpstreamMisconfigured 502 "upstream-misconfigured" false "The service is not set up for this job"
        "The job does not exist, or the service's account lacks a permission on it. Nothing was started."
        "Report the requestId to the operator: only the operator can correct this, and `api check` says how."
    UpstreamAuth 502 "upstream-auth" false "Cloud Run refused the service's identity"
        "Cloud Run accepted neither the service's access token nor a fresh one. Nothing was started."
        "Report the requestId to the operator: only the operator can correct this, and the log has the cause."
    UpstreamProtocol 502 "upstream-protocol" false "Cloud Run's answer was not understood"
        "The answer ended early, was too large, or did not come from Cloud Run's API."
        "Report the requestId to the operator: the log has the cause, and cloud_run.base_url may be wrong."
    Overloaded 503 "overloaded" true "Too busy"
        "This instance has as many requests in flight as it accepts."
        "Nothing was started. Repeat the request after the time in Retry-After."
    Draining 503 "draining" true "Shutting down"
        "This instance is about to stop."
        "Nothing was started. Repeat the request: another instance will answer it."
    UpstreamUnavailable 503 "upstream-unavailable" true "Cloud Run cannot be reached"
        "No connection to Google's API could be made, or it answered that it cannot serve now."
        "Repeat the request after the time in Retry-After."
    UpstreamThrottled 503 "upstream-throttled" true "Cloud Run asks to slow down"
        "A quota of the project is used up: requests a minute, or executions at one time."
        "Repeat the request after the time in Retry-After."
    UpstreamAuthUnavailable 503 "upstream-auth-unavailable" true "The service has no access token"
        "The metadata server, which issues the service's tokens, did not answer, or answered without a usable token. Nothing was started."
        "Repeat the request after the time in Retry-After."
    IdempotencyStoreUnavailable 503 "idempotency-store-unavailable" true "The idempotency store cannot be reached"
        "Without the store the service cannot know whether the start was made before, so it starts nothing."
        "Nothing was started. Repeat the request after the time in Retry-After."
    AuthUnavailable 503 "auth-unavailable" true "The identity provider's keys cannot be reached"
        "The keys for checking tokens cannot be fetched, so no token can be accepted."
        "Nothing was started. Repeat the request after the time in Retry-After."
    StartOutcomeUnknown 504 "start-outcome-unknown" true "It is not known whether the execution started"
        "The service sent the start, got no answer, and did not find the execution in time."
        "Repeat the request with the same Idempotency-Key: an execution that has started is found and not started again. Without a key, look at the list first."
    UpstreamTimeout 504 "upstream-timeout" true "Cloud Run did not answer in time"
        "Google's API took longer to answer a read than the service waits."
        "Repeat the request after the time in Retry-After."
}

impl Kind {
    /// The kind of this slug.
    pub fn of_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.slug() == slug)
    }

    /// Whether problems of the kind have `Retry-After`.
    pub fn has_retry_after(self) -> bool {
        matches!(self.status().as_u16(), 409 | 429 | 503 | 504)
    }

    /// The answer to `GET /problems/SLUG`: an explanation in plain text.
    pub fn explanation(self) -> String {
        let again = if self.retryable() {
            "may succeed later"
        } else {
            "will fail again"
        };
        format!(
            "{title}\n\nStatus {status}, type /problems/{slug}. The same request {again}.\n\nWhy: {why}\n\nWhat to do: {cure}\n",
            title = self.title(),
            status = self.status().as_u16(),
            slug = self.slug(),
            why = self.why(),
            cure = self.cure(),
        )
    }

    /// Seconds after which to try again, unless the problem has a more specific time.
    fn retry_after_seconds(self) -> Option<u64> {
        self.has_retry_after().then_some(1)
    }
}

/// A refusal. Its `detail` is for the caller, its cause only for the log.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What went wrong.
    pub kind: Kind,
    detail: Cow<'static, str>,
    cause: Option<Box<str>>,
    retry_after_seconds: Option<u64>,
    execution: Option<Box<str>>,
    invocation_id: Option<Box<str>>,
    errors: Box<[FieldError]>,
}

impl Problem {
    /// A problem with a specific `detail` for the caller: what is wrong, and what to do.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_seconds = kind.retry_after_seconds();
        Self {
            kind,
            detail: detail.into(),
            cause: None,
            retry_after_seconds,
            execution: None,
            invocation_id: None,
            errors: Box::default(),
        }
    }

    /// Adds the cause, which is logged and not shown to the caller.
    pub fn because(mut self, cause: impl Display) -> Self {
        self.cause = Some(cause.to_string().into());
        self
    }

    /// Puts a text before the `detail`.
    pub fn but_first(mut self, words: &str) -> Self {
        self.detail = format!("{words}{}", self.detail).into();
        self
    }

    /// Sets `Retry-After`, in seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Adds the path of the execution that prevents the start.
    pub fn execution(mut self, path: String) -> Self {
        self.execution = Some(path.into());
        self
    }

    /// Adds the invocation id of the start that failed, for the log: the lines about its sends have the same id.
    pub fn of_invocation(mut self, id: String) -> Self {
        self.invocation_id = Some(id.into());
        self
    }

    /// The invocation id of the start that failed.
    pub fn invocation_id(&self) -> Option<&str> {
        self.invocation_id.as_deref()
    }

    /// The cause for the log. None for a mistake of the caller.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The complete answer: `application/problem+json` (RFC 9457).
    pub fn render(&self, request_id: &str) -> Response {
        let mut response = json(self.kind.status(), &self.body(request_id));
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::Unauthenticated {
            // RFC 6750's `error` is left out: only the log says whether there was no token or a wrong one.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// The answer's content.
    pub(crate) fn body<'a>(&'a self, request_id: &'a str) -> Body<'a> {
        Body {
            r#type: format!("/problems/{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            retryable: self.kind.retryable(),
            request_id,
            execution: self.execution.as_deref(),
            errors: &self.errors,
        }
    }
}

impl From<parameters::Refused> for Problem {
    fn from(refused: parameters::Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            parameters::Refused::Malformed(_) => Self::new(Kind::MalformedJson, detail),
            parameters::Refused::Faults(faults) => Self {
                errors: faults.iter().filter_map(FieldError::of).collect(),
                ..Self::new(Kind::ValidationFailed, detail)
            },
        }
    }
}

impl From<overrides::Unrenderable> for Problem {
    fn from(unrenderable: overrides::Unrenderable) -> Self {
        Self::new(Kind::ValidationFailed, unrenderable.to_string())
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self::new(kind, kind.cure())
    }
}

/// The problem for a failed call to Google. Failed starts have their own conversion, from `starts::Error`.
impl From<client::Error> for Problem {
    fn from(error: client::Error) -> Self {
        let cause = error.to_string();
        let problem = match error {
            client::Error::Metadata(_) => Kind::UpstreamAuthUnavailable.into(),
            client::Error::NoEffect(_) => Kind::UpstreamUnavailable.into(),
            client::Error::NoResponse(_) => Kind::UpstreamTimeout.into(),
            client::Error::TooLarge(_)
            | client::Error::Unreadable(_)
            | client::Error::NotTheApi(_) => Kind::UpstreamProtocol.into(),
            client::Error::Refused {
                status,
                retry_after_seconds,
                ..
            } => refused(status, retry_after_seconds),
        };
        Self::because(problem, cause)
    }
}

/// The longest `Retry-After` passed on, in seconds.
const MAX_RETRY_AFTER_SECONDS: u64 = 300;

fn refused(status: StatusCode, retry_after_seconds: Option<u64>) -> Problem {
    let later = |kind: Kind| {
        let seconds = retry_after_seconds
            .unwrap_or(1)
            .clamp(1, MAX_RETRY_AFTER_SECONDS);
        Problem::from(kind).retry_after(seconds)
    };
    match status.as_u16() {
        401 => Kind::UpstreamAuth.into(),
        403 | 404 => Kind::UpstreamMisconfigured.into(),
        429 => later(Kind::UpstreamThrottled),
        409 | 500.. => later(Kind::UpstreamUnavailable),
        _ => Kind::UpstreamRejected.into(),
    }
}

impl From<starts::Error> for Problem {
    fn from(error: starts::Error) -> Self {
        let cause = error.to_string();
        match error {
            starts::Error::InProgress => Self::new(
                Kind::IdempotencyInProgress,
                "The start with this Idempotency-Key is still in progress. Repeat the request after the time in Retry-After.",
            ),
            starts::Error::KeyReused => Self::new(
                Kind::IdempotencyKeyReused,
                "This Idempotency-Key was used with another body or query before. Use a new key for a new start.",
            ),
            starts::Error::Deleted => Self::new(
                Kind::ExecutionNotFound,
                "The execution that this Idempotency-Key started has been deleted. Use a new key for a new start.",
            ),
            starts::Error::ScopeBusy(busy) => busy.into(),
            starts::Error::Ambiguous { retry_after, cause } => {
                let detail = "Cloud Run did not say whether the execution started. Repeat the request with the same Idempotency-Key \
                     after the time in Retry-After: it finds the execution, or starts it. Without a key, look at the scope's executions first.";
                let seconds = retry_after.as_secs() + 1;
                Self::new(Kind::StartOutcomeUnknown, detail)
                    .because(cause)
                    .retry_after(seconds.clamp(1, MAX_RETRY_AFTER_SECONDS))
            }
            starts::Error::NotStarted(error) => {
                Self::from(error).but_first("Nothing was started. ")
            }
            starts::Error::Upstream(error) => error.into(),
            starts::Error::OutOfTime => Kind::UpstreamTimeout.into(),
            starts::Error::Store(_) => Self::from(Kind::IdempotencyStoreUnavailable).because(cause),
            starts::Error::Internal(_) => Self::from(Kind::Internal).because(cause),
        }
    }
}

impl From<Busy> for Problem {
    fn from(busy: Busy) -> Self {
        let (detail, execution) = match busy {
            Busy::Starting => ("Another start of this scope is in progress.", None),
            Busy::Uncertain => (
                "It is not known yet whether an earlier start of this scope took effect.",
                None,
            ),
            Busy::Running(path) => (
                "The scope has an unfinished execution; wait for its end, or cancel it.",
                Some(path),
            ),
            Busy::Ending(path) => (
                "The scope's execution is being cancelled but has not ended yet; repeat the request.",
                Some(path),
            ),
        };
        let problem = Self::new(Kind::ScopeBusy, detail);
        match execution {
            Some(path) => problem.execution(path),
            None => problem,
        }
    }
}

impl From<cloud_logging::Error> for Problem {
    fn from(error: cloud_logging::Error) -> Self {
        let cause = error.to_string();
        let problem = match error {
            cloud_logging::Error::Budget(spent) => Self::new(
                Kind::RateLimited,
                "The service has read logs as often as it may. Repeat the request after the time in Retry-After.",
            )
            .retry_after(spent.retry_after_seconds),
            cloud_logging::Error::NoMemory => Kind::Overloaded.into(),
            cloud_logging::Error::Google(error) => return error.into(),
        };
        problem.because(cause)
    }
}

impl From<watch::Error> for Problem {
    fn from(error: watch::Error) -> Self {
        match error {
            watch::Error::NotFound => Kind::ExecutionNotFound.into(),
            watch::Error::Upstream(error) => error.into(),
        }
    }
}

impl From<auth::Error> for Problem {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::Unauthenticated(why) => Self::from(Kind::Unauthenticated).because(why),
            auth::Error::SeveralTokens => Self::new(
                Kind::MalformedRequest,
                "Send the header with the token once.",
            ),
            auth::Error::KeysUnavailable(_) => Self::from(Kind::AuthUnavailable).because(error),
        }
    }
}

impl From<auth::Denied> for Problem {
    fn from(denied: auth::Denied) -> Self {
        match denied {
            auth::Denied::Scope => Kind::ScopeForbidden.into(),
            auth::Denied::Operation => Kind::OperationForbidden.into(),
        }
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

/// Why a request was refused (RFC 9457).
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Problem")]
pub(crate) struct Body<'a> {
    /// The kind of the problem: a path that answers with an explanation.
    r#type: String,
    /// The kind in a few words.
    title: &'static str,
    /// The answer's status.
    status: u16,
    /// What is wrong here, and what to do about it.
    detail: &'a str,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// The id of this request in the service's log.
    request_id: &'a str,
    /// The path of the execution that prevents the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<&'a str>,
    /// The faults of the body's fields, if the problem is about fields.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(default)]
    errors: &'a [FieldError],
}

/// A fault of one field of the body.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct FieldError {
    /// The field, as a JSON Pointer in a URI fragment (RFC 6901): `#/limit`.
    pointer: String,
    /// What is wrong with the field.
    detail: String,
}

impl FieldError {
    fn of(fault: &parameters::Fault) -> Option<Self> {
        let parameter = fault.parameter.as_ref()?; // its name has no characters that a pointer must escape
        Some(Self {
            pointer: format!("#/{parameter}"),
            detail: fault.detail.clone(),
        })
    }
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
        assert!(
            Kind::ALL
                .iter()
                .all(|kind| Kind::of_slug(kind.slug()) == Some(*kind))
        );
    }
}
