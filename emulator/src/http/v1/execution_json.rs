//! How Google shows an execution: its JSON, the status, the conditions.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::model::executions::{Execution, Outcome, State};
use crate::model::tasks::{Phase, Task};
use crate::site::{PROJECT_NUMBER, Site, default_account, rfc3339};

/// What the job's `status.latestCreatedExecution` says of an execution.
pub(crate) fn reference(execution: &Execution) -> Value {
    let status = match execution.state() {
        State::Pending => "EXECUTION_PENDING",
        State::Running => "EXECUTION_RUNNING",
        State::Succeeded => "EXECUTION_SUCCEEDED",
        State::Failed => "EXECUTION_FAILED",
        State::Cancelled => "EXECUTION_CANCELLED",
    };
    let mut reference = json!({ "name": execution.name, "creationTimestamp": rfc3339(execution.created), "completionStatus": status });
    if let Some((completed, _)) = &execution.completed {
        reference["completionTimestamp"] = json!(rfc3339(*completed));
    }
    reference
}

/// An execution, and where it is: both are needed to show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) site: &'a Site,
    pub(crate) execution: &'a Execution,
}

impl<'a> Shown<'a> {
    /// Its JSON as text.
    pub(crate) fn text(self) -> Cow<'a, RawValue> {
        // Our own values have string keys only, so that they can always be written.
        let render = || to_raw_value(&self.json()).unwrap_or_default();
        match self.execution.completed {
            Some(_) => Cow::Borrowed(self.execution.shown_by_v1.get_or_init(render)),
            None => Cow::Owned(render()),
        }
    }

    pub(crate) fn json(self) -> Value {
        let account = default_account();
        json!({
            "apiVersion": "run.googleapis.com/v1", "kind": "Execution",
            "metadata": {
                "name": self.execution.name, "namespace": PROJECT_NUMBER, "uid": self.execution.uid, "generation": 1,
                "resourceVersion": self.resource_version(), "creationTimestamp": rfc3339(self.execution.created),
                "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/executions/{}", self.execution.name),
                "labels": self.execution.labels,
                "annotations": {
                    "run.googleapis.com/creator": account, "run.googleapis.com/lastModifier": account,
                    "run.googleapis.com/operation-id": self.execution.operation, "run.googleapis.com/execution-environment": "gen2",
                },
                "ownerReferences": [owner("Job", "serving.knative.dev/v1", &self.execution.job, &self.execution.job_uid)],
            },
            "spec": { "parallelism": self.execution.parallelism(), "taskCount": self.execution.tasks.len(), "template": { "spec": task_spec(self.execution) } },
            "status": self.status(),
        })
    }

    /// Changes whenever anything that is shown does.
    fn resource_version(self) -> String {
        let attempts: usize = self.execution.tasks.iter().map(Task::changes).sum();
        let phase = usize::from(self.execution.started.is_some())
            + 2 * usize::from(self.execution.completed.is_some());
        format!("AAY{:08x}", attempts * 4 + phase)
    }

    fn status(self) -> Value {
        let mut status = Map::new();
        status.insert("observedGeneration".into(), json!(1));
        status.insert("conditions".into(), json!(self.conditions()));
        status.insert(
            "logUri".into(),
            json!(log_uri(self.site, &self.execution.name)),
        );
        if let Some(started) = self.execution.started {
            status.insert("startTime".into(), json!(rfc3339(started)));
        }
        if let Some((completed, _)) = &self.execution.completed {
            status.insert("completionTime".into(), json!(rfc3339(*completed)));
        }
        let in_phase = |phase| {
            self.execution
                .tasks
                .iter()
                .filter(|task| task.phase == phase)
                .count()
        };
        let counts = [
            ("runningCount", in_phase(Phase::Running)),
            ("succeededCount", in_phase(Phase::Succeeded)),
            ("failedCount", in_phase(Phase::Failed)),
            ("cancelledCount", in_phase(Phase::Cancelled)),
            ("retriedCount", self.retried()),
        ];
        // Google leaves a count of 0 out.
        status.extend(
            counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.into(), json!(count))),
        );
        Value::Object(status)
    }

    fn retried(self) -> usize {
        self.execution
            .tasks
            .iter()
            .filter(|task| task.retries > 0)
            .count()
    }

    fn conditions(self) -> Vec<Value> {
        let mut conditions = vec![self.completed_condition()];
        conditions.extend(self.earlier_conditions());
        if self.retried() > 0 {
            conditions.push(self.condition("Retry", "True", "ImmediateRetry", ""));
        } else if self.execution.started.is_some() && self.execution.completed.is_none() {
            conditions.push(self.condition("Retry", "True", "WaitingForOperation", ""));
        }
        conditions
    }

    fn completed_condition(self) -> Value {
        let condition =
            |status, reason, message: &str| self.condition("Completed", status, reason, message);
        match &self.execution.completed {
            None if *self.execution.cancelled.borrow() => condition(
                "Unknown",
                "Cancelling",
                "Waiting for execution to be cancelled.",
            ),
            None => condition("Unknown", "", "Waiting for execution to complete."),
            Some((end, Outcome::Succeeded)) => {
                let message = format!(
                    "Execution completed successfully in {}.",
                    seconds(self.execution.created, *end)
                );
                condition("True", "", &message)
            }
            Some((_, Outcome::Failed { task, timed_out })) => {
                // A timeout has no reason on Google either.
                let (reason, why) = match timed_out {
                    true => ("", "The configured timeout was reached."),
                    false => ("NonZeroExitCode", "The container exited with an error."),
                };
                condition(
                    "False",
                    reason,
                    &format!(
                        "Task {}-task{task} failed with message: {why}",
                        self.execution.name
                    ),
                )
            }
            Some((_, Outcome::Cancelled)) => condition("False", "Cancelled", "Cancelled by user."),
        }
    }

    /// The steps before completion. An execution that ends before it starts says so in `Started`, or gcloud
    /// waits for it for ever.
    fn earlier_conditions(self) -> [Value; 3] {
        let condition =
            |kind, status, reason, message: &str| self.condition(kind, status, reason, message);
        let Some(started) = self.execution.started else {
            let (status, reason) = if self.execution.completed.is_some() {
                ("False", "Cancelled")
            } else {
                ("Unknown", "")
            };
            return ["ResourcesAvailable", "Started", "ContainerReady"]
                .map(|kind| condition(kind, status, reason, ""));
        };
        let took = seconds(self.execution.created, started);
        [
            condition(
                "ResourcesAvailable",
                "True",
                "",
                "Provisioned imported containers.",
            ),
            condition(
                "Started",
                "True",
                "",
                &format!("Started deployed execution in {took}."),
            ),
            condition(
                "ContainerReady",
                "True",
                "",
                &format!("Imported container image in {took}."),
            ),
        ]
    }

    fn condition(self, kind: &str, status: &str, reason: &str, message: &str) -> Value {
        let completed = self.execution.completed.as_ref().map(|(time, _)| *time);
        let changed = match kind {
            "Completed" => completed,
            _ => self.execution.started.or(completed),
        };
        let changed = rfc3339(changed.unwrap_or(self.execution.created));
        let mut condition =
            json!({ "type": kind, "status": status, "lastTransitionTime": changed });
        for (key, text) in [("reason", reason), ("message", message)] {
            if !text.is_empty() {
                condition[key] = json!(text);
            }
        }
        if kind == "Retry" {
            condition["severity"] = json!("Info");
        }
        condition
    }
}

/// The spec that each task has; `timeoutSeconds` is an int64, hence a string.
pub(crate) fn task_spec(execution: &Execution) -> Value {
    json!({
        "containers": [execution.template.container], "maxRetries": execution.template.max_retries,
        "serviceAccountName": execution.template.service_account, "timeoutSeconds": execution.template.timeout_seconds.to_string(),
    })
}

pub(crate) fn owner(kind: &str, api_version: &str, name: &str, uid: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true })
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    format!("{:.2}s", to.duration_since(from).as_secs_f64())
}

/// The console's page with the execution's lines.
pub(crate) fn log_uri(site: &Site, execution: &str) -> String {
    let project = &site.project;
    let filter = format!(
        "resource.type%3D%22cloud_run_job%22%0Alabels.%22run.googleapis.com%2Fexecution_name%22%3D%22{execution}%22"
    );
    format!(
        "https://console.cloud.google.com/logs/viewer?project={project}&advancedFilter={filter}"
    )
}
