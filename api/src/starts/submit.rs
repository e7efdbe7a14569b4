//! One start's way to Cloud Run: what may be sent again, and what must be looked for first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::{sleep, timeout_at};
use tower::retry::budget::{Budget, TpsBudget};

use super::execution_index::{Depth, Record};
use super::invocation_id::Marker;
use crate::execution::Execution;
use crate::gcp::client::{Error, MAX_RETRY_AFTER_SECONDS};
use crate::gcp::cloud_run::{CloudRun, RUN_TIMEOUT, Target};
use crate::http::problem::{Kind, Problem};
use crate::overrides::Overrides;
use crate::random;

/// Sends per start, the first included (SRE book, "Handling Overload").
const MAX_SENDS: u32 = 3;
/// Backoff between sends: full jitter below 200 ms, doubling, at most 2 s.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(2);
/// When to look for a start that was answered by an error of Cloud Run's: since the error came.
const LOOK_AFTER_ERROR: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(1500)];
/// How often to look for a start that was not answered at all.
const LOOK_AFTER_SILENCE: Duration = Duration::from_secs(1);
/// Sends that are repetitions: one for seven starts (tower takes the inverse of the share, whole), counted over ten seconds,
/// and three a second in any case. At a hundred starts a second both together are less than a fifth.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
const BUDGET_SHARE: f32 = 0.14;
const BUDGET_FLOOR_PER_SECOND: u32 = 3;

/// Sends starts.
pub struct Sending {
    cloud_run: Arc<CloudRun>,
    record: Arc<Record>,
    budget: TpsBudget,
}

/// What a failed send says of the execution.
enum Outcome {
    /// There is none, and there never will be one.
    Refused,
    /// There is none, and another try may do better after a while.
    NotStarted(Option<Duration>),
    /// There is none, and another token may do better at once.
    TokenRefused,
    /// Cloud Run answered with an error of its own: there may be one.
    Answered,
    /// There was no answer, or none that makes sense: there may be one, now or later.
    Silent,
}

/// How a start failed.
pub enum Failure {
    /// Nothing was started.
    NotStarted(Problem),
    /// Something may have been started by a send at this moment at the latest.
    Unknown(Instant, String),
}

impl Sending {
    /// Sends to `cloud_run`, and looks for lost answers in `record`.
    pub fn new(cloud_run: Arc<CloudRun>, record: Arc<Record>) -> Self {
        let budget = TpsBudget::new(BUDGET_WINDOW, BUDGET_FLOOR_PER_SECOND, BUDGET_SHARE);
        Self {
            cloud_run,
            record,
            budget,
        }
    }

