//! An execution as the service shows it, and the state that Google's conditions amount to.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::progress::Progress;
use crate::scope::{ProcessName, Scope};

/// The state of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was accepted, and no task runs yet.
    Pending,
    /// Tasks are running.
    Running,
    /// Every task succeeded.
    Succeeded,
    /// A task failed for good, or its timeout passed.
    Failed,
    /// It was cancelled.
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
    /// The reason in one word, such as `NonZeroExitCode`. A timeout has none.
    pub reason: Option<&'a str>,
}

/// The state that the conditions `Completed` and `Started` amount to. An unknown condition never makes an execution
/// finished.
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

/// An execution as callers see it. Other parts of Google's answer are not passed on, since its environment can hold secrets.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Its name, unique within the project and region.
    pub name: String,
    /// The scope in which it was started, read from its environment.
    #[schemars(with = "String")]
    pub scope: Scope,
    /// Its process. Absent for the unnamed process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub process: Option<ProcessName>,
    /// The job that it is an execution of.
    pub job: String,
    /// The id of its start. Absent if it was started outside of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// The parameters that its caller supplied, if parameters are declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// The progress that its job reported. Known while the execution is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Its state.
    pub state: State,
    /// The reason of its state, as a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Cloud Run's message about its state.
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
    /// The address of its lines in Google's console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_uri: Option<String>,
    /// Paths of this service about it.
    pub links: Links,
}

impl Execution {
    /// Whether it was started in this scope.
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
    /// A POST to this path cancels it.
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
