//! Cloud Logging: the lines that tasks write, and `entries:list`.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cloud::Cloud;
use crate::filter::Filter;
use crate::jobs::Answer;
use crate::refusal::Refusal;

/// Google's numbers for `entries.list`.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 1000;
const LONGEST_FILTER: usize = 20_000;
/// Text kept in memory in all. Beyond it the lines of the oldest execution go.
const MOST_TEXT: usize = 256 * 1024 * 1024;
/// What an entry costs beside its text.
const ENTRY_OVERHEAD: usize = 64;

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

/// Every line kept, by execution; within one, in the order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Logs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_execution: HashMap<Arc<str>, Vec<Entry>>,
    oldest_first: VecDeque<Arc<str>>,
    last_time: i128,
    size: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListRequest {
    #[serde(default)]
    resource_names: Vec<String>,
    #[serde(default)]
    filter: String,
    #[serde(default)]
    order_by: String,
    #[serde(default)]
    page_size: i64,
    #[serde(default)]
    page_token: String,
}

/// `POST /v2/entries:list`.
pub(crate) async fn list(State(cloud): State<Arc<Cloud>>, body: Bytes) -> Answer {
    let request: ListRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("Invalid JSON payload received. {error}")))?;
    request.check_names(&cloud)?;
    let (filter, descending, size) = (request.filter()?, request.descending()?, request.size()?);
    let after = request.after()?;
    let logs = cloud.logs.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = logs.matching(&cloud, &filter, after, descending, size + 1);
    let more = found.len() > size;
    found.truncate(size);
    let next = found
        .last()
        .filter(|_| more)
        .map(|entry| entry.time.to_string());
    let entries: Vec<Value> = found.into_iter().map(|entry| entry.json(&cloud)).collect();
    let mut answer = Map::new();
    // Protobuf's JSON leaves an empty list and an empty token out.
    if !entries.is_empty() {
        answer.insert("entries".into(), Value::Array(entries));
    }
    answer.extend(next.map(|token| ("nextPageToken".into(), json!(token))));
    Ok(Json(Value::Object(answer)))
}

impl ListRequest {
    fn check_names(&self, cloud: &Cloud) -> Result<(), Refusal> {
        if self.resource_names.is_empty() {
            return Err(Refusal::invalid(
                "resource_names: must name at least one resource, such as projects/PROJECT.",
            ));
        }
        let project = |name: &String| {
            name.strip_prefix("projects/")
                .is_some_and(|name| cloud.is_project(name.split('/').next().unwrap_or_default()))
        };
        match self.resource_names.iter().find(|name| !project(name)) {
            Some(name) => Err(Refusal::denied(format!(
                "Permission 'logging.logEntries.list' denied on resource '{name}' (or it may not exist)."
            ))),
            None => Ok(()),
        }
    }

    fn filter(&self) -> Result<Filter, Refusal> {
        if self.filter.len() > LONGEST_FILTER {
            return Err(Refusal::invalid(format!(
                "filter: is longer than {LONGEST_FILTER} characters."
            )));
        }
        Filter::parse(&self.filter)
            .map_err(|reason| Refusal::invalid(format!("Unparseable filter: {reason}.")))
    }

    fn descending(&self) -> Result<bool, Refusal> {
        match self.order_by.as_str() {
            "" | "timestamp" | "timestamp asc" => Ok(false),
            "timestamp desc" => Ok(true),
            other => Err(Refusal::invalid(format!(
                "orderBy: '{other}' is neither 'timestamp asc' nor 'timestamp desc'."
            ))),
        }
    }

    fn size(&self) -> Result<usize, Refusal> {
        match usize::try_from(self.page_size) {
            Ok(0) => Ok(PAGE),
            Ok(size) if size <= LARGEST_PAGE => Ok(size),
            _ => Err(Refusal::invalid(format!(
                "pageSize: must be between 0 and {LARGEST_PAGE}."
            ))),
        }
    }

    /// The time of the last entry of the page before.
    fn after(&self) -> Result<Option<i128>, Refusal> {
        if self.page_token.is_empty() {
            return Ok(None);
        }
        let time = self.page_token.parse().ok();
        time.map(Some)
            .ok_or_else(|| Refusal::invalid("page_token: is not one that this server gave out."))
    }
}

impl Cloud {
    /// Keeps a line, and prints it if lines are to be echoed.
    pub(crate) fn log(&self, source: &Source, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if self.settings.echo {
            // A closed terminal is no reason to end a task.
            let _closed = writeln!(std::io::stdout().lock(), "{} | {text}", source.execution);
        }
        let mut kept = self.logs.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.add(source, stream, &text);
    }
}

impl Kept {
    fn add(&mut self, source: &Source, stream: Stream, text: &str) {
        self.last_time = Timestamp::now().as_nanosecond().max(self.last_time + 1000);
        let severity = structured(text).map_or(0, |fields| severity(&fields));
        let entry = Entry {
            source: source.clone(),
            stream,
            time: self.last_time,
            severity,
            text: text.into(),
        };
        self.size += text.len() + ENTRY_OVERHEAD;
        if !self.by_execution.contains_key(&source.execution) {
            self.oldest_first.push_back(Arc::clone(&source.execution));
        }
        self.by_execution
            .entry(Arc::clone(&source.execution))
            .or_default()
            .push(entry);
        while self.size > MOST_TEXT {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.oldest_first.pop_front() else {
            return;
        };
        let entries = self.by_execution.remove(&oldest).unwrap_or_default();
        self.size -= entries
            .iter()
            .map(|entry| entry.text.len() + ENTRY_OVERHEAD)
            .sum::<usize>();
    }

    fn matching(
        &self,
        cloud: &Cloud,
        filter: &Filter,
        after: Option<i128>,
        descending: bool,
        limit: usize,
    ) -> Vec<&Entry> {
        let lists: Vec<&Vec<Entry>> = match filter.execution() {
            Some(name) => self.by_execution.get(name).into_iter().collect(),
            None => self.by_execution.values().collect(),
        };
        let mut found = Vec::new();
        for list in lists {
            let matching = |entry: &&Entry| filter.matches(cloud, entry);
            if descending {
                let end = after.map_or(list.len(), |after| {
                    list.partition_point(|entry| entry.time < after)
                });
                found.extend(list[..end].iter().rev().filter(matching).take(limit));
            } else {
                let from =
                    after.map_or(0, |after| list.partition_point(|entry| entry.time <= after));
                let from = from.max(list.partition_point(|entry| entry.time < filter.not_before()));
                found.extend(list[from..].iter().filter(matching).take(limit));
            }
        }
        found.sort_by_key(|entry| if descending { -entry.time } else { entry.time });
        found
    }
}

impl Entry {
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

    fn json(&self, cloud: &Cloud) -> Value {
        let settings = &cloud.settings;
        let time = Timestamp::from_nanosecond(self.time)
            .unwrap_or_default()
            .strftime("%Y-%m-%dT%H:%M:%S%.9fZ")
            .to_string();
        let mut entry = json!({
            "insertId": self.insert_id(),
            "logName": format!("projects/{}/logs/{}", settings.project, self.stream.log()),
            "resource": {
                "type": "cloud_run_job",
                "labels": { "project_id": settings.project, "location": settings.region, "job_name": &*self.source.job },
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
