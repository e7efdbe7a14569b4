//! The task behind a watched execution: it polls the execution, and reads the lines that watchers want.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::lag::MAX_LAG;
use super::log_buffer::{LogBuffer, NextPage, Source};
use super::pace::{
    LINES_INTERVAL, LONGEST_PAUSE, POLL_INTERVAL, Pace, elapsed_since, pause_after_failure,
    poll_interval,
};
use super::{End, Finished, Shared, lock};
use crate::execution::Execution;
use crate::gcp::client;
use crate::gcp::cloud_logging::{CloudLogging, Error, Only, PageSize, Position, Query, Report};
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::log_budget::Priority;

/// How long after an execution's end its last lines are read, since lines become visible with a delay.
const SETTLING: Duration = Duration::from_millis(400);
/// When to look for lines after an execution's end if the delay with which they are shown has not been measured yet.
const LOOKS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(5), MAX_LAG];
/// How long the event `end` is held back for the first read after the execution's end.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long it is held back for a later read, once that is due, which looks for lines that are shown late.
const LATER_PATIENCE: Duration = Duration::from_secs(2);
/// How long it is held back if there are known to be unread lines, or if the execution had finished before it was watched.
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// The pause after a failed read of the last lines.
const RETRY_AT_END: Duration = Duration::from_millis(200);

/// The task behind a watched execution.
pub struct Follower {
    /// The client that reads the execution.
    pub cloud_run: Arc<CloudRun>,
    /// The client that reads its lines.
    pub logging: Arc<CloudLogging>,
    /// The data that the watchers share.
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

