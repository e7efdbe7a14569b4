//! Our own view of an execution, and how Google's conditions become a state.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::{Map, json};

use crate::scope::Scope;

/// Where an execution is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Accepted; no task runs yet.
    Pending,
    /// Tasks run.
    Running,
    /// Every task ended well.
    Succeeded,
    /// A task failed for good, or its time was up.
    Failed,
    /// Somebody asked for its end.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen.
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

/// The state that the conditions `Completed` and `Started` amount to. Whatever is not plainly over is going on: a state
/// that cannot be read must never look like an end.
pub fn state(completed: Option<Condition<'_>>, started: Option<Condition<'_>>) -> State {
    match completed.map(|condition| (condition.status, condition.reason)) {
        Some(("True", _)) => State::Succeeded,
        Some(("False", Some("Cancelled"))) => State::Cancelled,
        Some(("False", _)) => State::Failed,
        _ if started.is_some_and(|condition| condition.status == "True") => State::Running,
        _ => State::Pending,
    }
}

/// How many tasks are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tasks {
    /// All of them.
    pub total: u32,
    /// Under way.
    pub running: u32,
    /// Ended well.
    pub succeeded: u32,
    /// Failed for good.
    pub failed: u32,
    /// Ended by a cancellation.
    pub cancelled: u32,
    /// Attempts that were repeated.
    pub retried: u32,
}

/// An execution as callers see it. Nothing else of Google's answer is passed on: its environment can hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Its name, unique within the project and region.
    pub name: String,
    /// Whom it is for; read from its own environment.
    pub scope: String,
    /// The job it is an execution of.
    pub job: String,
    /// Which start it came from; executions started elsewhere have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation_id: Option<String>,
    /// Where it is on its way.
    pub state: State,
    /// Why it is there, as a word for a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is there, in Cloud Run's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many tasks are where.
    pub tasks: Tasks,
    /// When it was accepted; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub created_at: Option<String>,
    /// When its first task began; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub started_at: Option<String>,
    /// When it ended; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub completed_at: Option<String>,
    /// Where its lines are in Google's console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_uri: Option<String>,
    /// Where to go from here.
    pub links: Links,
}

impl Execution {
    /// Whether it was started for this very scope.
    pub fn belongs_to(&self, scope: &Scope) -> bool {
        self.scope == scope.as_str()
    }
}

/// Paths of this service about one execution. Only the first is kept; the others follow from it where they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// The execution itself.
    pub itself: String,
}

/// What there is below the execution's own path, and what it is.
const BELOW: [(&str, &str); 3] = [
    ("events", "Its changes and lines as they happen."),
    ("logs", "Its lines."),
    ("cancel", "Where to ask for its end, by POST."),
];

impl Links {
    /// The paths of the execution `name` of the scope.
    pub fn new(scope: &str, name: &str) -> Self {
        let itself = ["/scopes/", scope, "/executions/", name].concat();
        Self { itself }
    }
}

impl Serialize for Links {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut links = serializer.serialize_struct("Links", 1 + BELOW.len())?;
        links.serialize_field("self", &self.itself)?;
        for (name, _) in BELOW {
            links.serialize_field(name, &format_args!("{}/{name}", self.itself))?;
        }
        links.end()
    }
}

impl JsonSchema for Links {
    fn schema_name() -> Cow<'static, str> {
        "Links".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let own = [("self", "The execution itself.")];
        let all = own.into_iter().chain(BELOW);
        let path = |told| json!({ "type": "string", "description": told });
        let properties: Map<_, _> = all
            .clone()
            .map(|(name, told)| (name.to_owned(), path(told)))
            .collect();
        let names: Vec<_> = all.map(|(name, _)| name).collect();
        json_schema!({
            "type": "object", "description": "Paths of this service about one execution.",
            "properties": properties, "required": names,
        })
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
