//! Executions in the JSON of v1.

use std::borrow::Cow;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::job_json::task_spec;
use crate::http::resource_json::{set_numbers, set_times};
use crate::model::conditions::{Condition, Reason, Status, counts, of_execution};
use crate::model::executions::Execution;
use crate::site::{PROJECT_NUMBER, Site, default_account, rfc3339};

/// The JSON of an execution.
pub(crate) fn execution_json(site: &Site, execution: &Execution) -> Value {
    let account = default_account();
    let name = &execution.name;
    json!({
        "apiVersion": "run.googleapis.com/v1", "kind": "Execution",
        "metadata": {
            "name": name, "namespace": PROJECT_NUMBER, "uid": execution.uid, "generation": 1,
            "resourceVersion": format!("AAY{:08x}", execution.changes()), "creationTimestamp": rfc3339(execution.created),
            "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/executions/{name}"),
            "labels": execution.labels,
            "annotations": {
                "run.googleapis.com/creator": account, "run.googleapis.com/lastModifier": account,
                "run.googleapis.com/operation-id": execution.operation, "run.googleapis.com/execution-environment": "gen2",
            },
            "ownerReferences": [owner("Job", "serving.knative.dev/v1", &execution.job, &execution.job_uid)],
        },
        "spec": {
            "parallelism": execution.parallelism(), "taskCount": execution.tasks.len(),
            "template": { "spec": task_spec(&execution.template.task) },
        },
        "status": status(site, execution),
    })
}

/// The JSON text of an execution, which is cached once the execution has completed.
pub(crate) fn execution_text<'a>(site: &Site, execution: &'a Execution) -> Cow<'a, RawValue> {
    // The value has string keys only, so serialising it cannot fail.
    let render = || to_raw_value(&execution_json(site, execution)).unwrap_or_default();
    match execution.completed {
        Some(_) => Cow::Borrowed(execution.shown_by_v1.get_or_init(render)),
        None => Cow::Owned(render()),
    }
}

fn status(site: &Site, execution: &Execution) -> Value {
    let conditions: Value = of_execution(execution).iter().map(condition_json).collect();
    let log_uri = site.log_uri(&execution.name);
    let mut status =
        json!({ "observedGeneration": 1, "conditions": conditions, "logUri": log_uri });
    let times = [
        ("startTime", execution.started),
        ("completionTime", execution.completed_at()),
    ];
    set_times(&mut status, times);
    set_numbers(&mut status, counts(execution).named());
    status
}

pub(crate) fn condition_json(condition: &Condition) -> Value {
    let status = match condition.status {
        Status::Unknown => "Unknown",
        Status::True => "True",
        Status::False => "False",
    };
    let mut json = json!({ "type": condition.kind, "status": status });
    if let Some(reason) = condition.reason {
        json["reason"] = json!(reason_name(reason));
    }
    if !condition.message.is_empty() {
        json["message"] = json!(condition.message);
    }
    if let Some(changed) = condition.changed {
        json["lastTransitionTime"] = json!(rfc3339(changed));
    }
    if condition.kind == "Retry" {
        json["severity"] = json!("Info");
    }
    json
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::NonZeroExitCode => "NonZeroExitCode",
        Reason::Cancelled => "Cancelled",
        Reason::Cancelling => "Cancelling",
        Reason::ImmediateRetry => "ImmediateRetry",
        Reason::WaitingForOperation => "WaitingForOperation",
    }
}

pub(crate) fn owner(kind: &str, api_version: &str, name: &str, uid: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true })
}
