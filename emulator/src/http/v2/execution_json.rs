//! Executions and tasks in the JSON of v2.

use serde_json::{Value, json};

use super::job_json::task_template;
use crate::http::resource_json::{attempt_result, set_numbers, set_times};
use crate::model::conditions::{Condition, Reason, Status, counts, of_execution, of_task};
use crate::model::executions::Execution;
use crate::site::{Site, default_account, rfc3339};

pub(crate) fn execution_json(site: &Site, execution: &Execution) -> Value {
    let running = execution.completed.is_none();
    let conditions = of_execution(execution);
    let mut json = json!({
        "name": site.execution_name(&execution.job, &execution.name),
        "uid": execution.uid, "generation": "1", "observedGeneration": "1",
        "labels": execution.labels,
        "createTime": rfc3339(execution.created), "updateTime": rfc3339(execution.updated()),
        "creator": default_account(), "launchStage": "GA", "job": execution.job,
        "parallelism": execution.parallelism(), "taskCount": execution.tasks.len(),
        "template": task_template(&execution.template.task),
        "reconciling": running,
        "conditions": conditions.iter().map(condition_json).collect::<Value>(),
        "logUri": site.log_uri(&execution.name),
        "etag": format!("\"{:08x}\"", execution.changes()),
    });
    if !execution.template.annotations.is_empty() {
        json["annotations"] = json!(execution.template.annotations);
    }
    let times = [
        ("startTime", execution.started),
        ("completionTime", execution.completed_at()),
    ];
    set_times(&mut json, times);
    set_numbers(&mut json, counts(execution).named());
    json
}

pub(crate) fn task_json(site: &Site, execution: &Execution, index: usize) -> Value {
    let task = &execution.tasks[index];
    let name = format!("{}-task{index}", execution.name);
    let parent = site.execution_name(&execution.job, &execution.name);
    let mut json = Value::Object(task_template(&execution.template.task));
    let mut set = |key: &str, value: Value| json[key] = value;
    set("name", json!(format!("{parent}/tasks/{name}")));
    set("uid", json!(execution.task_uid(index)));
    set("generation", json!("1"));
    set("observedGeneration", json!("1"));
    set("labels", json!(execution.labels));
    set("job", json!(execution.job));
    set("execution", json!(execution.name));
    set("createTime", json!(rfc3339(execution.created)));
    let updated = task.completed.or(task.started).unwrap_or(execution.created);
    set("updateTime", json!(rfc3339(updated)));
    set("reconciling", json!(task.completed.is_none()));
    let conditions = of_task(task);
    set(
        "conditions",
        conditions.iter().map(condition_json).collect(),
    );
    set("logUri", json!(site.log_uri(&execution.name)));
    set("etag", json!(format!("\"{:08x}\"", task.changes())));
    if let Some(last) = &task.last {
        set("lastAttemptResult", attempt_result(last));
    }
    let times = [
        ("scheduledTime", task.started),
        ("startTime", task.started),
        ("completionTime", task.completed),
    ];
    set_times(&mut json, times);
    set_numbers(&mut json, [("index", index), ("retried", task.retries)]);
    json
}

fn condition_json(condition: &Condition) -> Value {
    let state = match (condition.status, condition.kind) {
        (Status::True, _) => "CONDITION_SUCCEEDED",
        (Status::False, _) => "CONDITION_FAILED",
        (Status::Unknown, "Completed") => "CONDITION_RECONCILING",
        (Status::Unknown, _) => "CONDITION_PENDING",
    };
    let mut json = json!({ "type": condition.kind, "state": state });
    if let Some(reason) = condition.reason {
        let (key, name) = match reason {
            Reason::NonZeroExitCode => ("executionReason", "NON_ZERO_EXIT_CODE"),
            Reason::Cancelled => ("executionReason", "CANCELLED"),
            Reason::Cancelling => ("executionReason", "CANCELLING"),
            Reason::ImmediateRetry => ("reason", "IMMEDIATE_RETRY"),
            Reason::WaitingForOperation => ("reason", "WAITING_FOR_OPERATION"),
        };
        json[key] = json!(name);
    }
    if !condition.message.is_empty() {
        json["message"] = json!(condition.message);
    }
    if let Some(changed) = condition.changed {
        json["lastTransitionTime"] = json!(rfc3339(changed));
    }
    if condition.kind == "Retry" {
        json["severity"] = json!("INFO");
    }
    json
}
