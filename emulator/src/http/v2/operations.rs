//! Long-running operations: get, wait, list, delete, and their JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::execution_json::execution_json;
use super::{Listing, page};
use crate::cloud::{self, Cloud};
use crate::http::error::Answer;
use crate::http::extract::{Parameters, or_default, parsed};
use crate::model::conditions::failure;
use crate::model::operations::Subject;
use crate::random;
use crate::refusal::Refusal;
use crate::site::{Site, rfc3339};

/// The longest time that `:wait` waits, whatever the request asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long Google keeps a deleted resource. Here it is gone at once, and only `expireTime` shows this.
const KEPT_AFTER_DELETION: Duration = Duration::from_secs(30 * 24 * 3600);

type Parts = Path<(String, String, String)>;

#[derive(Debug, Deserialize)]
struct WaitRequest {
    #[serde(default, deserialize_with = "or_default")]
    timeout: Option<String>,
}

pub(crate) async fn get(State(cloud): State<Arc<Cloud>>, Path((_, _, id)): Parts) -> Answer {
    shown(&cloud, &id).map(Json)
}

/// `POST operations/{operation}:wait`, the only verb of operations.
pub(crate) async fn verb(
    State(cloud): State<Arc<Cloud>>,
    Path((_, _, id_and_verb)): Parts,
    body: Bytes,
) -> Answer {
    let Some((id, "wait")) = id_and_verb.rsplit_once(':') else {
        return Err(Refusal::not_found("Method not found."));
    };
    let request: WaitRequest = parsed(&body)?;
    let asked = request.timeout.as_deref().map(duration).transpose()?;
    let longest = asked.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    let done = async {
        loop {
            // Registered before the check, so that an end in between is not missed.
            let one_ended = cloud.one_ended.notified();
            let operation = shown(&cloud, id)?;
            if operation["done"] == true {
                return Ok(operation);
            }
            one_ended.await;
        }
    };
    match timeout(longest, done).await {
        Ok(operation) => operation.map(Json),
        Err(_late) => shown(&cloud, id).map(Json),
    }
}

/// A duration in protobuf's JSON, such as `1.5s`.
fn duration(text: &str) -> Result<Duration, Refusal> {
    let seconds = text
        .strip_suffix('s')
        .and_then(|seconds| seconds.parse().ok());
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| {
        Refusal::invalid(format!(
            "timeout: '{text}' is not a duration such as \"1.5s\""
        ))
    })
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Parameters(listing): Parameters<Listing>,
) -> Answer {
    let wanted = listing.page()?;
    let state = cloud.state();
    let operations = state.operations.newest_first(wanted.older_than());
    let items = operations.filter_map(|(position, operation)| {
        let shown = operation_json(&cloud.site, &state, &operation.id, &operation.subject)?;
        Some(((position, 0), shown))
    });
    Ok(Json(page("operations", wanted.cut(items))))
}

/// Deletes an operation. Its execution continues.
pub(crate) async fn delete(State(cloud): State<Arc<Cloud>>, Path((_, _, id)): Parts) -> Answer {
    let removed = cloud.state().operations.remove(&id);
    removed
        .map(|_| Json(json!({})))
        .ok_or_else(|| missing(&cloud.site, &id))
}

fn missing(site: &Site, id: &str) -> Refusal {
    site.missing("OPERATION", id)
}

fn shown(cloud: &Cloud, id: &str) -> Result<Value, Refusal> {
    let state = cloud.state();
    let operation = state.operations.get(id);
    operation
        .and_then(|operation| operation_json(&cloud.site, &state, id, &operation.subject))
        .ok_or_else(|| missing(&cloud.site, id))
}

/// The JSON of an operation, or `None` if its execution is no longer kept.
pub(crate) fn operation_json(
    site: &Site,
    state: &cloud::State,
    id: &str,
    subject: &Subject,
) -> Option<Value> {
    let execution = match subject {
        Subject::Done(response) => return Some(done(site, id, response.clone())),
        Subject::Execution(name) => state.executions.get_or_deleted(name)?,
    };
    let subject = any("Execution", execution_json(site, execution));
    if execution.completed.is_none() {
        return Some(json!({ "name": site.operation_name(id), "metadata": subject }));
    }
    let Some((code, message)) = failure(execution) else {
        return Some(done(site, id, subject));
    };
    let error = json!({ "code": code, "message": message });
    Some(
        json!({ "name": site.operation_name(id), "metadata": subject, "done": true, "error": error }),
    )
}

fn done(site: &Site, id: &str, response: Value) -> Value {
    json!({ "name": site.operation_name(id), "metadata": response, "done": true, "response": response })
}

/// Adds the operation of a change that has happened, and returns its JSON.
pub(crate) fn finished(site: &Site, state: &mut cloud::State, response: Value) -> Value {
    let id = state.operations.add_new(Subject::Done(response.clone()));
    done(site, &id, response)
}

/// The JSON of an operation for a change that was only validated. It is not stored, so it cannot be read later.
pub(crate) fn only_validated(site: &Site, response: Value) -> Value {
    done(site, &random::uuid(), response)
}

/// A resource as protobuf's Any.
pub(crate) fn any(kind: &str, mut resource: Value) -> Value {
    resource["@type"] = json!(format!("type.googleapis.com/google.cloud.run.v2.{kind}"));
    resource
}

/// A deleted resource, as the operation of the deletion returns it.
pub(crate) fn deleted(mut resource: Value) -> Value {
    let now = Timestamp::now();
    resource["deleteTime"] = json!(rfc3339(now));
    resource["expireTime"] = json!(rfc3339(now + KEPT_AFTER_DELETION));
    resource
}
