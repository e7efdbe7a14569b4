//! Sends one start to Cloud Run. A send that had no effect is repeated; after an ambiguous one the list is searched first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::{sleep, sleep_until, timeout_at};
use tower::retry::budget::{Budget, TpsBudget};

use super::Start;
use super::error::Error;
use super::execution_index::{ExecutionIndex, Horizon};
use crate::backoff::full_jitter;
use crate::execution::Execution;
use crate::gcp::client;
use crate::gcp::cloud_run::{CloudRun, RUN_TIMEOUT};
use crate::random;

/// Sends per start, the first included (SRE book, "Handling Overload").
const MAX_SENDS: u32 = 3;
/// Backoff between sends that had no effect: full jitter below 200 ms, doubling, at most 2 s.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(2);
/// After an error answer the start is sent again only if the list has not shown the execution for the quiet time. That time is
/// raised to the first of these, and lowered to the second, so that there is time for a send before the deadline.
const MIN_CLEAN_LIST: Duration = Duration::from_secs(5);
const MAX_CLEAN_LIST: Duration = Duration::from_secs(8);
/// How much of the deadline is reserved for that further send and its answer.
const TIME_FOR_RESEND: Duration = Duration::from_secs(1);
/// Requests that failed together are sent again at random moments within this time.
const RESEND_SPREAD: Duration = Duration::from_millis(500);
/// How often to look in the list for an execution. Jitter makes each pause half to one and a half of this.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How much of the deadline is reserved for the last look.
const TIME_FOR_LOOK: Duration = Duration::from_millis(500);
/// The budget for repeated sends, counted over ten seconds: one for every seven starts (tower takes the inverse of the share,
/// as an integer), and three a second in any case. At a hundred starts a second the two add up to less than a fifth.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
const BUDGET_SHARE: f32 = 0.14;
const BUDGET_FLOOR_PER_SECOND: u32 = 3;

/// Sends starts.
pub struct Submitter {
    cloud_run: Arc<CloudRun>,
    index: Arc<ExecutionIndex>,
    budget: TpsBudget,
    quiet: Duration,
}

/// An execution that was started.
pub struct Submitted {
    /// The execution.
    pub execution: Arc<Execution>,
    /// Whether it was sent again after an error answer, so that the earlier send may have started another execution.
    pub was_resent: bool,
}

/// What a failed send implies for the execution.
enum SendFailure {
    /// There is no execution, and another try would fail as well.
    Rejected,
    /// There is no execution, and another try may succeed after a pause.
    NoEffect(Option<Duration>),
    /// There is no execution, and another try may succeed at once with a fresh token.
    TokenRejected,
    /// Cloud Run answered with a server error: there may be one.
    AmbiguousServerError,
    /// There was no answer or an unreadable one: there may be an execution, now or later.
    NoResponse,
}

/// How a start failed.
pub enum Failure {
    /// Nothing was started.
    NotStarted(client::Error),
    /// A send at or before this moment may have started an execution.
    Ambiguous(Instant, String),
}

impl Submitter {
    /// Sends to `cloud_run`, and looks for executions in `index`. `quiet` is how long after an unanswered send an execution
    /// may still appear.
    pub fn new(cloud_run: Arc<CloudRun>, index: Arc<ExecutionIndex>, quiet: Duration) -> Self {
        let budget = TpsBudget::new(BUDGET_WINDOW, BUDGET_FLOOR_PER_SECOND, BUDGET_SHARE);
        Self {
            cloud_run,
            index,
            budget,
            quiet,
        }
    }

