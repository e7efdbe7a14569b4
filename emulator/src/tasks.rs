//! Tasks: where each stands, and get, list.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::child::End;
use crate::cloud::{Cloud, PROJECT_NUMBER, rfc3339};
use crate::execution_json::{log_uri, owner};
use crate::executions::Execution;
use crate::jobs::Answer;
use crate::listing::{Listing, Page};
use crate::refusal::Refusal;

/// One task of an execution.
#[derive(Debug, Default)]
pub(crate) struct Task {
    pub(crate) phase: Phase,
    pub(crate) retries: usize,
    last: Option<End>,
    started: Option<Timestamp>,
    completed: Option<Timestamp>,
}

/// Where a task stands; the names are those of Google's label `runningState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

pub(crate) async fn get(
    State(cloud): State<Arc<Cloud>>,
    Path((_, name)): Path<(String, String)>,
) -> Answer {
    let state = cloud.state();
    let parts = name
        .rsplit_once("-task")
        .and_then(|(execution, index)| Some((execution, index.parse::<usize>().ok()?)));
    let missing = || cloud.missing("TASK", &name);
    let (execution, index) = parts.ok_or_else(missing)?;
    let execution = state
        .executions
        .get(execution)
        .filter(|execution| index < execution.tasks.len())
        .ok_or_else(missing)?;
    Ok(Json(execution.tasks[index].json(&cloud, execution, index)))
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
        tasks.filter(|(execution, _, task)| selector.matches(|key| task.label(execution, key)));
    let numbered = (0_i64..)
        .zip(chosen)
        .filter(|(position, _)| after.is_none_or(|after| *position > after));
    let items = numbered.map(|(position, (execution, index, task))| {
        (position, task.json(&cloud, execution, index))
    });
    Ok(Json(listing.page("TasksList", items)))
}

impl Task {
    pub(crate) fn begin_attempt(&mut self, attempt: usize) {
        self.phase = Phase::Running;
        self.retries = attempt;
        self.started.get_or_insert_with(Timestamp::now);
    }

    pub(crate) fn end(&mut self, phase: Phase, last: Option<End>) {
        self.phase = phase;
        self.last = last.or(self.last.take());
        self.completed = Some(Timestamp::now());
    }

    pub(crate) fn finish_at_once(&mut self, time: Timestamp) {
        *self = Self {
            phase: Phase::Succeeded,
            last: Some(End::Exited(0)),
            started: Some(time),
            completed: Some(time),
            retries: 0,
        };
    }

    pub(crate) fn timed_out(&self) -> bool {
        self.last == Some(End::TimedOut)
    }

    /// A number that grows with every change.
    pub(crate) fn changes(&self) -> usize {
        usize::from(self.started.is_some()) + self.retries + usize::from(self.completed.is_some())
    }

    fn label<'a>(&self, execution: &'a Execution, key: &str) -> Option<&'a str> {
        match key {
            "run.googleapis.com/execution" => Some(&execution.name),
            "run.googleapis.com/runningState" => Some(self.phase.name()),
            _ => execution.labels.get(key).map(String::as_str),
        }
    }

    fn json(&self, cloud: &Cloud, execution: &Execution, index: usize) -> Value {
        let name = format!("{}-task{index}", execution.name);
        let mut labels = json!(execution.labels);
        labels["run.googleapis.com/execution"] = json!(execution.name);
        labels["run.googleapis.com/runningState"] = json!(self.phase.name());
        // The execution's id with the task's number in its last group: stable without being stored.
        let uid = format!(
            "{}{index:012x}",
            execution.uid.get(..24).unwrap_or_default()
        );
        json!({
            "apiVersion": "run.googleapis.com/v1", "kind": "Task",
            "metadata": {
                "name": name, "namespace": PROJECT_NUMBER, "uid": uid, "generation": 1, "labels": labels,
                "resourceVersion": format!("AAY{:08x}", self.changes()),
                "creationTimestamp": rfc3339(execution.created),
                "selfLink": format!("/apis/run.googleapis.com/v1/namespaces/{PROJECT_NUMBER}/tasks/{name}"),
                "ownerReferences": [owner("Execution", "run.googleapis.com/v1", &execution.name, &execution.uid)],
            },
            "spec": execution.task_spec(),
            "status": self.status(cloud, execution, index),
        })
    }

    fn status(&self, cloud: &Cloud, execution: &Execution, index: usize) -> Value {
        let mut status = json!({
            "observedGeneration": 1, "logUri": log_uri(cloud, &execution.name),
            "conditions": [self.condition("Completed", self.completed_status()), self.condition("Started", self.started_status())],
        });
        // Protobuf leaves zeros out.
        for (key, number) in [("index", index), ("retried", self.retries)] {
            if number > 0 {
                status[key] = json!(number);
            }
        }
        for (key, time) in [
            ("startTime", self.started),
            ("completionTime", self.completed),
        ] {
            if let Some(time) = time {
                status[key] = json!(rfc3339(time));
            }
        }
        if let Some(last) = &self.last {
            status["lastAttemptResult"] = last.json();
        }
        status
    }

    fn completed_status(&self) -> &'static str {
        match self.phase {
            Phase::Pending | Phase::Running => "Unknown",
            Phase::Succeeded => "True",
            Phase::Failed | Phase::Cancelled => "False",
        }
    }

    fn started_status(&self) -> &'static str {
        match (self.started, self.completed) {
            (Some(_), _) => "True",
            (None, Some(_)) => "False",
            (None, None) => "Unknown",
        }
    }

    fn condition(&self, kind: &str, status: &str) -> Value {
        let mut condition = json!({ "type": kind, "status": status });
        let (failure, message) = match self.phase {
            Phase::Cancelled => ("Cancelled", "Cancelled by user."),
            Phase::Failed if self.timed_out() => ("", "The configured timeout was reached."),
            Phase::Failed => ("NonZeroExitCode", "The container exited with an error."),
            _ => ("", ""),
        };
        if kind == "Completed" && !message.is_empty() {
            condition["message"] = json!(message);
        }
        if kind == "Completed" && !failure.is_empty() {
            condition["reason"] = json!(failure);
        }
        if let Some(time) = self.completed.or(self.started) {
            condition["lastTransitionTime"] = json!(rfc3339(time));
        }
        condition
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}
