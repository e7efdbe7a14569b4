//! Following executions: one poller and one reader of log lines per watched execution, any number of watchers.
//!
//! An execution is polled only while there is a [`Watcher`] of it. One task reads for all its watchers. Each watcher takes the
//! events at its own pace, so that a slow watcher delays no other.

mod error;
mod follower;
mod lag;
mod log_buffer;
mod pace;
pub mod reports;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub use self::error::Error;
use self::follower::Follower;
use self::lag::LogLag;
pub use self::log_buffer::LogCursor;
use self::log_buffer::{LogBuffer, NextLine, Reader};
use self::reports::{Reports, TaskResult};
use crate::caller_id::CallerId;
use crate::execution::Execution;
use crate::gcp::client;
use crate::gcp::cloud_logging::{CloudLogging, Position};
use crate::gcp::cloud_run::CloudRun;
use crate::progress::Progress;
use crate::scope::Scope;

/// How long a new watcher waits for the first answer about the execution: three timeouts and the pauses between them.
const OPENING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long Cloud Run may answer 404 about an execution that this process has just started.
const START_VISIBILITY: Duration = Duration::from_secs(5);
/// How many starts are remembered for that. If starts come faster than this allows, Cloud Run lists each of them sooner.
const MAX_RECENT_STARTS: usize = 1000;
/// After this many 404s in a row, an execution that was known before counts as deleted.
const DELETED_AFTER: u32 = 5;

/// The executions that are watched.
pub struct Watches {
    cloud_run: Arc<CloudRun>,
    logging: Arc<CloudLogging>,
    render: RenderEvent,
    lag: Arc<LogLag>,
    watched: Arc<Mutex<Registry>>,
    recent_starts: Mutex<VecDeque<(Instant, String)>>,
}

type Registry = HashMap<String, Weak<Watched>>;

/// Writes an event in the wire format, which this module does not know. It is a function so that an event is written only once
/// for all watchers.
pub type RenderEvent = fn(&Event<'_>) -> Bytes;

/// Something that happened to an execution.
pub struct Event<'a> {
    /// The kind of the event.
    pub kind: EventKind,
    /// The execution's name.
    pub execution: &'a str,
    /// A client that has this event has every line up to here.
    pub cursor: Option<&'a Position>,
    /// Lines of text for people, sent as comments before the event.
    pub comment: Option<&'a str>,
    /// The event's data, as JSON.
    pub data: &'a str,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The execution has changed, or a watcher sees it for the first time.
    Execution,
    /// The job reported progress.
    Progress,
    /// The job printed a line.
    Log,
    /// The execution has finished, and its lines were read.
    End,
}

/// The data of the event `end`: the execution, its results, and whether all of its lines were in the events before.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End<'a> {
    #[serde(flatten)]
    execution: &'a Execution,
    /// The results that the job reported: the last of each task.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    results: &'a [TaskResult],
    /// False if lines may be missing. All lines are at logUri.
    lines_complete: bool,
}

/// A watched execution, with the task that reads it. Dropped with its last watcher.
struct Watched {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    registry: Arc<Mutex<Registry>>,
}

/// The data that the task and the watchers share.
struct Shared {
    name: String,
    /// The caller of the first watcher, whose share of the log budget is used.
    caller: CallerId,
    render: RenderEvent,
    snapshot: watch::Sender<Snapshot>,
    /// None until a watcher asks for lines.
    lines: Mutex<Option<LogBuffer>>,
    /// How late Cloud Logging shows lines. It is measured over all executions.
    lag: Arc<LogLag>,
    reports: Mutex<Reports>,
    /// Notified when a watcher wants lines, and when the execution has finished.
    lines_wanted: Notify,
}

impl Shared {
    /// Whether new watchers may join.
    fn is_usable(&self) -> bool {
        let gave_up = lock(&self.lines)
            .as_ref()
            .is_some_and(LogBuffer::has_given_up);
        let snapshot = self.snapshot.borrow();
        let not_found_yet = snapshot.execution.is_none() && snapshot.not_found > 0;
        !gave_up && !snapshot.is_deleted() && !not_found_yet
    }
}