    /// Publishes the execution to the watchers. Returns whether it has finished.
    fn publish(&self, mut execution: Execution) -> bool {
        let finished = execution.state.is_finished();
        self.shared.snapshot.send_if_modified(|snapshot| {
            snapshot.not_found = 0;
            snapshot.failure = None;
            let known = snapshot.execution.as_ref();
            execution.progress = known.and_then(|known| known.progress.clone());
            if snapshot.execution.as_deref() == Some(&execution) {
                return false;
            }
            snapshot.finished = finished.then(|| Finished {
                seen: Instant::now(),
                at: finished_at(&execution),
                before_watching: snapshot.execution.is_none(),
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

    /// When to read next. None while no watcher wants lines.
    fn due(&self, pace: &Pace, finished: Option<Finished>) -> Option<Instant> {
        let lines = lock(&self.shared.lines);
        let lines = lines.as_ref()?;
        let source = lines.wanted()?;
        let created_at = self.created_at();
        let due = match finished {
            Some(finished) if source == Source::Tail => self.last_read_due(pace, finished),
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

    /// When to read the tail of a finished execution: soon after its end, and again once all of its lines are shown.
    fn last_read_due(&self, pace: &Pace, finished: Finished) -> Instant {
        if elapsed_since(Some(finished.at)) >= MAX_LAG && pace.complete_read.is_none() {
            return pace.began; // it finished long ago
        }
        let Some(read) = pace.complete_read.filter(|read| *read >= finished.at) else {
            return finished.seen + SETTLING;
        };
        let mut looks = LOOKS.into_iter().map(|look| finished.at + look);
        instant(match self.shared.lag.bound() {
            Some(_) => self.all_shown_at(finished),
            None => looks
                .find(|look| *look > read)
                .unwrap_or(finished.at + MAX_LAG),
        })
    }

    /// When all lines of a finished execution should be visible, by the delay that was measured.
    fn all_shown_at(&self, finished: Finished) -> Timestamp {
        finished.at + self.shared.lag.bound().unwrap_or(MAX_LAG)
    }

    fn created_at(&self) -> Option<Timestamp> {
        let snapshot = self.shared.snapshot.borrow();
        snapshot.execution.as_ref()?.created_at
    }

    async fn read_once(&self, pace: &mut Pace, finished: Option<Finished>) {
        let (began, began_at) = (Instant::now(), Timestamp::now());
        if !self.earlier_reports_known(pace).await {
            return;
        }
        let Some(page) = self.next_page() else {
            return;
        };
        let source = page.source;
        let first_or_last =
            source == Source::Tail && (finished.is_some() || pace.succeeded.is_none());
        let query = Query {
            execution: &self.shared.name,
            only: Only::All,
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
            // A read that began before the end may be slow. The last lines are read without waiting for it.
            None => {
                tokio::select! { outcome = read => Some(outcome), () = self.finished() => return }
            }
        };
        let mut lines = lock(&self.shared.lines);
        let Some(lines) = lines.as_mut() else { return };
        match outcome {
            Some(Ok(page)) => {
                pace.record_success(source, began);
                let added = lines.add(source, page);
                self.drop_lines_on_shortage(lines);
                self.publish_reports(added.reports);
                if source == Source::Backfill {
                    return;
                }
                if let Some(new) = added.lines {
                    let lag = &self.shared.lag;
                    lag.record(new, pace.complete_read, Timestamp::now());
                }
                pace.complete_read = (!lines.tail_has_more()).then_some(began_at);
                let is_last = |finished| began_at >= self.all_shown_at(finished);
                if !lines.tail_has_more() && finished.is_some_and(is_last) {
                    self.publish_end(true);
                    lines.complete();
                }
            }
            Some(Err(error)) => {
                self.log_failure(pace, &error);
                pace.record_failure();
                if finished.is_some() && will_fail_again(&error) {
                    self.publish_end(false);
                    lines.give_up();
                }
            }
            None => {
                self.publish_end(false);
                lines.give_up();
            }
        }
    }

    /// Reads the reports in lines before the tail, which are not buffered. False if that has failed.
    async fn earlier_reports_known(&self, pace: &mut Pace) -> bool {
        let begins_midway = lock(&self.shared.lines)
            .as_ref()
            .is_some_and(LogBuffer::begins_midway);
        if !begins_midway || pace.earlier_reports_known {
            return true;
        }
        let query = Query {
            execution: &self.shared.name,
            only: Only::Reports,
            since: None,
            page_token: None,
            size: PageSize::default(),
            caller: self.shared.caller,
            priority: Priority::FirstOrLast,
        };
        // They are tried once: a client that reconnects must not wait for its lines because of them.
        pace.earlier_reports_known = true;
        match timeout(PATIENCE, self.logging.lines(&query)).await {
            Ok(Ok(page)) => {
                let reports = page.entries.into_iter();
                let reports = reports.filter_map(|entry| Some((entry.position, entry.report?)));
                self.publish_reports(reports.collect());
            }
            Ok(Err(error)) => self.log_failure(pace, &error),
            Err(_) => {}
        }
        true
    }

    /// Publishes the job's reports to the watchers.
    fn publish_reports(&self, new: Vec<(Position, Report)>) {
        let mut reports = lock(&self.shared.reports);
        let mut changed = false;
        for (position, report) in new {
            changed |= reports.add(&self.shared.name, &position, report);
        }
        if !changed {
            return;
        }
        self.shared.snapshot.send_if_modified(|snapshot| {
            let Some(known) = &snapshot.execution else {
                return false;
            };
            let progress = reports.progress(known.tasks.total);
            if known.progress == progress {
                return false;
            }
            snapshot.progress_json = json(&progress);
            snapshot.progress_revision += 1;
            let execution = Execution {
                progress,
                ..(**known).clone()
            };
            snapshot.json = json(&execution);
            snapshot.execution = Some(Arc::new(execution));
            true
        });
    }

    /// Makes the event `end`, which a watcher gets after its last line.
    fn publish_end(&self, lines_complete: bool) {
        let results = lock(&self.shared.reports).results();
        self.shared.snapshot.send_if_modified(|snapshot| {
            let Some(execution) = &snapshot.execution else {
                return false;
            };
            let end = End {
                execution,
                results: &results,
                lines_complete,
            };
            snapshot.end_json = Some(json(&end));
            snapshot.end_comment = (!lines_complete).then(|| {
                let log_uri = execution.log_uri.as_deref().unwrap_or_default();
                format!("lines may be missing\nall lines are at {log_uri}").into()
            });
            true
        });
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

    /// Until when a read after the execution's end may last.
    fn give_up_at(&self, pace: &Pace, source: Source, finished: Finished) -> Instant {
        let lines = lock(&self.shared.lines);
        let brief = lines
            .as_ref()
            .is_some_and(|lines| is_brief(pace, lines, source, finished));
        match source {
            _ if brief && pace.has_read_since(finished.at) => {
                self.last_read_due(pace, finished) + LATER_PATIENCE
            }
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

fn json(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value).unwrap_or_default().into()
}

/// When the execution finished. If Google's clock is ahead of ours, that is now.
fn finished_at(execution: &Execution) -> Timestamp {
    let now = Timestamp::now();
    execution.completed_at.map_or(now, |at| at.min(now))
}

/// Converts an `Instant` to a `Timestamp`.
fn instant(time: Timestamp) -> Instant {
    let now = Instant::now();
    match Duration::try_from(time.duration_since(Timestamp::now())) {
        Ok(to_come) => now + to_come,
        Err(_) => now.checked_sub(elapsed_since(Some(time))).unwrap_or(now),
    }
}

/// Whether the event `end` is held back for a moment only, because no further lines are known of.
fn is_brief(pace: &Pace, lines: &LogBuffer, source: Source, finished: Finished) -> bool {
    let unread = pace.succeeded.is_none();
    source == Source::Tail && !(lines.tail_has_more() && (!unread || finished.before_watching))
}

/// Whether the same read would fail again. Most likely the account may not read logs.
fn will_fail_again(error: &Error) -> bool {
    matches!(error, Error::Google(client::Error::Refused { status, .. }) if status.is_client_error() && status.as_u16() != 429)
}
