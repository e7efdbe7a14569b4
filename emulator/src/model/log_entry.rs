//! One line of a task as an entry of Cloud Logging.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::site::Site;

pub(crate) const SEVERITIES: [&str; 9] = [
    "DEFAULT",
    "DEBUG",
    "INFO",
    "NOTICE",
    "WARNING",
    "ERROR",
    "CRITICAL",
    "ALERT",
    "EMERGENCY",
];

/// Whose lines they are.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) job: Arc<str>,
    pub(crate) execution: Arc<str>,
    pub(crate) index: usize,
    pub(crate) attempt: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn log(self) -> &'static str {
        match self {
            Self::Stdout => "run.googleapis.com%2Fstdout",
            Self::Stderr => "run.googleapis.com%2Fstderr",
        }
    }
}

/// One line.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) source: Source,
    pub(crate) stream: Stream,
    /// Nanoseconds since the epoch; no two entries have the same.
    pub(crate) time: i128,
    /// An index into `SEVERITIES`.
    pub(crate) severity: usize,
    text: Box<str>,
}

impl Entry {
    pub(crate) fn new(source: Source, stream: Stream, time: i128, text: &str) -> Self {
        Self {
            source,
            stream,
            time,
            severity: structured(text).map_or(0, |fields| severity(&fields)),
            text: text.into(),
        }
    }

    /// Bytes of its text.
    pub(crate) fn size(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn insert_id(&self) -> String {
        format!("{:x}", self.time)
    }

    /// The label `key` of the entry.
    pub(crate) fn label(&self, key: &str) -> Option<String> {
        match key {
            "run.googleapis.com/execution_name" => Some(self.source.execution.to_string()),
            "run.googleapis.com/task_index" => Some(self.source.index.to_string()),
            "run.googleapis.com/task_attempt" => Some(self.source.attempt.to_string()),
            _ => structured(&self.text)?
                .get(LABELS)?
                .get(key)?
                .as_str()
                .map(str::to_owned),
        }
    }

    /// The text, unless the line was a JSON object.
    pub(crate) fn text(&self) -> Option<&str> {
        structured(&self.text).is_none().then_some(&*self.text)
    }

    pub(crate) fn json(&self, site: &Site) -> Value {
        let time = Timestamp::from_nanosecond(self.time)
            .unwrap_or_default()
            .strftime("%Y-%m-%dT%H:%M:%S%.9fZ")
            .to_string();
        let mut entry = json!({
            "insertId": self.insert_id(),
            "logName": format!("projects/{}/logs/{}", site.project, self.stream.log()),
            "resource": {
                "type": "cloud_run_job",
                "labels": { "project_id": site.project, "location": site.region, "job_name": &*self.source.job },
            },
            "labels": {
                "run.googleapis.com/execution_name": &*self.source.execution,
                "run.googleapis.com/task_index": self.source.index.to_string(),
                "run.googleapis.com/task_attempt": self.source.attempt.to_string(),
            },
            "timestamp": time, "receiveTimestamp": time,
        });
        if self.severity > 0 {
            entry["severity"] = json!(SEVERITIES[self.severity]);
        }
        match structured(&self.text) {
            Some(fields) => lift(&mut entry, fields),
            None => entry["textPayload"] = json!(self.text),
        }
        entry
    }
}

const LABELS: &str = "logging.googleapis.com/labels";

/// The fields of a line that is a JSON object.
fn structured(text: &str) -> Option<Map<String, Value>> {
    text.trim_start()
        .starts_with('{')
        .then(|| serde_json::from_str(text).ok())?
}

fn severity(fields: &Map<String, Value>) -> usize {
    let name = fields
        .get("severity")
        .and_then(Value::as_str)
        .unwrap_or_default();
    SEVERITIES
        .iter()
        .position(|severity| severity.eq_ignore_ascii_case(name))
        .unwrap_or(0)
}

/// Moves the fields that Cloud Logging knows from the payload to the entry; the rest stays, `message` included.
fn lift(entry: &mut Value, mut fields: Map<String, Value>) {
    const LIFTED: [(&str, &str); 6] = [
        ("httpRequest", "httpRequest"),
        ("logging.googleapis.com/operation", "operation"),
        ("logging.googleapis.com/sourceLocation", "sourceLocation"),
        ("logging.googleapis.com/trace", "trace"),
        ("logging.googleapis.com/spanId", "spanId"),
        ("logging.googleapis.com/trace_sampled", "traceSampled"),
    ];
    fields.remove("severity");
    if let (Some(Value::Object(more)), Some(labels)) =
        (fields.remove(LABELS), entry["labels"].as_object_mut())
    {
        labels.extend(more);
    }
    for (from, to) in LIFTED {
        if let Some(value) = fields.remove(from) {
            entry[to] = value;
        }
    }
    entry["jsonPayload"] = Value::Object(fields);
}
