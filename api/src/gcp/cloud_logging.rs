//! Cloud Logging: the lines that the tasks of one execution printed.
//!
//! Source of the filter's labels and of every field: Google's reference for `entries.list`, and the requests of gcloud.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::caller_id::CallerId;
use crate::gcp::client::{self, Call, Google};
use crate::gcp::log_budget::{LogBudget, Priority, Spent};
use crate::gcp::metadata::Location;
use crate::gcp::page_memory::{Held, PageMemory};

/// How long a page of lines may take; filters over many entries are slow.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer read, in bytes. One entry has up to 256 KiB, and more with what JSON escapes.
const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// The most that the lines of a page may take, in bytes.
const MAX_PAGE_BYTES: usize = 1024 * 1024;
/// The memory that a page takes while it is read, in bytes: the answer, its lines, and the events made of them.
const READING_BYTES: usize = MAX_ANSWER_BYTES + 2 * MAX_PAGE_BYTES;
/// The fields in which loggers put the message: Google's and most; pino, bunyan, logrus, zap and slog; structlog; others.
const MESSAGE_FIELDS: [&str; 4] = ["message", "msg", "event", "text"];
/// The memory that a line takes besides its text, in bytes.
const LINE_OVERHEAD: usize = 200;
/// How many empty pages in a row are followed by their token.
const MAX_EMPTY_PAGES: usize = 5;

/// Reads the log lines of the processes' jobs. One budget limits how often, another how many pages are held in memory.
pub struct CloudLogging {
    budget: LogBudget,
    memory: PageMemory,
    google: Google,
    location: Arc<Location>,
    base_url: String,
    /// The part of a filter that names the jobs.
    job_names: String,
}

/// Why lines could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The service's budget of log reads is spent.
    #[error(transparent)]
    Budget(#[from] Spent),
    /// The memory for lines is held for other readers.
    #[error("the memory for log lines is in use by slow readers")]
    NoMemory,
    /// Google's API failed.
    #[error("{0}")]
    Google(#[from] client::Error),
}

/// How many lines are asked for at a time: fewer if they are long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSize(usize);

impl PageSize {
    /// Lines asked for, from the largest size to the smallest.
    const LINES: [u32; 4] = [1000, 100, 10, 1];

    fn lines(self) -> u32 {
        Self::LINES.get(self.0).copied().unwrap_or(1)
    }

    fn smaller(self) -> Option<Self> {
        (self.0 + 1 < Self::LINES.len()).then_some(Self(self.0 + 1))
    }

    /// The size for the page after one that took so many bytes: a larger size if such a page would fit as well.
    fn after(self, bytes: usize) -> Self {
        if bytes * 20 < MAX_PAGE_BYTES {
            Self(self.0.saturating_sub(1))
        } else {
            self
        }
    }
}

/// One line of a task.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Line {
    /// When it was printed; RFC 3339, UTC.
    pub time: String,
    /// `DEFAULT`, `INFO`, `ERROR` and so on.
    pub severity: String,
    /// The task's index, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<u32>,
    /// The line itself, or the message of a structured one.
    pub text: String,
}

/// The position of a line among the lines of its execution, in Cloud Logging's order (LogEntry's `timestamp` and `insertId`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When it was printed.
    pub time: Timestamp,
    /// Unique among the entries of one time.
    pub insert_id: Arc<str>,
}

/// A line and its position.
pub struct Entry {
    /// Its position.
    pub position: Position,
    /// The line.
    pub line: Line,
    /// What the job reports in it, if anything.
    pub report: Option<Report>,
}

/// The fields of a structured line in which a job reports about itself, unparsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The task's index, from 0.
    pub task: Option<u32>,
    /// `processProgress`.
    pub progress: Option<Value>,
    /// `processResult`.
    pub result: Option<Value>,
    /// The line's message.
    pub message: Option<String>,
    /// When it was printed; RFC 3339, UTC.
    pub time: String,
}

/// Which lines are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// All lines, oldest first.
    All,
    /// Those in which the job reports progress or a result, newest first.
    Reports,
    /// Those in which the job reports a result, newest first.
    Results,
}

