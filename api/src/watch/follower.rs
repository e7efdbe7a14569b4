//! The task behind a watched execution: it polls the execution, and reads the lines that watchers want.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::log_buffer::{LogBuffer, NextPage, Source};
use super::pace::{
    LINES_INTERVAL, LONGEST_PAUSE, POLL_INTERVAL, Pace, elapsed_since, pause_after_failure,
    poll_interval,
};
use super::{Finished, Shared, lock};
use crate::execution::Execution;
use crate::gcp::client;
use crate::gcp::cloud_logging::{CloudLogging, Error, Query};
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::log_budget::Priority;

/// How long after an execution's end its last lines are read: they become visible a little late.
const SETTLING: Duration = Duration::from_millis(400);
/// After this time all lines of a finished execution are visible.
const SETTLED: Duration = Duration::from_secs(10);
/// How long the event `end` is held back for the last lines.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long it is held back where lines are known to be there, or the execution had finished before it was watched.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a failed read of the last lines.
const RETRY_AT_END: Duration = Duration::from_millis(200);

/// The task behind a watched execution.
pub struct Follower {
    /// Where the execution is read.
    pub cloud_run: Arc<CloudRun>,
    /// Where its lines are read.
    pub logging: Arc<CloudLogging>,
    /// Where the watchers find both.
    pub shared: Arc<Shared>,
}

impl Follower {
    /// Reads until it is aborted.
    pub async fn follow(self) {
        tokio::join!(self.poll(), self.read_lines());
    }

