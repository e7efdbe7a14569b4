//! Watching: one poller and one reader of lines per watched execution, any number of watchers.
//!
//! A run is followed while somebody holds a [`Watcher`] of it, and not a moment longer. Its task reads; watchers only look
//! at what was read, each at its own pace, so that a slow one holds up nobody and is owed nothing but its place.

mod log_buffer;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use self::log_buffer::{Cursor, Lines, Next, Want};
pub use self::log_buffer::{Place, place};
use crate::execution::Execution;
use crate::gcp::client::Error;
use crate::gcp::cloud_logging::{CloudLogging, Query};
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::log_budget::For;
use crate::http::problem::{Kind, Problem};
use crate::random;
use crate::scope::Scope;

/// How often an execution is read: a short run every second, a long one seldom. Its end is seen that much later.
const POLL: Duration = Duration::from_secs(1);
const SLOWEST_POLL: Duration = Duration::from_secs(5);
/// A run of this age is read every second still; one of twice the age every two seconds, and so on.
const SHORT_RUN: Duration = Duration::from_secs(5 * 60);
/// The least time between two reads of the lines of one run, unless more are known to be there.
const READ_LINES: Duration = Duration::from_secs(2);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE_OF_LINES: Duration = Duration::from_secs(60);
/// How long somebody who begins to watch waits for the first answer: three that time out, and the pauses between.
const OPENING: Duration = Duration::from_secs(15);
/// How long an execution that was started here may be unknown to Cloud Run.
const BECOMES_KNOWN: Duration = Duration::from_secs(5);
/// Starts remembered for that: more come in that time only where each is known long before.
const MAX_STARTS: usize = 1000;
/// Reads in a row that must say that there is no such execution any more until we believe it.
const GONE_AFTER: u32 = 5;
/// How long after a run's end its last lines are read: they become visible a little late.
const SETTLING: Duration = Duration::from_millis(400);
/// A run that ended so long ago has no lines that are still on their way.
const SETTLED: Duration = Duration::from_secs(10);
/// How long a run's end is kept back for its last lines.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long a read may take after a run's end where lines are known to be there, or it had ended before it was watched.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a failed read of the last lines.
const RETRY_AT_END: Duration = Duration::from_millis(200);

/// The runs that are watched.
pub struct Watches {
    cloud_run: Arc<CloudRun>,
    logging: Arc<CloudLogging>,
    runs: Arc<Mutex<Runs>>,
    started: Mutex<VecDeque<(Instant, String)>>,
}

type Runs = HashMap<String, Weak<Run>>;

/// A run that is followed. Dropped with its last watcher.
struct Run {
    followed: Arc<Followed>,
    task: JoinHandle<()>,
    runs: Arc<Mutex<Runs>>,
}

/// What the task that follows a run shares with those who watch it.
struct Followed {
    name: String,
    view: watch::Sender<View>,
    lines: Mutex<Option<Lines>>,
    /// Somebody wants lines, or the run has ended.
    news: Notify,
}

impl Followed {
    /// Whether somebody may still begin to watch it.
    fn is_usable(&self) -> bool {
        let given_up = lock(&self.lines).as_ref().is_some_and(Lines::is_given_up);
        let view = self.view.borrow();
        !given_up && !view.is_gone() && (view.missing == 0 || view.execution.is_some())
    }
}

/// What is known of a run.
#[derive(Clone, Default)]
struct View {
    execution: Option<Arc<Execution>>,
    /// The same as JSON, written once for all who watch.
    json: Arc<str>,
    /// Counts the changes of `execution`.
    revision: u64,
    /// Reads in a row that found no such execution.
    missing: u32,
    failure: Option<Problem>,
    ended: Option<Ended>,
}

/// When a run was seen to have ended.
#[derive(Clone, Copy)]
struct Ended {
    seen: Instant,
    /// It had ended before it was watched.
    before: bool,
    /// Whether its last lines may be on their way.
    settling: bool,
}

/// What a watcher is told.
pub enum News {
    /// An event to pass on.
    Event(Bytes),
    /// The last event.
    End(Bytes),
    /// Lines are missing that cannot be read now: the client is to come back for them.
    Lost,
}

/// Somebody who watches a run.
pub struct Watcher {
    run: Arc<Run>,
    view: watch::Receiver<View>,
    cursor: Cursor,
    revision: u64,
}

impl Watches {
    /// Follows nothing yet.
    pub fn new(cloud_run: Arc<CloudRun>, logging: Arc<CloudLogging>) -> Self {
        Self {
            cloud_run,
            logging,
            runs: Arc::default(),
            started: Mutex::default(),
        }
    }