impl Only {
    fn filter(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Reports => " AND (jsonPayload.processProgress:* OR jsonPayload.processResult:*)",
            Self::Results => " AND jsonPayload.processResult:*",
        }
    }

    fn order(self) -> &'static str {
        match self {
            Self::All => "timestamp asc",
            Self::Reports | Self::Results => "timestamp desc",
        }
    }
}

/// Which lines of an execution to read.
pub struct Query<'a> {
    /// The execution's name.
    pub execution: &'a str,
    /// Which of its lines.
    pub only: Only,
    /// Only lines of this time and later. None for all.
    pub since: Option<Timestamp>,
    /// The `next` of an earlier page with the same `since`.
    pub page_token: Option<&'a str>,
    /// The `size` of an earlier page.
    pub size: PageSize,
    /// The caller for whom the permit is taken.
    pub caller: CallerId,
    /// The priority of the read.
    pub priority: Priority,
}

/// Lines in the order that was asked for.
pub struct Page {
    /// The lines.
    pub entries: Vec<Entry>,
    /// The token of the next page.
    pub next: Option<String>,
    /// The size to ask for next time.
    pub size: PageSize,
    /// The memory that the lines take.
    pub held: Held,
}

impl CloudLogging {
    /// Reads the lines of the executions of `jobs`, as often as `budget` allows.
    pub fn new<'a>(
        google: Google,
        location: Arc<Location>,
        budget: LogBudget,
        base_url: &str,
        jobs: impl Iterator<Item = &'a str>,
    ) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        let jobs: BTreeSet<_> = jobs.collect();
        let jobs: Vec<_> = jobs.iter().map(|job| format!(r#""{job}""#)).collect();
        let job_names = match &jobs[..] {
            [job] => format!("resource.labels.job_name={job}"),
            jobs => format!("resource.labels.job_name=({})", jobs.join(" OR ")),
        };
        Self {
            budget,
            memory: PageMemory::of_container(),
            google,
            location,
            base_url,
            job_names,
        }
    }

    /// A page of an execution's lines; one without lines is the last.
    pub async fn lines(&self, query: &Query<'_>) -> Result<Page, Error> {
        let mut page = self.page(query, query.page_token).await?;
        for _ in 0..MAX_EMPTY_PAGES {
            let Some(next) = page.next.take_if(|_| page.entries.is_empty()) else {
                break;
            };
            page = self.page(query, Some(&next)).await?;
        }
        Ok(page)
    }

    /// A page of as many lines as fit.
    async fn page(&self, query: &Query<'_>, token: Option<&str>) -> Result<Page, Error> {
        let mut size = query.size;
        loop {
            self.budget.take(query.caller, query.priority).await?;
            let held = self.memory.hold_soon(READING_BYTES).await;
            let held = held.ok_or(Error::NoMemory)?;
            let outcome = self.read(query, token, size).await;
            match (outcome, size.smaller()) {
                (Err(client::Error::TooLarge(_)), Some(smaller)) => size = smaller,
                (Ok((entries, _)), Some(smaller)) if bytes(&entries) > MAX_PAGE_BYTES => {
                    size = smaller;
                }
                (Ok((entries, next)), _) => {
                    let bytes = bytes(&entries);
                    held.set(bytes);
                    let size = size.after(bytes);
                    return Ok(Page {
                        entries,
                        next,
                        size,
                        held,
                    });
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
    }

    async fn read(
        &self,
        query: &Query<'_>,
        token: Option<&str>,
        size: PageSize,
    ) -> Result<(Vec<Entry>, Option<String>), client::Error> {
        let place = self.location.get().await?;
        let mut filter = format!(
            r#"resource.type="cloud_run_job" AND {} AND resource.labels.location="{}" AND labels."run.googleapis.com/execution_name"="{}""#,
            self.job_names, place.region, query.execution,
        );
        filter.push_str(query.only.filter());
        if let Some(since) = query.since {
            filter.push_str(&format!(r#" AND timestamp>="{since}""#));
        }
        let request = Request {
            resource_names: [format!("projects/{}", place.project)],
            filter,
            order_by: query.only.order(),
            page_size: size.lines(),
            page_token: token,
        };
        let body = serde_json::to_vec(&request)
            .map_err(|error| client::Error::NoEffect(error.to_string()))?;
        let uri = format!("{}/v2/entries:list", self.base_url).parse();
        let uri = uri.map_err(client::not_a_uri)?;
        let call = Call {
            method: Method::POST,
            uri: &uri,
            body: Some(Bytes::from(body)),
            timeout: TIMEOUT,
            max_bytes: MAX_ANSWER_BYTES,
        };
        let answer = self.google.call(&call).await?;
        let list: List<'_> = client::json(&answer)?;
        let next = list
            .next_page_token
            .filter(|next| !next.is_empty())
            .map(Cow::into_owned);
        let entries = list.entries.into_iter().map(GoogleEntry::view).collect();
        Ok((entries, next))
    }
}

/// The memory that the lines take.
fn bytes(entries: &[Entry]) -> usize {
    let each = |entry: &Entry| entry.line.text.len() + LINE_OVERHEAD;
    entries.iter().map(each).sum()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_names: [String; 1],
    filter: String,
    order_by: &'static str,
    page_size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_token: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    #[serde(borrow, default)]
    entries: Vec<GoogleEntry<'a>>,
    #[serde(borrow, default)]
    next_page_token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GoogleEntry<'a> {
    #[serde(borrow, default)]
    insert_id: Cow<'a, str>,
    #[serde(borrow, default)]
    timestamp: Cow<'a, str>,
    #[serde(borrow, default)]
    severity: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    text_payload: Option<Cow<'a, str>>,
    /// Read on its own: one that is nested too deep for that must not hide the other lines.
    #[serde(borrow, default)]
    json_payload: Option<&'a RawValue>,
    /// What Google's own audit logs have in place of a text.
    #[serde(borrow, default)]
    proto_payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    labels: Option<Labels<'a>>,
}

#[derive(Default, Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default, rename = "run.googleapis.com/task_index")]
    task_index: Option<Cow<'a, str>>,
}

impl GoogleEntry<'_> {
    fn view(self) -> Entry {
        let position = Position {
            time: self.timestamp.parse().unwrap_or_default(),
            insert_id: self.insert_id.as_ref().into(),
        };
        let payload = self.payload();
        Entry {
            position,
            report: self.report(payload.as_ref()),
            line: self.line(payload),
        }
    }

    fn task(&self) -> Option<u32> {
        self.labels.as_ref()?.task_index.as_deref()?.parse().ok()
    }

    fn payload(&self) -> Option<Value> {
        serde_json::from_str(self.json_payload?.get()).ok()
    }

    fn report(&self, payload: Option<&Value>) -> Option<Report> {
        let field = |name| payload?.get(name).cloned();
        let (progress, result) = (field("processProgress"), field("processResult"));
        if progress.is_none() && result.is_none() {
            return None;
        }
        Some(Report {
            task: self.task(),
            progress,
            result,
            message: payload.and_then(message).map(str::to_owned),
            time: self.timestamp.clone().into_owned(),
        })
    }

    fn line(self, payload: Option<Value>) -> Line {
        let unread = self.json_payload.or(self.proto_payload);
        Line {
            task: self.task(),
            time: self.timestamp.into_owned(),
            severity: self
                .severity
                .map_or_else(|| "DEFAULT".to_owned(), Cow::into_owned),
            text: match (self.text_payload, payload, unread) {
                (Some(text), _, _) => text.into_owned(),
                (None, Some(json), _) => {
                    message(&json).map_or_else(|| json.to_string(), str::to_owned)
                }
                (None, None, Some(unread)) => unread.get().to_owned(),
                (None, None, None) => String::new(),
            },
        }
    }
}

/// A line's message, under any of the usual names.
fn message(payload: &Value) -> Option<&str> {
    let names = MESSAGE_FIELDS.iter();
    names.filter_map(|name| payload.get(name)?.as_str()).next()
}
