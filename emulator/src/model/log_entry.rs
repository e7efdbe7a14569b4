//! One line of a task as an entry of Cloud Logging.

use std::cell::OnceCell;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::site::Site;

const SEVERITIES: [&str; 9] = [
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

/// The attempt of a task that wrote a line.
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
    pub(crate) fn log_name(self, site: &Site) -> String {
        let stream = match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        };
        format!(
            "projects/{}/logs/run.googleapis.com%2F{stream}",
            site.project
        )
    }
}

/// One line of a task.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) source: Source,
    pub(crate) stream: Stream,
    /// Nanoseconds since the epoch, unique for each entry.
    pub(crate) time: i128,
    pub(crate) text: Box<str>,
}

/// An entry as a LogEntry whose fields are made on demand: a filter reads few of them, and most entries do not match.
pub(crate) struct Shown<'a> {
    site: &'a Site,
    entry: &'a Entry,
    /// The fields of the line, if it is a JSON object.
    structured: OnceCell<Option<Map<String, Value>>>,
}

/// The fields of a LogEntry that an entry can have.
const FIELDS: [&str; 15] = [
    "httpRequest",
    "insertId",
    "jsonPayload",
    "labels",
    "logName",
    "operation",
    "receiveTimestamp",
    "resource",
    "severity",
    "sourceLocation",
    "spanId",
    "textPayload",
    "timestamp",
    "trace",
    "traceSampled",
];

const LABELS: &str = "logging.googleapis.com/labels";

/// The fields of a LogEntry that Cloud Logging fills from a JSON line, and where it finds them. The rest, including
/// `message`, stays in the payload.
const LIFTED: [(&str, &str); 6] = [
    ("httpRequest", "httpRequest"),
    ("operation", "logging.googleapis.com/operation"),
    ("sourceLocation", "logging.googleapis.com/sourceLocation"),
    ("spanId", "logging.googleapis.com/spanId"),
    ("trace", "logging.googleapis.com/trace"),
    ("traceSampled", "logging.googleapis.com/trace_sampled"),
];

impl<'a> Shown<'a> {
    pub(crate) fn new(site: &'a Site, entry: &'a Entry) -> Self {
        Self {
            site,
            entry,
            structured: OnceCell::new(),
        }
    }

    fn structured(&self) -> Option<&Map<String, Value>> {
        let text = &self.entry.text;
        let parsed = self.structured.get_or_init(|| {
            let object = text.trim_start().starts_with('{');
            object.then(|| serde_json::from_str(text).ok())?
        });
        parsed.as_ref()
    }

    pub(crate) fn json(&self) -> Value {
        let field = |name: &str| Some((name.to_owned(), self.field(name)?));
        Value::Object(FIELDS.into_iter().filter_map(field).collect())
    }

    /// The field of that name, if the entry has it.
    pub(crate) fn field(&self, name: &str) -> Option<Value> {
        let source = &self.entry.source;
        let Site { project, region } = self.site;
        Some(match name {
            "insertId" => json!(format!("{:x}", self.entry.time)),
            "logName" => json!(self.entry.stream.log_name(self.site)),
            "resource" => {
                let labels =
                    json!({ "project_id": project, "location": region, "job_name": &*source.job });
                json!({ "type": "cloud_run_job", "labels": labels })
            }
            "timestamp" | "receiveTimestamp" => {
                let time = Timestamp::from_nanosecond(self.entry.time).unwrap_or_default();
                json!(time.strftime("%Y-%m-%dT%H:%M:%S%.9fZ").to_string())
            }
            "labels" => self.labels(),
            "textPayload" if self.structured().is_none() => json!(self.entry.text),
            "jsonPayload" => Value::Object(self.payload()?),
            "severity" => {
                let rank = severity(self.structured()?.get("severity")?.as_str()?)?;
                // Protobuf's JSON omits the default.
                json!(SEVERITIES.get(rank).filter(|_| rank > 0)?)
            }
            _ => {
                let (_, lifted) = LIFTED.into_iter().find(|(field, _)| *field == name)?;
                self.structured()?.get(lifted)?.clone()
            }
        })
    }

    /// The labels of Cloud Run and those of a JSON line, which cannot override Cloud Run's.
    fn labels(&self) -> Value {
        let source = &self.entry.source;
        let more = self
            .structured()
            .and_then(|fields| fields.get(LABELS)?.as_object());
        let mut labels = more.cloned().unwrap_or_default();
        for (name, value) in [
            (
                "run.googleapis.com/execution_name",
                source.execution.to_string(),
            ),
            ("run.googleapis.com/task_index", source.index.to_string()),
            (
                "run.googleapis.com/task_attempt",
                source.attempt.to_string(),
            ),
        ] {
            labels.insert(name.to_owned(), value.into());
        }
        Value::Object(labels)
    }

    /// The fields of a JSON line that stay in the payload.
    fn payload(&self) -> Option<Map<String, Value>> {
        let mut fields = self.structured()?.clone();
        fields.retain(|name, _| {
            name != "severity" && name != LABELS && LIFTED.iter().all(|(_, lifted)| name != lifted)
        });
        Some(fields)
    }
}

/// The rank of the severity with this name.
pub(crate) fn severity(name: &str) -> Option<usize> {
    SEVERITIES
        .iter()
        .position(|severity| severity.eq_ignore_ascii_case(name))
}
