//! Tasks in v1: get, list, and how one is shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use serde_json::{Value, json};

use super::Answer;
use super::execution_json::{log_uri, owner, task_spec};
use super::listing::{Listing, Page};
use crate::cloud::Cloud;
use crate::model::executions::Execution;
use crate::model::tasks::{End, Phase, Task};
use crate::refusal::Refusal;
use crate::site::{PROJECT_NUMBER, Site, rfc3339};

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let parts = name
        .rsplit_once("-task")
        .and_then(|(execution, index)| Some((execution, index.parse::<usize>().ok()?)));
    let missing = || cloud.site.missing("TASK", &name);
    let (execution, index) = parts.ok_or_else(missing)?;
    let execution = state
        .executions
        .get(execution)
        .filter(|execution| index < execution.tasks.len())
        .ok_or_else(missing)?;
    Ok(Json(json(&cloud.site, execution, index)))
}

pub(crate) async fn list(
    State(cloud): State<Arc<Cloud>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Page<Value>>, Refusal> {
    let (selector, after) = (listing.selector()?, listing.after()?);
    let state = cloud.state();
    let executions = state
        .executions
        .newest_first(None)
        .map(|(_, execution)| execution);
    let tasks = executions.flat_map(|execution| {
        execution
            .tasks
            .iter()
            .enumerate()
            .map(move |(index, task)| (execution, index, task))
    });
    let chosen =
        tasks.filter(|(execution, _, task)| selector.matches(|key| label(execution, task, key)));
    let numbered = (0_i64..)
        .zip(chosen)
        .filter(|(position, _)| after.is_none_or(|after| *position > after));
    let items = numbered
        .map(|(position, (execution, index, _))| (position, json(&cloud.site, execution, index)));
    Ok(Json(listing.page("TasksList", items)))
}

fn label<'a>(execution: &'a Execution, task: &Task, key: &str) -> Option<&'a str> {
    match key {
        "run.googleapis.com/execution" => Some(&execution.name),
        "run.googleapis.com/runningState" => Some(task.phase.name()),
        _ => execution.labels.get(key).map(String::as_str),
    }
}

fn json(site: &Site, execution: &Execution, index: usize) -> Value {
    let task = &execution.tasks[index];
    let name = format!("{}-task{index}", execution.name);
    let mut labels = json!(execution.labels);
    labels["run.googleapis.com/execution"] = json!(execution.name);
    labels["run.googleapis.com/runningState"] = json!(task.phase.name());
    // The execution's id with the task's number in its last group: stable without being stored.
    let uid = format!(
        "{}{index:012x}",
        execution.uid.get(..24).unwrap_or_default()
    );
    json!({
        "apiVersion": "run.googleapis.com/v1", "kind": "Task",
        "metadata": {
            "name": name, "namespace": PROJECT_NUMBER, "uid": uid, "generation": 1, "labels": labels,
            "resourceVersion": format!("AAY{:08x}", task.changes()),
            "creationTimestamp": rfc3339(execution.created),
            "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/tasks/{name}"),
            "ownerReferences": [owner("Execution", "run.googleapis.com/v1", &execution.name, &execution.uid)],
        },
        "spec": task_spec(execution),
        "status": status(site, execution, index),
    })
}

fn status(site: &Site, execution: &Execution, index: usize) -> Value {
    let task = &execution.tasks[index];
    let mut status = json!({
        "observedGeneration": 1, "logUri": log_uri(site, &execution.name),
        "conditions": [condition(task, "Completed", completed_status(task)), condition(task, "Started", started_status(task))],
    });
    // Protobuf leaves zeros out.
    for (key, number) in [("index", index), ("retried", task.retries)] {
        if number > 0 {
            status[key] = json!(number);
        }
    }
    for (key, time) in [
        ("startTime", task.started),
        ("completionTime", task.completed),
    ] {
        if let Some(time) = time {
            status[key] = json!(rfc3339(time));
        }
    }
    if let Some(last) = &task.last {
        status["lastAttemptResult"] = last_attempt_result(last);
    }
    status
}

fn completed_status(task: &Task) -> &'static str {
    match task.phase {
        Phase::Pending | Phase::Running => "Unknown",
        Phase::Succeeded => "True",
        Phase::Failed | Phase::Cancelled => "False",
    }
}

fn started_status(task: &Task) -> &'static str {
    match (task.started, task.completed) {
        (Some(_), _) => "True",
        (None, Some(_)) => "False",
        (None, None) => "Unknown",
    }
}

fn condition(task: &Task, kind: &str, status: &str) -> Value {
    let mut condition = json!({ "type": kind, "status": status });
    let (failure, message) = match task.phase {
        Phase::Cancelled => ("Cancelled", "Cancelled by user."),
        Phase::Failed if task.timed_out() => ("", "The configured timeout was reached."),
        Phase::Failed => ("NonZeroExitCode", "The container exited with an error."),
        _ => ("", ""),
    };
    if kind == "Completed" && !message.is_empty() {
        condition["message"] = json!(message);
    }
    if kind == "Completed" && !failure.is_empty() {
        condition["reason"] = json!(failure);
    }
    if let Some(time) = task.completed.or(task.started) {
        condition["lastTransitionTime"] = json!(rfc3339(time));
    }
    condition
}

/// A task's `lastAttemptResult`, with the codes of google.rpc.Code.
fn last_attempt_result(end: &End) -> Value {
    let status = |code: u8, message: &str| json!({ "code": code, "message": message });
    match end {
        End::Exited(0) => json!({ "status": {} }),
        End::Exited(code) => {
            json!({ "exitCode": code, "status": status(10, "The container exited with an error.") })
        }
        End::TimedOut => json!({ "status": status(4, "The configured timeout was reached.") }),
        End::Cancelled => json!({ "status": status(1, "Cancelled by user.") }),
    }
}
