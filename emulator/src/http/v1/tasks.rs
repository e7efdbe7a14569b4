//! Tasks in v1: get, list, and their JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::execution_json::{condition_json, owner};
use super::job_json::task_spec;
use super::listing::{Listing, Page};
use crate::cloud::Cloud;
use crate::http::error::Answer;
use crate::http::extract::Parameters;
use crate::http::resource_json::{attempt_result, set_numbers, set_times};
use crate::model::conditions::of_task;
use crate::model::executions::Execution;
use crate::model::tasks::Task;
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
    Parameters(listing): Parameters<Listing>,
) -> Result<Json<Page<Value>>, Refusal> {
    let (selector, wanted) = (listing.selector()?, listing.page()?);
    let state = cloud.state();
    let tasks = state.executions.tasks_after(wanted.after);
    let chosen = tasks.filter(|(_, execution, index)| {
        selector.matches(|key| label(execution, &execution.tasks[*index], key))
    });
    let items =
        chosen.map(|(place, execution, index)| (place, json(&cloud.site, execution, index)));
    Ok(Json(Page::new("TasksList", wanted.cut(items))))
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
    let uid = execution.task_uid(index);
    json!({
        "apiVersion": "run.googleapis.com/v1", "kind": "Task",
        "metadata": {
            "name": name, "namespace": PROJECT_NUMBER, "uid": uid, "generation": 1, "labels": labels,
            "resourceVersion": format!("AAY{:08x}", task.changes()),
            "creationTimestamp": rfc3339(execution.created),
            "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/tasks/{name}"),
            "ownerReferences": [owner("Execution", "run.googleapis.com/v1", &execution.name, &execution.uid)],
        },
        "spec": task_spec(&execution.template.task),
        "status": status(site, execution, index),
    })
}

fn status(site: &Site, execution: &Execution, index: usize) -> Value {
    let task = &execution.tasks[index];
    let mut status = json!({
        "observedGeneration": 1, "logUri": site.log_uri(&execution.name),
        "conditions": of_task(task).iter().map(condition_json).collect::<Value>(),
    });
    let times = [
        ("startTime", task.started),
        ("completionTime", task.completed),
    ];
    set_times(&mut status, times);
    set_numbers(&mut status, [("index", index), ("retried", task.retries)]);
    if let Some(last) = &task.last {
        status["lastAttemptResult"] = attempt_result(last);
    }
    status
}
