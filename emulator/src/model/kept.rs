//! What users write that has no effect here.

use serde_json::{Map, Value, json};

use crate::refusal::Refusal;

/// One of Google's two APIs for jobs. Each has its own form for some fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    V1,
    V2,
}

/// Fields that have no effect here and are only kept and shown again, in the form of the API that wrote them.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    written_by: Api,
    fields: Map<String, Value>,
}

/// Who wrote the same fields makes no difference.
impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Kept {
    pub(crate) fn new(written_by: Api, fields: Map<String, Value>) -> Self {
        Self { written_by, fields }
    }

    /// The fields as `api` shows them: all that it wrote itself, and of the other's those that are the same in both.
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

    /// Sets the limits that Google sets where none are given.
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
