//! Fields that users write and that have no effect in the emulator.

use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

/// One of Google's two APIs for jobs. Each has its own form for some fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    V1,
    V2,
}

/// Fields without effect, which are stored and shown again in the form of the API that wrote them.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    written_by: Api,
    fields: Map<String, Value>,
}

/// The API that wrote the fields does not count.
impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Kept {
    pub(crate) fn new(written_by: Api, fields: Map<String, Value>) -> Self {
        Self { written_by, fields }
    }

    /// The fields as `api` shows them: all of its own, and those of the other API that have the same form in both.
    pub(crate) fn shown_by(&self, api: Api) -> Map<String, Value> {
        if self.written_by == api {
            return self.fields.clone();
        }
        let same = |key: &str| Some((key.to_owned(), self.fields.get(key)?.clone()));
        let mut shown: Map<String, Value> = ["ports", "volumeMounts", "workingDir"]
            .into_iter()
            .filter_map(same)
            .collect();
        if let Some(resources) = self.fields.get("resources") {
            shown.insert("resources".into(), json!({ "limits": resources["limits"] }));
        }
        shown
    }

    /// Sets Google's default limits if there are none.
    pub(crate) fn default_limits(&mut self) {
        let resources = self.fields.entry("resources").or_insert(Value::Null);
        if !resources.is_object() {
            *resources = json!({});
        }
        if !resources["limits"].is_object() {
            resources["limits"] = json!({ "cpu": "1000m", "memory": "512Mi" });
        }
    }
}

/// Refuses fields of a job that would start an execution.
pub(crate) fn refuse_tokens(fields: &Map<String, Value>) -> Result<(), Refusal> {
    let mut tokens = ["startExecutionToken", "runExecutionToken"].into_iter();
    match tokens.find(|key| fields.contains_key(*key)) {
        Some(key) => Err(Refusal::invalid(format!(
            "{key}: this emulator starts executions by jobs.run only."
        ))),
        None => Ok(()),
    }
}