    /// Polls the execution until it has finished. A failed read changes no state: it is retried, with growing pauses.
    async fn poll(&self) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let pause = match self.cloud_run.get(&self.shared.name).await {
                Ok(Some(execution)) => {
                    failures = 0;
                    let pause = poll_interval(elapsed_since(execution.created_at));
                    if self.publish(execution) {
                        return;
                    }
                    pause
                }
                Ok(None) => {
                    let count = |snapshot: &mut super::Snapshot| snapshot.not_found += 1;
                    self.shared.snapshot.send_modify(count);
                    POLL_INTERVAL
                }
                Err(error) => {
                    self.publish_failure(error, failures);
                    failures += 1;
                    pause_after_failure(failures, LONGEST_PAUSE)
                }
            };
            sleep_until(began + pause).await;
        }
    }

    /// Hands the execution to the watchers. Returns whether it has finished.
    fn publish(&self, execution: Execution) -> bool {
        let finished = execution.state.is_finished();
        self.shared.snapshot.send_if_modified(|snapshot| {
            snapshot.not_found = 0;
            snapshot.failure = None;
            if snapshot.execution.as_deref() == Some(&execution) {
                return false;
            }
            snapshot.finished = finished.then(|| Finished {
                seen: Instant::now(),
                before_watching: snapshot.execution.is_none(),
                recently: elapsed_since(execution.completed_at) < SETTLED,
            });
            snapshot.json = serde_json::to_string(&execution).unwrap_or_default().into();
            snapshot.execution = Some(Arc::new(execution));
            snapshot.revision += 1;
            true
        });
        if finished {
            self.shared.lines_wanted.notify_one();
        }
        finished
    }

    fn publish_failure(&self, error: client::Error, failures: u32) {
        if failures == 0 {
            tracing::warn!(execution = &self.shared.name[..], cause = %error, "an execution could not be read and will be read again");
        }
        self.shared
            .snapshot
            .send_modify(|snapshot| snapshot.failure = Some(error));
    }

    /// Reads the lines that watchers want, as often as the budget allows.
    async fn read_lines(&self) {
        let mut pace = Pace::default();
        loop {
            let finished = self.shared.snapshot.borrow().finished;
            let Some(due) = self.due(&pace, finished) else {
                self.shared.lines_wanted.notified().await;
                continue;
            };
            if Instant::now() < due {
                tokio::select! { () = sleep_until(due) => {}, () = self.shared.lines_wanted.notified() => {} }
                continue;
            }
            self.read_once(&mut pace, finished).await;
            self.shared.snapshot.send_modify(|_| ()); // wakes the watchers
        }
    }

    /// When to read next; none while no watcher wants lines.
    fn due(&self, pace: &Pace, finished: Option<Finished>) -> Option<Instant> {
        let lines = lock(&self.shared.lines);
        let lines = lines.as_ref()?;
        let source = lines.wanted()?;
        let created_at = self.created_at();
        let due = match finished {
            Some(finished) if finished.recently && source == Source::Tail => {
                finished.seen + SETTLING
            }
            None if source == Source::Tail && !lines.tail_has_more() => {
                pace.tail_read + poll_interval(elapsed_since(created_at)).max(LINES_INTERVAL)
            }
            _ => pace.began,
        };
        let pause = match finished {
            Some(finished) if is_brief(pace, lines, source, finished) => RETRY_AT_END,
            _ => pace.pause,
        };
        let retry = pace.failed.map(|failed| failed + pause);
        Some(retry.map_or(due, |retry| retry.max(due)))
    }

    fn created_at(&self) -> Option<Timestamp> {
        let snapshot = self.shared.snapshot.borrow();
        snapshot.execution.as_ref()?.created_at
    }

    async fn read_once(&self, pace: &mut Pace, finished: Option<Finished>) {
        let began = Instant::now();
        let Some(page) = self.next_page() else {
            return;
        };
        let source = page.source;
        let first_or_last =
            source == Source::Tail && (finished.is_some() || pace.succeeded.is_none());
        let query = Query {
            execution: &self.shared.name,
            since: page.since,
            page_token: page.token.as_deref(),
            size: page.size,
            caller: self.shared.caller,
            priority: if first_or_last {
                Priority::FirstOrLast
            } else {
                Priority::Background
            },
        };
        let read = self.logging.lines(&query);
        let outcome = match finished {
            Some(finished) => timeout_at(self.give_up_at(pace, source, finished), read)
                .await
                .ok(),
            // A read that began before the end may be slow: the last lines do not wait for it.
            None => {
                tokio::select! { outcome = read => Some(outcome), () = self.finished() => return }
            }
        };
        let mut lines = lock(&self.shared.lines);
        let Some(lines) = lines.as_mut() else { return };
        match outcome {
            Some(Ok(page)) => {
                pace.record_success(source, began);
                lines.add(source, page);
                self.drop_lines_on_shortage(lines);
                if finished.is_some() && source == Source::Tail && !lines.tail_has_more() {
                    lines.complete();
                }
            }
            Some(Err(error)) => {
                self.log_failure(pace, &error);
                pace.record_failure();
                if finished.is_some() && will_fail_again(&error) {
                    lines.give_up();
                }
            }
            None => lines.give_up(),
        }
    }

    fn next_page(&self) -> Option<NextPage> {
        let mut lines = lock(&self.shared.lines);
        let lines = lines.as_mut()?;
        let source = lines.wanted()?;
        Some(lines.next_page(source))
    }

    fn drop_lines_on_shortage(&self, lines: &LogBuffer) {
        let shared = Arc::downgrade(&self.shared);
        let drop_lines = move || {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            if let Some(lines) = &mut *lock(&shared.lines) {
                lines.drop_lines();
            }
            shared.snapshot.send_modify(|_| ()); // wakes the watchers
        };
        if let Some(held) = lines.held() {
            held.on_shortage(drop_lines);
        }
    }

    /// Until when a read after the execution's end may take.
    fn give_up_at(&self, pace: &Pace, source: Source, finished: Finished) -> Instant {
        let lines = lock(&self.shared.lines);
        let brief = lines
            .as_ref()
            .is_some_and(|lines| is_brief(pace, lines, source, finished));
        match source {
            _ if brief => finished.seen + PATIENCE,
            Source::Tail => {
                pace.succeeded.unwrap_or(finished.seen).max(finished.seen) + LONG_PATIENCE
            }
            Source::Backfill => Instant::now() + LONG_PATIENCE,
        }
    }

    async fn finished(&self) {
        let mut snapshot = self.shared.snapshot.subscribe();
        let _ = snapshot
            .wait_for(|snapshot| snapshot.finished.is_some())
            .await;
    }

    fn log_failure(&self, pace: &Pace, error: &Error) {
        if pace.failures == 0 {
            tracing::warn!(execution = &self.shared.name[..], cause = %error, "log lines could not be read and will be read again");
        }
    }
}

/// Whether the event `end` is held back for a moment only: it is not known that there are more lines.
fn is_brief(pace: &Pace, lines: &LogBuffer, source: Source, finished: Finished) -> bool {
    let unread = pace.succeeded.is_none();
    source == Source::Tail && !(lines.tail_has_more() && (!unread || finished.before_watching))
}

/// Whether the same read would fail again. Most likely the account may not read logs.
fn will_fail_again(error: &Error) -> bool {
    matches!(error, Error::Google(client::Error::Refused { status, .. }) if status.is_client_error() && status.as_u16() != 429)
}
