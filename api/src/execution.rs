//! Our own view of an execution, and how Google's conditions become a state.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::progress::Progress;
use crate::scope::{ProcessName, Scope};

/// How far an execution has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Accepted; no task runs yet.
    Pending,
    /// Tasks run.
    Running,
    /// Every task succeeded.
    Succeeded,
    /// A task failed for good, or the time limit passed.
    Failed,
    /// It was cancelled on request.
    Cancelled,
}

impl State {
    /// Whether the state is final.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A condition as Cloud Run's v1 API reports it; `status` is `True`, `False` or `Unknown`.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// A word for a program, such as `NonZeroExitCode`; a timeout has none.
    pub reason: Option<&'a str>,
}

/// The state that the conditions `Completed` and `Started` amount to. A condition that cannot be understood never makes an
/// execution finished.
pub fn state(completed: Option<Condition<'_>>, started: Option<Condition<'_>>) -> State {
    match completed.map(|condition| (condition.status, condition.reason)) {
        Some(("True", _)) => State::Succeeded,
        Some(("False", Some("Cancelled"))) => State::Cancelled,
        Some(("False", _)) => State::Failed,
        _ if started.is_some_and(|condition| condition.status == "True") => State::Running,
        _ => State::Pending,
    }
}

/// How many tasks are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tasks {
    /// All tasks.
    pub total: u32,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that succeeded.
    pub succeeded: u32,
    /// Tasks that failed for good.
    pub failed: u32,
    /// Tasks that were cancelled.
    pub cancelled: u32,
    /// Attempts that were repeated.
    pub retried: u32,
}

/// An execution as callers see it. Nothing else of Google's answer is passed on: its environment can hold secrets.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Its name, unique within the project and region.
    pub name: String,
    /// The scope that it was started for, read from its own environment.
    #[schemars(with = "String")]
    pub scope: Scope,
    /// The process that it is of; the unnamed one's have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub process: Option<ProcessName>,
    /// The job that it is an execution of.
    pub job: String,
    /// The id of the start that made it; an execution that was started elsewhere has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// The parameters that its caller supplied, where parameters are declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// How far its job says it is; known while it is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How far it has come.
    pub state: State,
    /// Why it is in this state, as a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is in this state, in Cloud Run's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many tasks are in each state.
    pub tasks: Tasks,
    /// When Cloud Run accepted it; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub created_at: Option<Timestamp>,
    /// When its first task began; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
    /// When it finished; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub completed_at: Option<Timestamp>,
    /// Where its lines are in Google's console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_uri: Option<String>,
    /// Paths of this service about it.
    pub links: Links,
}

impl Execution {
    /// Whether it was started for this very scope.
    pub fn belongs_to(&self, scope: &Scope) -> bool {
        self.scope == *scope
    }
}

/// Paths of this service about one execution.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Links {
    /// The execution itself.
    #[serde(rename = "self")]
    pub self_path: String,
    /// Its changes and lines as they happen.
    pub events: String,
    /// Its lines.
    pub logs: String,
    /// Where a POST cancels it.
    pub cancel: String,
}

impl Links {
    /// The paths of the execution `name` of the scope.
    pub fn new(scope: &Scope, name: &str) -> Self {
        let self_path = ["/scopes/", scope.as_str(), "/executions/", name].concat();
        Self {
            events: [&self_path, "/events"].concat(),
            logs: [&self_path, "/logs"].concat(),
            cancel: [&self_path, "/cancel"].concat(),
            self_path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition<'a>(status: &'a str, reason: Option<&'a str>) -> Option<Condition<'a>> {
        Some(Condition { status, reason })
    }

    #[test]
    fn conditions_become_a_state() {
        let running = condition("Unknown", None);
        assert_eq!(state(None, None), State::Pending);
        assert_eq!(state(running, condition("Unknown", None)), State::Pending);
        assert_eq!(state(running, condition("True", None)), State::Running);
        assert_eq!(
            state(condition("True", None), condition("True", None)),
            State::Succeeded
        );
        assert_eq!(
            state(condition("False", Some("NonZeroExitCode")), None),
            State::Failed
        );
        assert_eq!(
            state(condition("False", None), None),
            State::Failed,
            "a timeout has no reason"
        );
        assert_eq!(
            state(condition("False", Some("Cancelled")), None),
            State::Cancelled
        );
        assert_eq!(state(condition("nonsense", None), None), State::Pending);
    }
}