    /// Starts one execution by the deadline, or returns whether there may be one nevertheless.
    pub async fn submit(&self, start: &Start, deadline: Instant) -> Result<Submitted, Failure> {
        self.budget.deposit();
        let (mut ambiguous_since, mut sends, mut had_bad_token) = (None, 0, false);
        loop {
            sends += 1;
            if Instant::now() >= deadline {
                let late = client::Error::NoEffect("the deadline had passed".to_owned());
                return Err(failure(ambiguous_since, late));
            }
            let since = Timestamp::now();
            let left = deadline.saturating_duration_since(Instant::now());
            // Half of what is left. The other half is for searching the list if there is no answer.
            let timeout = if ambiguous_since.is_some() {
                left
            } else {
                left / 2
            };
            let timeout = RUN_TIMEOUT.min(timeout);
            let sent = self
                .cloud_run
                .run(&start.process.target, &start.overrides, timeout)
                .await;
            let error = match sent {
                Ok(execution) => {
                    self.index.add(&execution);
                    return Ok(Submitted {
                        execution: execution.into(),
                        was_resent: ambiguous_since.is_some(),
                    });
                }
                Err(error) => error,
            };
            let sent_by = Instant::now(); // a token, or a second try, may have come first
            tracing::warn!(invocationId = %start.id, sends, %error, "jobs.run failed or gave no answer");
            let again = sends < MAX_SENDS;
            match send_failure(&error) {
                SendFailure::NoEffect(wait) if again => {
                    let wait =
                        wait.unwrap_or_else(|| full_jitter(BACKOFF_BASE, BACKOFF_CAP, sends));
                    if Instant::now() + wait >= deadline || !self.budget.withdraw() {
                        return Err(failure(ambiguous_since, error));
                    }
                    sleep(wait).await;
                }
                SendFailure::TokenRejected if !had_bad_token && again => {
                    had_bad_token = true;
                    if !self.budget.withdraw() {
                        return Err(failure(ambiguous_since, error));
                    }
                }
                SendFailure::NoEffect(_) | SendFailure::TokenRejected | SendFailure::Rejected => {
                    return Err(failure(ambiguous_since, error));
                }
                SendFailure::AmbiguousServerError => {
                    let resend_at = self.resend_at(sent_by, deadline);
                    let resend_at = resend_at.filter(|_| again && ambiguous_since.is_none());
                    ambiguous_since = Some(sent_by);
                    let looked = match resend_at {
                        Some(at) => Box::pin(self.look_until(start, since, at, deadline)).await,
                        None => Err(Error::OutOfTime),
                    };
                    match looked {
                        Ok(Some(execution)) => return Ok(found(execution)),
                        Ok(None) if self.budget.withdraw() => {} // the loop sends it again
                        _ => {
                            let looked =
                                Box::pin(self.look_to_the_end(start, since, deadline)).await;
                            return looked.ok_or_else(|| failure(ambiguous_since, error));
                        }
                    }
                }
                SendFailure::NoResponse => {
                    let looked = Box::pin(self.look_to_the_end(start, since, deadline)).await;
                    return looked.ok_or_else(|| failure(Some(sent_by), error));
                }
            }
        }
    }

    /// When to send again after an error answer at `answered_at`, if the list does not show the execution until then: as late as
    /// the quiet time demands or the deadline permits. None if that would be too early to rely on the list.
    fn resend_at(&self, answered_at: Instant, deadline: Instant) -> Option<Instant> {
        let clean = answered_at + self.quiet.clamp(MIN_CLEAN_LIST, MAX_CLEAN_LIST);
        let spread = RESEND_SPREAD.mul_f64(random::fraction());
        let quiet = answered_at + self.quiet.max(MIN_CLEAN_LIST) + spread;
        let latest = deadline.checked_sub(TIME_FOR_RESEND)?;
        let at = quiet.min(latest.checked_sub(spread)?).max(clean);
        Some(at).filter(|at| *at <= latest)
    }

    /// Looks in the list again and again, at uneven times, until `until`. The last look is made then, and its result counts:
    /// if the list cannot be read then, that is an error.
    async fn look_until(
        &self,
        start: &Start,
        since: Timestamp,
        until: Instant,
        deadline: Instant,
    ) -> Result<Option<Execution>, Error> {
        loop {
            let next = Instant::now() + LOOK_INTERVAL.mul_f64(0.5 + random::fraction());
            sleep_until(next.min(until).into()).await;
            let looked = self.look(start, since, deadline).await;
            if next >= until || matches!(looked, Ok(Some(_))) {
                return looked;
            }
        }
    }