/// The execution as it was last read.
#[derive(Clone, Default)]
struct Snapshot {
    execution: Option<Arc<Execution>>,
    /// The execution as JSON, written once for all watchers.
    json: Arc<str>,
    /// Incremented when the execution has changed.
    revision: u64,
    /// The execution's progress as JSON, and how often it has changed.
    progress_json: Arc<str>,
    progress_revision: u64,
    /// The data of the event `end` and the comment before it, once the event may be sent.
    end_json: Option<Arc<str>>,
    end_comment: Option<Arc<str>>,
    /// 404s in a row.
    not_found: u32,
    /// Why the last read failed, if it did.
    failure: Option<client::Error>,
    finished: Option<Finished>,
}

impl Snapshot {
    fn is_deleted(&self) -> bool {
        self.not_found >= DELETED_AFTER
    }
}

/// When an execution finished, and when this was seen.
#[derive(Clone, Copy, Debug)]
struct Finished {
    seen: Instant,
    /// When it finished.
    at: Timestamp,
    /// Whether it had finished before it was watched.
    before_watching: bool,
}

/// An update for a watcher.
pub enum Update {
    /// An event to pass on.
    Event(Bytes),
    /// The last event.
    End(Bytes),
    /// Lines are missing that cannot be read now. The client should reconnect for them.
    LinesLost,
}

/// A reader of one execution's events, such as a stream.
pub struct Watcher {
    watched: Arc<Watched>,
    snapshot: watch::Receiver<Snapshot>,
    reader: Reader,
    revision: u64,
    progress_revision: u64,
}

impl Watches {
    /// Watches no execution yet.
    pub fn new(cloud_run: Arc<CloudRun>, logging: Arc<CloudLogging>, render: RenderEvent) -> Self {
        Self {
            cloud_run,
            logging,
            render,
            lag: Arc::new(LogLag::new()),
            watched: Arc::default(),
            recent_starts: Mutex::default(),
        }
    }

    /// Records that the execution was just started here: Cloud Run may answer 404 about it for a moment.
    pub fn record_start(&self, name: &str) {
        let mut starts = lock(&self.recent_starts);
        let is_old = |(at, _): &(Instant, String)| at.elapsed() > START_VISIBILITY;
        while starts.len() >= MAX_RECENT_STARTS || starts.front().is_some_and(is_old) {
            starts.pop_front();
        }
        starts.push_back((Instant::now(), name.to_owned()));
    }

    fn was_just_started(&self, name: &str) -> bool {
        let starts = lock(&self.recent_starts);
        starts
            .iter()
            .any(|(at, other)| other == name && at.elapsed() <= START_VISIBILITY)
    }

    /// Begins to watch the scope's execution of this name, with its lines after `cursor`. Failures of Cloud Run are retried
    /// for a while. An execution of another scope is answered like one that does not exist.
    pub async fn watch(
        &self,
        scope: &Scope,
        name: &str,
        cursor: LogCursor,
        caller: CallerId,
    ) -> Result<Watcher, Error> {
        let watched = self.watched(name, caller);
        let mut snapshot = watched.shared.snapshot.subscribe();
        let is_known = |snapshot: &Snapshot| {
            snapshot.execution.is_some() || (snapshot.not_found > 0 && !self.was_just_started(name))
        };
        let opening = timeout(OPENING_TIMEOUT, snapshot.wait_for(is_known));
        let timed_out = opening.await.is_err();
        let view = snapshot.borrow().clone();
        match view.execution {
            Some(execution) if execution.belongs_to(scope) => Ok(Watcher {
                watched,
                snapshot,
                reader: Reader::new(not_before(execution.created_at, cursor)),
                revision: 0,
                progress_revision: 0,
            }),
            Some(_) => Err(Error::NotFound),
            None => match view.failure.filter(|_| timed_out) {
                Some(failure) => Err(Error::Upstream(failure)),
                None => Err(Error::NotFound),
            },
        }
    }

    /// The progress that the job reported, if the execution is watched.
    pub fn progress(&self, name: &str) -> Option<Progress> {
        let watched = lock(&self.watched).get(name).and_then(Weak::upgrade)?;
        let snapshot = watched.shared.snapshot.borrow();
        snapshot.execution.as_ref()?.progress.clone()
    }

