//! The parts of a job, an execution and a task that v1 and v2 read and write alike.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::extract::{EnvVar, or_default, variables};
use crate::model::conditions::attempt_status;
use crate::model::container::Container;
use crate::model::executions::State;
use crate::model::kept::{Api, Kept};
use crate::model::tasks::End;
use crate::refusal::Refusal;
use crate::site::rfc3339;

/// A container as clients send it.
#[derive(Debug, Deserialize)]
pub(crate) struct SentContainer {
    name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    image: String,
    #[serde(default, deserialize_with = "or_default")]
    command: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    env: Vec<EnvVar>,
    #[serde(flatten)]
    other_fields: Map<String, Value>,
}

impl SentContainer {
    /// Converts the container. `keep` decides which of the fields without effect are stored.
    pub(crate) fn container(
        self,
        keep: impl FnOnce(Map<String, Value>) -> Result<Kept, Refusal>,
    ) -> Result<Container, Refusal> {
        Ok(Container {
            name: self.name,
            image: self.image,
            command: self.command,
            args: self.args,
            env: variables(self.env)?,
            kept: keep(self.other_fields)?,
        })
    }
}

/// The container as `api` shows it.
pub(crate) fn container_json(container: &Container, api: Api) -> Value {
    let mut json = container.kept.shown_by(api);
    json.insert("image".into(), json!(container.image));
    if let Some(name) = &container.name {
        json.insert("name".into(), json!(name));
    }
    for (key, words) in [("command", &container.command), ("args", &container.args)] {
        if !words.is_empty() {
            json.insert(key.into(), json!(words));
        }
    }
    let variables = container.env.iter();
    let env: Vec<Value> = variables
        .map(|variable| json!({ "name": variable.name, "value": variable.value }))
        .collect();
    if !env.is_empty() {
        json.insert("env".into(), Value::Array(env));
    }
    Value::Object(json)
}

/// The `completionStatus` of a job's latest execution.
pub(crate) fn completion_status(state: State) -> &'static str {
    match state {
        State::Pending => "EXECUTION_PENDING",
        State::Running => "EXECUTION_RUNNING",
        State::Succeeded => "EXECUTION_SUCCEEDED",
        State::Failed => "EXECUTION_FAILED",
        State::Cancelled => "EXECUTION_CANCELLED",
    }
}

/// The `lastAttemptResult` of a task, with a code of google.rpc.Code.
pub(crate) fn attempt_result(end: &End) -> Value {
    let status = match attempt_status(end) {
        Some((code, message)) => json!({ "code": code, "message": message }),
        None => json!({}),
    };
    match end {
        End::Exited(code) if *code != 0 => json!({ "exitCode": code, "status": status }),
        _ => json!({ "status": status }),
    }
}

/// Sets the numbers that are not zero. Protobuf's JSON leaves zeros out.
pub(crate) fn set_numbers<'a>(
    json: &mut Value,
    numbers: impl IntoIterator<Item = (&'a str, usize)>,
) {
    for (key, number) in numbers {
        if number > 0 {
            json[key] = json!(number);
        }
    }
}

/// Sets the times that are known.
pub(crate) fn set_times<'a>(
    json: &mut Value,
    times: impl IntoIterator<Item = (&'a str, Option<Timestamp>)>,
) {
    for (key, time) in times {
        if let Some(time) = time {
            json[key] = json!(rfc3339(time));
        }
    }
}