    /// Looks in the list until the deadline. The start is not sent again.
    async fn look_to_the_end(
        &self,
        start: &Start,
        since: Timestamp,
        deadline: Instant,
    ) -> Option<Submitted> {
        let until = deadline.checked_sub(TIME_FOR_LOOK).unwrap_or(deadline);
        let looked = self.look_until(start, since, until, deadline).await;
        looked.ok().flatten().map(found)
    }

    /// The execution that this start made, if the list shows it by now.
    async fn look(
        &self,
        start: &Start,
        since: Timestamp,
        deadline: Instant,
    ) -> Result<Option<Execution>, Error> {
        let look = async {
            self.index.read(Horizon::Since(since)).await?;
            let Some(listed) = self.index.find(start) else {
                return Ok(None);
            };
            // It was in the list. If it no longer exists, it was started nevertheless.
            let execution = self.cloud_run.get(&listed.name).await?;
            execution.map(Some).ok_or(Error::Deleted)
        };
        let looked = timeout_at(deadline.into(), look).await;
        looked.unwrap_or(Err(Error::OutOfTime))
    }
}

fn found(execution: Execution) -> Submitted {
    Submitted {
        execution: execution.into(),
        was_resent: false,
    }
}

/// Which failed sends may be repeated, and after which the list must be searched. A call that is not idempotent may be repeated
/// only if it certainly had no effect, and even a 503 does not prove that (Google's AIP-194).
fn send_failure(error: &client::Error) -> SendFailure {
    match error {
        client::Error::Metadata(_) | client::Error::NoEffect(_) => SendFailure::NoEffect(None),
        client::Error::Refused {
            status,
            retry_after_seconds,
            ..
        } => match status.as_u16() {
            401 => SendFailure::TokenRejected,
            429 => SendFailure::NoEffect(retry_after_seconds.map(Duration::from_secs)),
            500.. => SendFailure::AmbiguousServerError,
            _ => SendFailure::Rejected,
        },
        client::Error::NotTheApi(_) => SendFailure::Rejected,
        client::Error::NoResponse(_)
        | client::Error::Unreadable(_)
        | client::Error::TooLarge(_) => SendFailure::NoResponse,
    }
}

/// Once one send may have started an execution, a later refusal does not change that.
fn failure(ambiguous_since: Option<Instant>, error: client::Error) -> Failure {
    match ambiguous_since {
        Some(sent_by) => Failure::Ambiguous(sent_by, error.to_string()),
        None => Failure::NotStarted(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitter(quiet_seconds: u64) -> Submitter {
        let cloud_run = Arc::new(CloudRun::for_tests());
        let quiet = Duration::from_secs(quiet_seconds);
        let index = Arc::new(ExecutionIndex::new(Arc::clone(&cloud_run), quiet));
        Submitter::new(cloud_run, index, quiet)
    }

    /// The first and the last second after the answer in which a start may be sent again.
    fn range(quiet_seconds: u64, deadline_seconds: u64) -> Option<(f64, f64)> {
        let (submitter, answered_at) = (submitter(quiet_seconds), Instant::now());
        let deadline = answered_at + Duration::from_secs(deadline_seconds);
        let times = (0..1_000).map(|_| submitter.resend_at(answered_at, deadline));
        times.fold(None, |range, at| {
            let at = (at? - answered_at).as_secs_f64();
            let (first, last) = range.unwrap_or((at, at));
            Some((at.min(first), at.max(last)))
        })
    }

    #[test]
    fn a_start_is_sent_again_late_and_with_jitter_or_never() {
        let (first, last) = range(30, 10).unwrap();
        assert!(
            first >= 8.5 && last <= 9.0 && last - first > 0.3,
            "{first} {last}"
        );
        let (first, last) = range(2, 60).unwrap();
        assert!(
            first >= 5.0 && last <= 5.5 && last - first > 0.3,
            "{first} {last}"
        );
        let (first, last) = range(30, 60).unwrap();
        assert!(first >= 30.0 && last <= 30.5, "{first} {last}");
        assert!(range(30, 8).is_none());
        assert!(
            range(2, 5).is_none(),
            "the list was watched for too short a time"
        );
        assert!(range(2, 1).is_none());
    }
}
