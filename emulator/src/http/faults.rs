//! The middleware that counts every call and injects faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::Value;
use tokio::time::sleep;

use super::error::{INJECTED, error_of_status, front_end, google_error};
use super::wire;
use crate::cloud::Cloud;
use crate::model::executions::Execution;
use crate::model::faults::{Call, Fault, FaultBody, Operation, Rule, When, header};

/// The largest request body that is read, in bytes.
const LARGEST_REQUEST: usize = 32 * 1024 * 1024;

/// A request extension: how old an execution or a log line must be before lists show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HideFromLists(pub(crate) Duration);

/// Counts a call of any emulated API and injects the fault of the first rule that applies.
pub(crate) async fn layer(
    State(cloud): State<Arc<Cloud>>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST_REQUEST).await else {
        return google_error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "INVALID_ARGUMENT",
            "Request payload size exceeds the limit.",
        );
    };
    let call = call(&cloud, &head.method, head.uri.path(), &body);
    let request = Request::from_parts(head, Body::from(body));
    cloud
        .counters
        .arrived(call.operation, call.invocation.clone());
    match cloud.faults.first_match(&call) {
        None => next.run(request).await,
        Some(rule) => with_fault(rule, request, next).await,
    }
}

/// Runs the call with the fault of the rule. The effect runs in a task of its own, so it happens even if the client
/// disconnects.
async fn with_fault(rule: Rule, mut request: Request, next: Next) -> Response {
    if let Fault::Invisible { ms } = rule.fault {
        request
            .extensions_mut()
            .insert(HideFromLists(Duration::from_millis(ms)));
        return next.run(request).await;
    }
    let effect_after = |wait: u64| {
        tokio::spawn(async move {
            sleep(Duration::from_millis(wait)).await;
            next.run(request).await
        })
    };
    let answer = match (rule.when, &rule.fault) {
        (When::Before, Fault::Delay { ms }) => return answered(effect_after(*ms).await.ok()),
        (When::Before, Fault::HangUp { .. }) | (When::After, _) => effect_after(0).await.ok(),
        (When::Before, _) => None,
        (When::LateMs(ms), _) => {
            drop(effect_after(ms));
            None
        }
    };
    apply(rule.fault, answer).await
}

/// The answer, or status 504 if there is none.
fn answered(answer: Option<Response>) -> Response {
    answer.unwrap_or_else(|| error_of_status(StatusCode::GATEWAY_TIMEOUT))
}

fn call(cloud: &Cloud, method: &Method, path: &str, body: &[u8]) -> Call {
    let operation = operation(method, path);
    let env = match operation {
        Operation::Run => override_env(body),
        Operation::Get | Operation::Cancel => execution_env(cloud, path),
        _ => BTreeMap::new(),
    };
    let invocation = env
        .get("INVOCATION_ID")
        .filter(|_| operation == Operation::Run)
        .cloned();
    Call {
        operation,
        scope: env.get("SCOPE").cloned(),
        invocation,
    }
}

fn override_env(body: &[u8]) -> BTreeMap<String, String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let variables = body["overrides"]["containerOverrides"][0]["env"]
        .as_array()
        .into_iter()
        .flatten();
    variables
        .map(|variable| (text(&variable["name"]), text(&variable["value"])))
        .collect()
}

fn execution_env(cloud: &Cloud, path: &str) -> BTreeMap<String, String> {
    let last = path.rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    cloud
        .state()
        .executions
        .get(name)
        .map(Execution::env)
        .unwrap_or_default()
}

fn operation(method: &Method, path: &str) -> Operation {
    let mut segments = path.trim_matches('/').rsplit('/');
    let (last, parent) = (
        segments.next().unwrap_or_default(),
        segments.next().unwrap_or_default(),
    );
    match (method.as_str(), parent, last) {
        ("POST", "v2", "entries:list") => Operation::Logs,
        ("POST", "jobs", job) if job.ends_with(":run") => Operation::Run,
        ("POST", "executions", execution) if execution.ends_with(":cancel") => Operation::Cancel,
        ("GET", "executions", _) => Operation::Get,
        ("GET", _, "executions") => Operation::List,
        ("GET", _, "token") if path.starts_with("/computeMetadata/") => Operation::Token,
        _ if path.starts_with("/computeMetadata/") || path == "/" => Operation::Metadata,
        _ => Operation::Other,
    }
}

/// The response to the caller. `answer` is set if the effect has happened.
async fn apply(fault: Fault, answer: Option<Response>) -> Response {
    let milliseconds = Duration::from_millis;
    match fault {
        Fault::Status {
            code,
            headers,
            body,
        } => status(code, &headers, body),
        Fault::Delay { ms } => {
            sleep(milliseconds(ms)).await;
            answered(answer)
        }
        Fault::Reset => wire::reset(),
        Fault::Truncated { sent } => wire::truncated(answered(answer), sent).await,
        Fault::Garbage => {
            wire::json("{\"apiVersion\": \"run.googleapis.com/v1\", \"kind\": \"Exec\u{0}ution\", ")
        }
        Fault::Hang => std::future::pending().await,
        Fault::Drip { interval_ms } => {
            wire::dripping(answered(answer), milliseconds(interval_ms)).await
        }
        Fault::Huge { bytes } => wire::huge(bytes),
        Fault::HangUp { ms } => wire::hung_up(answered(answer), milliseconds(ms)),
        // `with_fault` has handled this fault before the effect.
        Fault::Invisible { .. } => answered(answer),
    }
}

fn status(code: u16, headers: &BTreeMap<String, String>, body: FaultBody) -> Response {
    // `Rule::check` has checked the code.
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match body {
        FaultBody::Google => error_of_status(code),
        FaultBody::Html => front_end(code, INJECTED),
        FaultBody::Text(text) => {
            let mut response = wire::json(text);
            *response.status_mut() = code;
            response
        }
    };
    response.headers_mut().extend(
        headers
            .iter()
            .filter_map(|(name, value)| header(name, value)),
    );
    response
}