    /// The entry for the execution of this name: the existing one if it is watched already, or else a new one.
    fn watched(&self, name: &str, caller: CallerId) -> Arc<Watched> {
        // Declared before the lock, so that it is dropped after it: the last reference takes the lock to unregister itself.
        let existing;
        let mut registry = lock(&self.watched);
        existing = registry.get(name).and_then(Weak::upgrade);
        if let Some(watched) = &existing
            && watched.shared.is_usable()
        {
            return Arc::clone(watched);
        }
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            caller,
            render: self.render,
            snapshot: watch::Sender::default(),
            lines: Mutex::default(),
            lag: Arc::clone(&self.lag),
            reports: Mutex::default(),
            lines_wanted: Notify::new(),
        });
        let follower = Follower {
            cloud_run: Arc::clone(&self.cloud_run),
            logging: Arc::clone(&self.logging),
            shared: Arc::clone(&shared),
        };
        let watched = Arc::new(Watched {
            shared,
            task: tokio::spawn(follower.follow()),
            registry: Arc::clone(&self.watched),
        });
        registry.insert(name.to_owned(), Arc::downgrade(&watched));
        watched
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
        let mut registry = lock(&self.registry);
        // The name may belong to a newer entry already.
        if registry
            .get(&self.shared.name)
            .is_some_and(|watched| watched.strong_count() == 0)
        {
            registry.remove(&self.shared.name);
        }
    }
}

impl Watcher {
    /// The execution as it was last read.
    pub fn execution(&self) -> Result<Arc<Execution>, Error> {
        let snapshot = self.snapshot.borrow();
        let known = snapshot
            .execution
            .clone()
            .filter(|_| !snapshot.is_deleted());
        known.ok_or(Error::NotFound)
    }

    /// Waits until the execution has finished, or is deleted.
    pub async fn finished(&mut self) {
        let is_over = |snapshot: &Snapshot| snapshot.finished.is_some() || snapshot.is_deleted();
        // The sender lives as long as this watcher, so that there is no error to handle.
        let _ = self.snapshot.wait_for(is_over).await;
    }

    /// The next update; `None` when the execution is deleted. Cancel-safe.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            if let Some(update) = self.take() {
                return Some(update);
            }
            if self.snapshot.borrow().is_deleted() || self.snapshot.changed().await.is_err() {
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<Update> {
        let snapshot = self.snapshot.borrow_and_update().clone();
        snapshot.execution.as_ref()?;
        // A final state is passed on at once, the event `end` only after the last lines.
        if self.revision < snapshot.revision {
            self.revision = snapshot.revision;
            return Some(Update::Event(self.render(
                EventKind::Execution,
                &snapshot.json,
                None,
            )));
        }
        if self.progress_revision < snapshot.progress_revision {
            self.progress_revision = snapshot.progress_revision;
            let progress = self.render(EventKind::Progress, &snapshot.progress_json, None);
            return Some(Update::Event(progress));
        }
        match self.next_line() {
            NextLine::Line(line) => Some(Update::Event(line)),
            NextLine::Complete => {
                // Set before the lines are complete; if this snapshot is older, a newer one is on its way.
                let end = snapshot.end_json?;
                let comment = snapshot.end_comment.as_deref();
                Some(Update::End(self.render(EventKind::End, &end, comment)))
            }
            NextLine::Lost => Some(Update::LinesLost),
            NextLine::Wait => {
                self.watched.shared.lines_wanted.notify_one();
                None
            }
        }
    }

    fn next_line(&mut self) -> NextLine {
        let shared = &self.watched.shared;
        let mut lines = lock(&shared.lines);
        let start = || LogBuffer::new(&shared.name, self.reader.cursor.clone(), shared.render);
        lines.get_or_insert_with(start).next_line(&mut self.reader)
    }

    /// Every event has the cursor, so that a client can continue from the last event that it received.
    fn render(&self, kind: EventKind, json: &str, comment: Option<&str>) -> Bytes {
        let shared = &self.watched.shared;
        (shared.render)(&Event {
            kind,
            execution: &shared.name,
            cursor: self.reader.cursor.as_ref(),
            comment,
            data: json,
        })
    }
}

/// The cursor, but no earlier than the execution: all watchers share the reads that a cursor causes.
fn not_before(created_at: Option<Timestamp>, cursor: LogCursor) -> LogCursor {
    let mut cursor = cursor?;
    if let Some(created_at) = created_at.filter(|created_at| cursor.time < *created_at) {
        cursor = Position {
            time: created_at,
            insert_id: Arc::default(),
        };
    }
    Some(cursor)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