    /// Remembers that the execution was just started here: Cloud Run may not know it at once.
    pub fn started(&self, name: &str) {
        let mut started = lock(&self.started);
        let outdated = |(at, _): &(Instant, String)| at.elapsed() > BECOMES_KNOWN;
        while started.len() >= MAX_STARTS || started.front().is_some_and(outdated) {
            started.pop_front();
        }
        started.push_back((Instant::now(), name.to_owned()));
    }

    fn was_just_started(&self, name: &str) -> bool {
        let started = lock(&self.started);
        started
            .iter()
            .any(|(at, other)| other == name && at.elapsed() <= BECOMES_KNOWN)
    }

    /// Begins to watch the scope's execution of this name, its lines from `place` on. Failures upstream are outwaited for a
    /// while; an execution of another scope is as unknown as one that never was.
    pub async fn watch(&self, scope: &Scope, name: &str, place: Place) -> Result<Watcher, Problem> {
        let run = self.run(name);
        let mut view = run.followed.view.subscribe();
        let told = |view: &View| {
            view.execution.is_some() || (view.missing > 0 && !self.was_just_started(name))
        };
        let belongs = |execution: &Arc<Execution>| execution.belongs_to(scope);
        let opened = timeout(OPENING, view.wait_for(told)).await;
        let known = opened.map(|view| view.ok()?.execution.as_ref().map(belongs));
        match (known, run.followed.view.borrow().failure.clone()) {
            (Ok(Some(true)), _) => {}
            (Err(_), Some(failure)) => return Err(failure),
            _ => return Err(Kind::ExecutionNotFound.into()),
        }
        Ok(Watcher {
            cursor: Cursor::new(place),
            revision: 0,
            view,
            run,
        })
    }

    /// The run of this name, followed from now on if it was not.
    fn run(&self, name: &str) -> Arc<Run> {
        let existing; // outlives the lock, which it takes when it was the last of its run
        let mut runs = lock(&self.runs);
        existing = runs.get(name).and_then(Weak::upgrade);
        if let Some(run) = &existing
            && run.followed.is_usable()
        {
            return Arc::clone(run);
        }
        let followed = Arc::new(Followed {
            name: name.to_owned(),
            view: watch::Sender::default(),
            lines: Mutex::default(),
            news: Notify::new(),
        });
        let follower = Follower {
            cloud_run: Arc::clone(&self.cloud_run),
            logging: Arc::clone(&self.logging),
            followed: Arc::clone(&followed),
        };
        let run = Arc::new(Run {
            followed,
            task: tokio::spawn(follower.follow()),
            runs: Arc::clone(&self.runs),
        });
        runs.insert(name.to_owned(), Arc::downgrade(&run));
        run
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
        let mut runs = lock(&self.runs);
        // Another run of the same name may be there already.
        if runs
            .get(&self.followed.name)
            .is_some_and(|run| run.strong_count() == 0)
        {
            runs.remove(&self.followed.name);
        }
    }
}

impl Watcher {
    /// The execution as it was read last.
    pub fn execution(&self) -> Result<Arc<Execution>, Problem> {
        let view = self.view.borrow();
        let known = view.execution.clone().filter(|_| !view.is_gone());
        known.ok_or_else(|| Kind::ExecutionNotFound.into())
    }

    /// Waits for the execution's end, or until it is no more.
    pub async fn ended(&mut self) {
        // An error means that the run is followed no more, which cannot be while we watch it.
        let over = |view: &View| view.ended.is_some() || view.is_gone();
        let _ = self.view.wait_for(over).await;
    }

    /// What happens next; `None` when the execution is no more. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            if let Some(news) = self.look() {
                return Some(news);
            }
            if self.view.borrow().is_gone() || self.view.changed().await.is_err() {
                return None;
            }
        }
    }

    fn look(&mut self) -> Option<News> {
        let view = self.view.borrow_and_update().clone();
        view.execution.as_ref()?;
        // The end is told once its last lines are told too; that it has ended, at once.
        if self.revision < view.revision {
            self.revision = view.revision;
            return Some(News::Event(self.event("execution", &view.json)));
        }
        match self.next_line() {
            Next::Line(line) => Some(News::Event(line)),
            Next::Complete => Some(News::End(self.event("end", &view.json))),
            Next::Lost => Some(News::Lost),
            Next::Wait => {
                self.run.followed.news.notify_one();
                None
            }
        }
    }

    fn next_line(&mut self) -> Next {
        let followed = &self.run.followed;
        let mut lines = lock(&followed.lines);
        lines
            .get_or_insert_with(|| Lines::new(&followed.name, self.cursor.place.clone()))
            .next(&mut self.cursor)
    }

    /// Every event tells the place, so that a client that keeps the id of the last one goes on from there.
    fn event(&self, kind: &str, json: &str) -> Bytes {
        let place = self.cursor.place.as_ref();
        let id = place.map(|position| log_buffer::id(&self.run.followed.name, position));
        event(kind, id.as_deref(), json)
    }
}

