//! The outermost of all: names the request, answers problems in full, and writes the one log line.

use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, REFERRER_POLICY, USER_AGENT,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;
use tower::{Service, ServiceExt};
use tracing::Level;

use crate::App;
use crate::execution::Execution;
use crate::problem::{Kind, Problem};
use crate::server::Peer;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What every answer says unless its handler says otherwise: it is for nobody else, now and later, and no page.
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
/// The longest request id taken from a client, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// What the log line says of the execution that a request was about; handlers add it to their response.
#[derive(Clone)]
pub struct About {
    execution: String,
    invocation_id: Option<String>,
}

impl From<&Execution> for About {
    fn from(execution: &Execution) -> Self {
        Self {
            execution: execution.name.clone(),
            invocation_id: execution.invocation_id.clone(),
        }
    }
}

/// Everything of a request that its log line needs.
struct Line {
    began: Instant,
    method: Method,
    path: String,
    user_agent: Option<String>,
    peer: Option<String>,
    trace: Option<String>,
    id: String,
}

/// The answer of `service`, completed, and the line about it.
pub async fn report<S, B>(
    app: Arc<App>,
    service: S,
    request: Request,
) -> Result<Response, Infallible>
where
    S: Service<Request, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let line = Line::new(&request);
    let mut response = service.oneshot(request).await?.map(Body::new);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let mut rendered = problem.render(&line.id);
        // Allow, those for browsers, and whatever else the layers below had to say.
        let mut headers = mem::take(response.headers_mut());
        headers.remove(CONTENT_LENGTH); // of the body that is not there yet
        rendered.headers_mut().extend(headers);
        rendered.extensions_mut().insert(problem);
        response = rendered;
    }
    let headers = response.headers_mut();
    for (name, value) in DEFAULT_HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::try_from(&line.id) {
        headers.insert(X_REQUEST_ID, id);
    }
    line.write(&app, &response);
    Ok(response)
}

impl Line {
    fn new(request: &Request) -> Self {
        let text = |name| {
            request
                .headers()
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        Self {
            began: Instant::now(),
            method: request.method().clone(),
            // Without the query: some put secrets there.
            path: request.uri().path().to_owned(),
            user_agent: text(USER_AGENT).map(str::to_owned),
            peer: request
                .extensions()
                .get::<Peer>()
                .map(|peer| peer.0.ip().to_string()),
            trace: trace(request.headers()),
            id: request_id(text(X_REQUEST_ID)),
        }
    }

    fn write(&self, app: &App, response: &Response) {
        let problem = response.extensions().get::<Problem>();
        let about = response.extensions().get::<About>();
        let status = response.status().as_u16();
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
                    "httpRequest.requestUrl" = &self.path[..],
                    "httpRequest.status" = u64::from(status),
                    "httpRequest.latency" =
                        &format!("{:.6}s", self.began.elapsed().as_secs_f64())[..],
                    "httpRequest.userAgent" = self.user_agent.as_deref(),
                    "httpRequest.remoteIp" = self.peer.as_deref(),
                    requestId = &self.id[..],
                    execution = about.map(|about| &about.execution[..]),
                    invocationId = about.and_then(|about| about.invocation_id.as_deref()),
                    problem = problem.map(|problem| problem.kind.slug()),
                    cause = problem.and_then(Problem::cause),
                    "logging.googleapis.com/trace" = trace.as_deref(),
                    "{} {} {status}",
                    self.method,
                    self.path
                )
            };
        }
        match problem.map(|problem| problem.kind) {
            Some(Kind::Overloaded | Kind::Draining) => line!(Level::WARN),
            _ if status >= 500 => line!(Level::ERROR),
            _ if self.path == "/health" || self.path == "/ready" => line!(Level::DEBUG),
            _ => line!(Level::INFO),
        }
    }
}

/// The id of a client that has one, so that its log and ours can be laid side by side; else one of ours.
fn request_id(theirs: Option<&str>) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    match theirs {
        Some(id) if (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(legal) => {
            id.to_owned()
        }
        _ => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            format!(
                "{:x}-{:x}",
                now.as_micros(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            )
        }
    }
}

/// The trace's id (32 hexadecimal digits) from W3C's `traceparent` or Google's `X-Cloud-Trace-Context`.
fn trace(headers: &HeaderMap) -> Option<String> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let w3c = text("traceparent").and_then(|value| value.split('-').nth(1));
    let google = || text("x-cloud-trace-context").and_then(|value| value.split('/').next());
    let id = w3c.or_else(google)?;
    let valid = id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit());
    valid.then(|| id.to_owned())
}