    /// Starts one execution, by the deadline, or says whether there may be one all the same.
    pub async fn send(
        &self,
        marker: &Marker,
        target: &Target,
        overrides: &Overrides,
        deadline: Instant,
    ) -> Result<Execution, Failure> {
        self.budget.deposit();
        let (mut doubt, mut sends, mut refused) = (None, 0, false);
        loop {
            sends += 1;
            if Instant::now() >= deadline {
                return Err(failure(
                    doubt,
                    Error::NotTaken("there was no time left".to_owned()),
                ));
            }
            // Half of what is left: the other half is for looking, should there be no answer.
            let since = Timestamp::now();
            let timeout = RUN_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()) / 2);
            let error = match self.cloud_run.run(target, overrides, timeout).await {
                Ok(execution) => return Ok(self.started(execution)),
                Err(error) => error,
            };
            let sent_by = Instant::now(); // a token, or a second try, may have come first
            tracing::warn!(invocationId = %marker, sends, %error, "a send of a start got no good answer");
            let again = sends < MAX_SENDS;
            match outcome(&error) {
                Outcome::NotStarted(wait) if again => {
                    let wait = wait.unwrap_or_else(|| backoff(sends));
                    if Instant::now() + wait >= deadline || !self.budget.withdraw() {
                        return Err(failure(doubt, error));
                    }
                    sleep(wait).await;
                }
                Outcome::TokenRefused if !std::mem::replace(&mut refused, true) && again => {
                    if !self.budget.withdraw() {
                        return Err(failure(doubt, error));
                    }
                }
                Outcome::NotStarted(_) | Outcome::TokenRefused | Outcome::Refused => {
                    return Err(failure(doubt, error));
                }
                Outcome::Answered => {
                    doubt = Some(sent_by);
                    match Box::pin(self.look(marker, since, &LOOK_AFTER_ERROR, deadline)).await {
                        Ok(Some(execution)) => return Ok(execution),
                        Ok(None) if again && self.budget.withdraw() => {}
                        Ok(None) | Err(_) => return Err(failure(doubt, error)),
                    }
                }
                Outcome::Silent => {
                    let found = Box::pin(self.look_until(marker, since, deadline)).await;
                    return found.ok_or_else(|| failure(Some(sent_by), error));
                }
            }
        }
    }

    fn started(&self, execution: Execution) -> Execution {
        self.record.add(&execution);
        execution
    }

    /// Looks in the list at each of the times. The last look decides; one that fails decides nothing.
    async fn look(
        &self,
        marker: &Marker,
        since: Timestamp,
        times: &[Duration],
        deadline: Instant,
    ) -> Result<Option<Execution>, Problem> {
        let began = Instant::now();
        for time in times {
            let at = began + *time;
            if at >= deadline {
                return Err(Kind::UpstreamTimeout.into());
            }
            tokio::time::sleep_until(at.into()).await;
            if let Some(execution) = self.find(marker, since, deadline).await? {
                return Ok(Some(execution));
            }
        }
        Ok(None)
    }

    async fn look_until(
        &self,
        marker: &Marker,
        since: Timestamp,
        deadline: Instant,
    ) -> Option<Execution> {
        loop {
            match self
                .look(marker, since, &[LOOK_AFTER_SILENCE], deadline)
                .await
            {
                Ok(Some(execution)) => return Some(execution),
                _ if Instant::now() + LOOK_AFTER_SILENCE >= deadline => return None,
                _ => {}
            }
        }
    }

    /// The execution that this start made, if the list shows it by now.
    async fn find(
        &self,
        marker: &Marker,
        since: Timestamp,
        deadline: Instant,
    ) -> Result<Option<Execution>, Problem> {
        let find = async {
            self.record.read(Depth::Since(since)).await?;
            let Some(known) = self.record.find(marker) else {
                return Ok(None);
            };
            // It was listed: should it be gone by now, it has been started all the same.
            let execution = self.cloud_run.get(&known.name).await?;
            execution
                .map(Some)
                .ok_or_else(|| Kind::ExecutionNotFound.into())
        };
        let found = timeout_at(deadline.into(), find).await;
        found.unwrap_or_else(|_| Err(Kind::UpstreamTimeout.into()))
    }
}

/// What may be repeated, and what must be looked for: a call that is not idempotent is only safe to repeat if it certainly
/// had no effect, and even 503 does not say that (Google's AIP-194).
fn outcome(error: &Error) -> Outcome {
    match error {
        Error::Metadata(_) | Error::NotTaken(_) => Outcome::NotStarted(None),
        Error::Refused {
            status,
            retry_after_seconds,
            ..
        } => match status.as_u16() {
            401 => Outcome::TokenRefused,
            429 => Outcome::NotStarted(retry_after_seconds.map(Duration::from_secs)),
            500.. => Outcome::Answered,
            _ => Outcome::Refused,
        },
        Error::NotTheApi(_) => Outcome::Refused,
        Error::Silent(_) | Error::Unreadable(_) => Outcome::Silent,
    }
}

/// Once one send may have started something, a later refusal does not take that back.
fn failure(doubt: Option<Instant>, error: Error) -> Failure {
    match doubt {
        Some(sent_by) => Failure::Unknown(sent_by, error.to_string()),
        None => Failure::NotStarted(Problem::from(error).but_first("Nothing was started. ")),
    }
}

fn backoff(sends: u32) -> Duration {
    let most = BACKOFF_CAP.min(BACKOFF_BASE * 2_u32.saturating_pow(sends - 1));
    most.mul_f64(random::fraction())
}

/// The problem of a start whose outcome is not known. `seconds`: when a repetition may send again.
pub fn unknown(seconds: u64, cause: &str) -> Problem {
    let detail = "Cloud Run did not say whether the execution started. Repeat the request with the same Idempotency-Key after \
                  the time in Retry-After: it finds the execution, or starts it. Without a key, look at the scope's executions first.";
    let problem = Problem::new(Kind::StartOutcomeUnknown, detail).because(cause);
    problem.retry_after(seconds.clamp(1, MAX_RETRY_AFTER_SECONDS))
}