/// A server-sent event. JSON has no line breaks, so that one `data` field holds it.
fn event(kind: &str, id: Option<&str>, json: &str) -> Bytes {
    match id {
        None => format!("event: {kind}\ndata: {json}\n\n").into(),
        Some(id) => format!("id: {id}\nevent: {kind}\ndata: {json}\n\n").into(),
    }
}

impl View {
    fn is_gone(&self) -> bool {
        self.missing >= GONE_AFTER
    }
}

/// The task behind a run.
struct Follower {
    cloud_run: Arc<CloudRun>,
    logging: Arc<CloudLogging>,
    followed: Arc<Followed>,
}

impl Follower {
    async fn follow(self) {
        tokio::join!(self.poll(), self.read_lines());
    }

    /// Reads the execution until its end. A failure is no state: it is tried again, a little later each time.
    async fn poll(&self) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let pause = match self.cloud_run.get(&self.followed.name).await {
                Ok(Some(execution)) => {
                    failures = 0;
                    let pause = pause_at(age(&execution));
                    if self.saw(execution) {
                        return;
                    }
                    pause
                }
                Ok(None) => {
                    self.followed.view.send_modify(|view| view.missing += 1);
                    POLL
                }
                Err(error) => {
                    self.failed(error, failures);
                    failures += 1;
                    after_failure(failures, LONGEST_PAUSE)
                }
            };
            sleep_until(begun + pause).await;
        }
    }

    /// Takes the execution as it was read; whether it has ended.
    fn saw(&self, execution: Execution) -> bool {
        let ended = execution.state.is_finished();
        self.followed.view.send_if_modified(|view| {
            view.missing = 0;
            view.failure = None;
            if view.execution.as_deref() == Some(&execution) {
                return false;
            }
            view.ended = ended.then(|| Ended {
                seen: Instant::now(),
                before: view.execution.is_none(),
                settling: since(execution.completed_at) < SETTLED,
            });
            view.json = serde_json::to_string(&execution).unwrap_or_default().into();
            view.execution = Some(Arc::new(execution));
            view.revision += 1;
            true
        });
        if ended {
            self.followed.news.notify_one();
        }
        ended
    }

    fn failed(&self, error: Error, failures: u32) {
        if failures == 0 {
            tracing::warn!(execution = &self.followed.name[..], cause = %error, "an execution could not be read; trying again");
        }
        self.followed
            .view
            .send_modify(|view| view.failure = Some(error.into()));
    }

    /// Reads lines as far as somebody wants them, as often as the budget allows.
    async fn read_lines(&self) {
        let mut pace = Pace::default();
        loop {
            let ended = self.followed.view.borrow().ended;
            let Some(due) = self.due(&pace, ended) else {
                self.followed.news.notified().await;
                continue;
            };
            if Instant::now() < due {
                tokio::select! { () = sleep_until(due) => {}, () = self.followed.news.notified() => {} }
                continue;
            }
            self.read_once(&mut pace, ended).await;
            self.followed.view.send_modify(|_| ()); // whoever waits looks again
        }
    }

    /// When to read next; none while nobody wants anything.
    fn due(&self, pace: &Pace, ended: Option<Ended>) -> Option<Instant> {
        let lines = lock(&self.followed.lines);
        let lines = lines.as_ref()?;
        let want = lines.want()?;
        let age = self.followed.view.borrow().execution.as_deref().map(age);
        let due = match ended {
            Some(ended) if ended.settling && want == Want::Tail => ended.seen + SETTLING,
            None if want == Want::Tail && !lines.tail_goes_on() => {
                pace.tail + pause_at(age.unwrap_or_default()).max(READ_LINES)
            }
            _ => pace.begun,
        };
        let again = match ended {
            Some(ended) if pace.is_brief(lines, want, ended) => RETRY_AT_END,
            _ => pace.pause,
        };
        let retry = pace.failed.map(|failed| failed + again);
        Some(retry.map_or(due, |retry| retry.max(due)))
    }

    async fn read_once(&self, pace: &mut Pace, ended: Option<Ended>) {
        let begun = Instant::now();
        let Some((want, since, from)) = self.source() else {
            return;
        };
        let urgent = want == Want::Tail && (ended.is_some() || pace.succeeded.is_none());
        let query = Query {
            execution: &self.followed.name,
            since,
            from: from.as_deref(),
            whom: if urgent { For::UrgentWatch } else { For::Watch },
        };
        let read = self.logging.lines(&query);
        let outcome = match ended {
            Some(ended) => timeout_at(self.patience(pace, want, ended), read)
                .await
                .ok(),
            // The last lines of a run that ends are not to wait behind a read that began before.
            None => tokio::select! { outcome = read => Some(outcome), () = self.ended() => return },
        };
        let mut lines = lock(&self.followed.lines);
        let Some(lines) = lines.as_mut() else { return };
        match outcome {
            Some(Ok(page)) => {
                pace.succeeded(want, begun);
                lines.add(want, page);
                if ended.is_some() && want == Want::Tail && !lines.tail_goes_on() {
                    lines.complete();
                }
            }
            Some(Err(error)) => {
                self.lines_failed(pace, &error);
                if ended.is_some() && is_final(&error) {
                    lines.give_up();
                }
            }
            None => lines.give_up(),
        }
    }

    fn source(&self) -> Option<(Want, Option<Timestamp>, Option<String>)> {
        let mut lines = lock(&self.followed.lines);
        let lines = lines.as_mut()?;
        let want = lines.want()?;
        let (since, from) = lines.source(want);
        Some((want, since, from))
    }

    /// Until when a read after the run's end is waited for.
    fn patience(&self, pace: &Pace, want: Want, ended: Ended) -> Instant {
        let lines = lock(&self.followed.lines);
        let brief = lines
            .as_ref()
            .is_some_and(|lines| pace.is_brief(lines, want, ended));
        match want {
            _ if brief => ended.seen + PATIENCE,
            Want::Tail => pace.succeeded.unwrap_or(ended.seen).max(ended.seen) + LONG_PATIENCE,
            Want::Past => Instant::now() + LONG_PATIENCE,
        }
    }

    async fn ended(&self) {
        let mut view = self.followed.view.subscribe();
        let _ = view.wait_for(|view| view.ended.is_some()).await;
    }

    fn lines_failed(&self, pace: &mut Pace, error: &Error) {
        if pace.failures == 0 {
            tracing::warn!(execution = &self.followed.name[..], cause = %error, "lines could not be read; trying again");
        }
        pace.failed();
    }
}

