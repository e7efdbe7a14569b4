//! The outermost middleware: it gives the request an id, completes problems, and writes one log line.

use std::convert::Infallible;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, USER_AGENT,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use tower::Service;
use tracing::Level;

use crate::App;
use crate::execution::Execution;
use crate::gcp::upstream_timing::{self, SERVER_TIMING};
use crate::http::json::json;
use crate::http::problem::{Kind, Problem};
use crate::http::server::Peer;
use crate::random;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_CLOUD_TRACE_CONTEXT: HeaderName = HeaderName::from_static("x-cloud-trace-context");
/// Headers of every answer unless its handler sets others: the answer must not be cached, and must not be shown as a page.
const DEFAULT_HEADERS: [(HeaderName, &str); 5] = [
    (CACHE_CONTROL, "no-store"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
];
/// The longest request id that is accepted from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// The execution that a request was about, for its log line.
#[derive(Clone)]
struct LoggedExecution(Arc<Execution>);

/// The verified subject of a start's caller, for its log line.
#[derive(Clone)]
pub struct LoggedCaller(pub String);

/// An execution as the answer to a request about it.
pub fn execution_response(status: StatusCode, execution: Arc<Execution>) -> Response {
    let mut response = json(status, &*execution);
    response.extensions_mut().insert(LoggedExecution(execution));
    response
}

/// The id of a request's trace, for its handler.
#[derive(Clone)]
pub struct Trace(pub String);

/// The parts of a request that its log line needs.
struct Line {
    began: Instant,
    method: Method,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    peer: Option<Peer>,
    trace: Option<String>,
    id: HeaderValue,
}

/// Completes the answer of `service`, which is always ready, and logs the request.
pub async fn request_log(
    app: Arc<App>,
    mut service: impl Service<Request, Response = Response, Error = Infallible>,
    mut request: Request,
) -> Result<Response, Infallible> {
    let line = Line::new(&request);
    if let Some(trace) = &line.trace {
        request.extensions_mut().insert(Trace(trace.clone()));
    }
    let (response, waited) = upstream_timing::recorded(pin!(service.call(request))).await;
    let mut response = response?;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let mut rendered = problem.render(line.id());
        // Keep the headers that the inner layers have set, such as Allow and those for browsers.
        let mut headers = mem::take(response.headers_mut());
        headers.remove(CONTENT_LENGTH); // the body is replaced below
        rendered.headers_mut().extend(headers);
        let caller = response.extensions_mut().remove::<LoggedCaller>();
        rendered.extensions_mut().insert(problem);
        if let Some(caller) = caller {
            rendered.extensions_mut().insert(caller);
        }
        response = rendered;
    }
    let headers = response.headers_mut();
    for (name, value) in DEFAULT_HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    headers.insert(X_REQUEST_ID, line.id.clone());
    if let Some(waited) = waited.header() {
        headers.insert(SERVER_TIMING, waited);
    }
    line.write(&app, &response);
    Ok(response)
}

impl Line {
    fn new(request: &Request) -> Self {
        let headers = request.headers();
        Self {
            began: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            user_agent: headers.get(USER_AGENT).cloned(),
            peer: request.extensions().get().cloned(),
            trace: trace(headers),
            id: request_id(headers.get(X_REQUEST_ID)),
        }
    }

    /// The path without the query, which may contain secrets.
    fn path(&self) -> &str {
        self.uri.path()
    }

    fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default() // ASCII, by `request_id`
    }

    fn write(&self, app: &App, response: &Response) {
        let problem = response.extensions().get::<Problem>();
        let about = response
            .extensions()
            .get::<LoggedExecution>()
            .map(|about| &about.0);
        let caller = response.extensions().get::<LoggedCaller>();
        let status = response.status().as_u16();
        let micros = self.began.elapsed().as_micros() as u64;
        let project = app.project();
        let trace = self
            .trace
            .as_ref()
            .zip(project)
            .map(|(id, project)| format!("projects/{project}/traces/{id}"));
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    "httpRequest.requestMethod" = self.method.as_str(),
                    "httpRequest.requestUrl" = self.path(),
                    "httpRequest.status" = u64::from(status),
                    "httpRequest.latency" =
                        %format_args!("{}.{:06}s", micros / 1_000_000, micros % 1_000_000),
                    "httpRequest.userAgent" =
                        self.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
                    "httpRequest.remoteIp" = self.peer.as_ref().map(Peer::text),
                    requestId = self.id(),
                    caller = caller.map(|caller| &caller.0[..]),
                    execution = about.map(|about| &about.name[..]),
                    invocationId = about
                        .and_then(|about| about.invocation_id.as_deref())
                        .or(problem.and_then(Problem::invocation_id)),
                    problem = problem.map(|problem| problem.kind.slug()),
                    cause = problem.and_then(Problem::cause),
                    "logging.googleapis.com/trace" = trace.as_deref(),
                    "{} {} {status}",
                    self.method,
                    self.path()
                )
            };
        }
        match problem.map(|problem| problem.kind) {
            Some(Kind::Overloaded | Kind::Draining) => line!(Level::WARN),
            _ if status >= 500 => line!(Level::ERROR),
            _ if matches!(self.path(), "/health" | "/ready") => line!(Level::DEBUG),
            _ => line!(Level::INFO),
        }
    }
}

/// The id that the client sent, so that its log and ours can be compared, or else a new one.
fn request_id(theirs: Option<&HeaderValue>) -> HeaderValue {
    let legal = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let is_id = |id: &HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(legal)
    };
    let ours = || HeaderValue::try_from(format!("{:016x}", random::number()));
    match theirs.filter(|id| is_id(id)) {
        Some(id) => id.clone(),
        None => ours().unwrap_or(HeaderValue::from_static("none")), // digits are legal
    }
}

/// The trace's id (32 hexadecimal digits) from W3C's `traceparent` or Google's `X-Cloud-Trace-Context`. A malformed header is
/// ignored.
fn trace(headers: &HeaderMap) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let w3c = || {
        let (version, rest) = text(TRACEPARENT)?.split_once('-')?;
        let known = is_hexadecimal(version, 2) && version != "ff";
        rest.split('-').next().filter(|_| known)
    };
    let google = || text(X_CLOUD_TRACE_CONTEXT)?.split('/').next();
    let is_id = |id: &&str| is_hexadecimal(id, 32) && id.bytes().any(|digit| digit != b'0');
    let id = w3c().filter(is_id).or_else(|| google().filter(is_id));
    id.map(str::to_owned)
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| c.is_ascii_hexdigit())
}
