//! How Google shows an execution: its JSON, the status, the conditions.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::cloud::{Cloud, PROJECT_NUMBER, rfc3339};
use crate::executions::{Execution, Outcome, State};
use crate::tasks::{Phase, Task};

impl Execution {
    /// What the job's `status.latestCreatedExecution` says of it.
    pub(crate) fn reference(&self) -> Value {
        let status = match self.state() {
            State::Pending => "EXECUTION_PENDING",
            State::Running => "EXECUTION_RUNNING",
            State::Succeeded => "EXECUTION_SUCCEEDED",
            State::Failed => "EXECUTION_FAILED",
            State::Cancelled => "EXECUTION_CANCELLED",
        };
        let mut reference = json!({ "name": self.name, "creationTimestamp": rfc3339(self.created), "completionStatus": status });
        if let Some((completed, _)) = &self.completed {
            reference["completionTimestamp"] = json!(rfc3339(*completed));
        }
        reference
    }

    /// Its JSON as text.
    pub(crate) fn shown(&self, cloud: &Cloud) -> Cow<'_, RawValue> {
        // Our own values have string keys only, so that they can always be written.
        let render = || to_raw_value(&self.json(cloud)).unwrap_or_default();
        match self.completed {
            Some(_) => Cow::Borrowed(self.rendered.get_or_init(render)),
            None => Cow::Owned(render()),
        }
    }

    pub(crate) fn json(&self, cloud: &Cloud) -> Value {
        let account = cloud.default_account();
        json!({
            "apiVersion": "run.googleapis.com/v1", "kind": "Execution",
            "metadata": {
                "name": self.name, "namespace": PROJECT_NUMBER, "uid": self.uid, "generation": 1,
                "resourceVersion": self.resource_version(), "creationTimestamp": rfc3339(self.created),
                "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/executions/{}", self.name),
                "labels": self.labels,
                "annotations": {
                    "run.googleapis.com/creator": account, "run.googleapis.com/lastModifier": account,
                    "run.googleapis.com/operation-id": self.operation, "run.googleapis.com/execution-environment": "gen2",
                },
                "ownerReferences": [owner("Job", "serving.knative.dev/v1", &self.job, &self.job_uid)],
            },
            "spec": { "parallelism": self.parallelism(), "taskCount": self.tasks.len(), "template": { "spec": self.task_spec() } },
            "status": self.status(cloud),
        })
    }

    /// The spec that each task has; `timeoutSeconds` is an int64, hence a string.
    pub(crate) fn task_spec(&self) -> Value {
        json!({
            "containers": [self.template.container], "maxRetries": self.template.max_retries,
            "serviceAccountName": self.template.service_account, "timeoutSeconds": self.template.timeout_seconds.to_string(),
        })
    }

    /// Changes whenever anything that is shown does.
    fn resource_version(&self) -> String {
        let attempts: usize = self.tasks.iter().map(Task::changes).sum();
        let phase = usize::from(self.started.is_some()) + 2 * usize::from(self.completed.is_some());
        format!("AAY{:08x}", attempts * 4 + phase)
    }

    fn status(&self, cloud: &Cloud) -> Value {
        let mut status = Map::new();
        status.insert("observedGeneration".into(), json!(1));
        status.insert("conditions".into(), json!(self.conditions()));
        status.insert("logUri".into(), json!(log_uri(cloud, &self.name)));
        if let Some(started) = self.started {
            status.insert("startTime".into(), json!(rfc3339(started)));
        }
        if let Some((completed, _)) = &self.completed {
            status.insert("completionTime".into(), json!(rfc3339(*completed)));
        }
        let in_phase = |phase| self.tasks.iter().filter(|task| task.phase == phase).count();
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

    fn retried(&self) -> usize {
        self.tasks.iter().filter(|task| task.retries > 0).count()
    }

    fn conditions(&self) -> Vec<Value> {
        let mut conditions = vec![self.completed_condition()];
        conditions.extend(self.earlier_conditions());
        if self.retried() > 0 {
            conditions.push(self.condition("Retry", "True", "ImmediateRetry", ""));
        } else if self.started.is_some() && self.completed.is_none() {
            conditions.push(self.condition("Retry", "True", "WaitingForOperation", ""));
        }
        conditions
    }

    fn completed_condition(&self) -> Value {
        let condition =
            |status, reason, message: &str| self.condition("Completed", status, reason, message);
        match &self.completed {
            None if *self.cancelled.borrow() => condition(
                "Unknown",
                "Cancelling",
                "Waiting for execution to be cancelled.",
            ),
            None => condition("Unknown", "", "Waiting for execution to complete."),
            Some((end, Outcome::Succeeded)) => {
                let message = format!(
                    "Execution completed successfully in {}.",
                    seconds(self.created, *end)
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
                    &format!("Task {}-task{task} failed with message: {why}", self.name),
                )
            }
            Some((_, Outcome::Cancelled)) => condition("False", "Cancelled", "Cancelled by user."),
        }
    }

    /// The steps before completion. An execution that ends before it starts says so in `Started`, or gcloud
    /// waits for it for ever.
    fn earlier_conditions(&self) -> [Value; 3] {
        let condition =
            |kind, status, reason, message: &str| self.condition(kind, status, reason, message);
        let Some(started) = self.started else {
            let (status, reason) = if self.completed.is_some() {
                ("False", "Cancelled")
            } else {
                ("Unknown", "")
            };
            return ["ResourcesAvailable", "Started", "ContainerReady"]
                .map(|kind| condition(kind, status, reason, ""));
        };
        let took = seconds(self.created, started);
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

    fn condition(&self, kind: &str, status: &str, reason: &str, message: &str) -> Value {
        let completed = self.completed.as_ref().map(|(time, _)| *time);
        let changed = match kind {
            "Completed" => completed,
            _ => self.started.or(completed),
        };
        let changed = rfc3339(changed.unwrap_or(self.created));
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

pub(crate) fn owner(kind: &str, api_version: &str, name: &str, uid: &str) -> Value {
    json!({ "apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true })
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    format!("{:.2}s", to.duration_since(from).as_secs_f64())
}

/// The console's page with the execution's lines.
pub(crate) fn log_uri(cloud: &Cloud, execution: &str) -> String {
    let project = &cloud.settings.project;
    let filter = format!(
        "resource.type%3D%22cloud_run_job%22%0Alabels.%22run.googleapis.com%2Fexecution_name%22%3D%22{execution}%22"
    );
    format!(
        "https://console.cloud.google.com/logs/viewer?project={project}&advancedFilter={filter}"
    )
}