/// When lines were read.
struct Pace {
    begun: Instant,
    /// When the tail was read last.
    tail: Instant,
    succeeded: Option<Instant>,
    failed: Option<Instant>,
    failures: u32,
    /// How long to wait after the last failure.
    pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            tail: now,
            succeeded: None,
            failed: None,
            failures: 0,
            pause: Duration::ZERO,
        }
    }
}

impl Pace {
    fn succeeded(&mut self, want: Want, begun: Instant) {
        (self.succeeded, self.failed, self.failures) = (Some(Instant::now()), None, 0);
        if want == Want::Tail {
            self.tail = begun;
        }
    }

    /// Whether the run's end is not to wait long for the read: it is not known that there is more to come.
    fn is_brief(&self, lines: &Lines, want: Want, ended: Ended) -> bool {
        let unread = self.succeeded.is_none();
        want == Want::Tail && !(lines.tail_goes_on() && (!unread || ended.before))
    }

    fn failed(&mut self) {
        self.failed = Some(Instant::now());
        self.failures += 1;
        self.pause = after_failure(self.failures, LONGEST_PAUSE_OF_LINES);
    }
}

/// Whether the same read will fail again: the account may not read logs, most likely.
fn is_final(error: &Error) -> bool {
    let of_ours =
        |status: &axum::http::StatusCode| status.is_client_error() && status.as_u16() != 429;
    matches!(error, Error::Refused { status, .. } if of_ours(status))
}

/// How old the execution is.
fn age(execution: &Execution) -> Duration {
    since(execution.created_at)
}

/// How long ago the time was; not at all if it is unknown or to come.
fn since(time: Option<Timestamp>) -> Duration {
    let passed = time.map(|time| Timestamp::now().duration_since(time));
    passed
        .and_then(|passed| passed.try_into().ok())
        .unwrap_or_default()
}

/// The time between two reads of an execution of this age.
fn pause_at(age: Duration) -> Duration {
    POLL.mul_f64(age.as_secs_f64() / SHORT_RUN.as_secs_f64())
        .clamp(POLL, SLOWEST_POLL)
}

/// A time to wait that doubles with each failure and is different for everybody.
fn after_failure(failures: u32, longest: Duration) -> Duration {
    let span = (POLL / 2 * 2_u32.saturating_pow(failures.min(10))).min(longest - POLL);
    POLL + span.mul_f64(random::fraction())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_is_read_less_often() {
        let pauses = [0, 299, 600, 1200, 1500, 86_400]
            .map(|age| pause_at(Duration::from_secs(age)).as_secs());
        assert_eq!(pauses, [1, 1, 2, 4, 5, 5]);
    }

    #[test]
    fn pauses_after_failures_grow_and_never_undercut_a_second() {
        for (failures, most) in [(1, 2.0), (2, 3.0), (3, 5.0), (40, 5.0)] {
            for _ in 0..100 {
                let pause = after_failure(failures, LONGEST_PAUSE).as_secs_f64();
                assert!((1.0..=most).contains(&pause), "{failures}: {pause}");
            }
        }
    }
}
