//! Never twice, never lost: the marker, the single flight per key, the record of what was started, and what to do when the
//! scope is running something already.

mod marker;
mod record;
mod sending;
mod turns;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde::Deserialize;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{sleep, timeout, timeout_at};

pub use self::marker::{IdempotencyKey, Marker};
use self::record::{Depth, Known, Record};
use self::sending::{Failure, Sending, unknown};
use self::turns::Turns;
use crate::cloud_run::CloudRun;
use crate::config;
use crate::execution::Execution;
use crate::overrides::Overrides;
use crate::problem::{Kind, Problem};
use crate::scope::Scope;

/// How long a repetition waits for the start that is under way.
const WAIT_FOR_THE_SAME: Duration = Duration::from_secs(2);
/// What a start keeps of its time for the send, once it waited for others.
const TIME_TO_SEND: Duration = Duration::from_secs(1);
/// How often to look whether a cancelled execution has ended.
const LOOK_FOR_THE_END: Duration = Duration::from_millis(250);

/// What to do when the scope has an unfinished execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRunning {
    /// Start another.
    Allow,
    /// Refuse, and name it.
    Reject,
    /// Answer with it.
    Join,
    /// Cancel it, wait for its end, then start.
    Replace,
}

/// A start that was asked for.
pub struct Start {
    /// For whom.
    pub scope: Scope,
    /// Tells this start from every other.
    pub marker: Marker,
    /// What is sent; it contains the marker.
    pub overrides: Overrides,
    /// What to do when the scope has an unfinished execution.
    pub on_running: OnRunning,
}

/// An execution, and how it came about.
#[derive(Clone)]
pub struct Started {
    /// The execution.
    pub execution: Execution,
    /// How it came about.
    pub how: How,
}

/// How an execution came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By this request.
    Started,
    /// By an earlier request with the same key.
    Replayed,
    /// By some other start: the scope had it running.
    Joined,
}

/// Starts executions.
#[derive(Clone)]
pub struct Starts(Arc<Inner>);

struct Inner {
    cloud_run: Arc<CloudRun>,
    record: Arc<Record>,
    sending: Sending,
    turns: Turns,
    /// Starts under way, by what their markers have in common.
    flights: Mutex<HashMap<String, Flight>>,
    /// Starts that may have been accepted unseen, and when they were last sent.
    doubts: Mutex<HashMap<String, Instant>>,
    deadline: Duration,
    quiet: Duration,
}

/// The outcome of a start, once there is one.
type Landing = watch::Receiver<Option<Result<Started, Problem>>>;

struct Flight {
    marker: Marker,
    outcome: Landing,
}

impl Starts {
    /// Nothing is under way, nothing is known.
    pub fn new(cloud_run: Arc<CloudRun>, settings: &config::Start) -> Self {
        let quiet = Duration::from_secs(settings.quiet_seconds);
        let lag = SignedDuration::try_from(quiet).unwrap_or(SignedDuration::MAX);
        let record = Arc::new(Record::new(Arc::clone(&cloud_run), lag));
        Self(Arc::new(Inner {
            sending: Sending::new(Arc::clone(&cloud_run), Arc::clone(&record)),
            cloud_run,
            record,
            turns: Turns::default(),
            flights: Mutex::default(),
            doubts: Mutex::default(),
            deadline: Duration::from_secs(settings.deadline_seconds),
            quiet,
        }))
    }

    /// Starts an execution, or answers with the one that the same request started before.
    ///
    /// It goes on when the caller has gone: what has begun is not undone by a closed connection.
    pub async fn start(&self, start: Start) -> Result<Started, Problem> {
        let (mut outcome, mine) = self.take_off(start)?;
        let landed = outcome.wait_for(Option::is_some);
        let landed = match mine {
            true => landed.await,
            false => timeout(WAIT_FOR_THE_SAME, landed)
                .await
                .map_err(|_| in_progress())?,
        };
        let outcome = match landed {
            Ok(outcome) => outcome.clone(),
            Err(_) => None, // its task panicked, which was logged there
        };
        let mut started = outcome.unwrap_or_else(|| Err(Kind::Internal.into()))?;
        if !mine && started.how == How::Started {
            started.how = How::Replayed;
        }
        Ok(started)
    }

    /// Joins the flight of the same start, or begins one. The second value says whether it is a new one.
    fn take_off(&self, start: Start) -> Result<(Landing, bool), Problem> {
        let mut flights = self.0.flights();
        if let Some(flight) = flights.get(start.marker.start()) {
            flight.marker.must_equal(&start.marker)?;
            return Ok((flight.outcome.clone(), false));
        }
        let (land, outcome) = watch::channel(None);
        let flight = Flight {
            marker: start.marker.clone(),
            outcome: outcome.clone(),
        };
        flights.insert(start.marker.start().to_owned(), flight);
        let flying = Flying {
            inner: Arc::clone(&self.0),
            start: start.marker.start().to_owned(),
        };
        tokio::spawn(async move {
            let deadline = Instant::now() + flying.inner.deadline;
            let outcome = flying.inner.run(&start, deadline).await;
            drop(flying);
            land.send_replace(Some(outcome));
        });
        Ok((outcome, true))
    }
}

/// Takes a flight off the list when it is over, however it ends.
struct Flying {
    inner: Arc<Inner>,
    start: String,
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.start);
    }
}

impl Inner {
    async fn run(&self, start: &Start, deadline: Instant) -> Result<Started, Problem> {
        if start.marker.is_keyed()
            && let Some(execution) = self.replay(start, deadline).await?
        {
            return Ok(Started {
                execution,
                how: How::Replayed,
            });
        }
        let _turn = match start.on_running {
            OnRunning::Allow => None,
            _ => Some(self.turn(&start.scope, deadline).await?),
        };
        if let Some(joined) = self.make_way(start, deadline).await? {
            return Ok(Started {
                execution: joined,
                how: How::Joined,
            });
        }
        let execution = self.send(start, deadline).await?;
        Ok(Started {
            execution,
            how: How::Started,
        })
    }

    /// The execution that an earlier request with the same key started. Fails where that cannot be told yet.
    async fn replay(&self, start: &Start, deadline: Instant) -> Result<Option<Execution>, Problem> {
        if let Some(known) = self.record.find(&start.marker) {
            return self.replayed(start, &known).await.map(Some);
        }
        let doubt = self.doubts().get(start.marker.start()).copied();
        self.read(Depth::Key, deadline)
            .await
            .map_err(|problem| match doubt {
                Some(sent_at) => self.unknown(
                    sent_at,
                    problem.cause().unwrap_or("the list cannot be read"),
                ),
                None => problem,
            })?;
        if let Some(known) = self.record.find(&start.marker) {
            return self.replayed(start, &known).await.map(Some);
        }
        match doubt.filter(|sent_at| sent_at.elapsed() < self.quiet) {
            Some(sent_at) => Err(self.unknown(
                sent_at,
                "an earlier send is not in the list, but may still appear",
            )),
            None => Ok(None),
        }
    }

    async fn replayed(&self, start: &Start, known: &Known) -> Result<Execution, Problem> {
        start.marker.must_equal(&known.marker)?;
        self.doubts().remove(start.marker.start());
        let gone = "The execution that this Idempotency-Key started has been deleted. Use a new key for a new start.";
        let execution = self.cloud_run.get(&known.name).await?;
        execution.ok_or_else(|| Problem::new(Kind::ExecutionNotFound, gone))
    }

    async fn turn(&self, scope: &Scope, deadline: Instant) -> Result<OwnedMutexGuard<()>, Problem> {
        let turn = timeout_at((deadline - TIME_TO_SEND).into(), self.turns.take(scope));
        turn.await
            .map_err(|_| Problem::new(Kind::ScopeBusy, "Another start of this scope is under way."))
    }

    /// Does what `on_running` says about the scope's unfinished executions. Returns the one to answer with, if any.
    async fn make_way(
        &self,
        start: &Start,
        deadline: Instant,
    ) -> Result<Option<Execution>, Problem> {
        if start.on_running == OnRunning::Allow {
            return Ok(None);
        }
        let unfinished = self.unfinished(&start.scope, deadline).await?;
        let Some(newest) = unfinished.first() else {
            return Ok(None);
        };
        match start.on_running {
            OnRunning::Allow => Ok(None),
            OnRunning::Join => Ok(Some(newest.clone())),
            OnRunning::Reject => Err(busy(
                "The scope has an unfinished execution; wait for its end, or cancel it.",
                newest,
            )),
            OnRunning::Replace => self.end(&unfinished, deadline).await.map(|()| None),
        }
    }

    /// The scope's unfinished executions, newest first, as Cloud Run has them now.
    async fn unfinished(
        &self,
        scope: &Scope,
        deadline: Instant,
    ) -> Result<Vec<Execution>, Problem> {
        self.read(Depth::All, deadline).await?;
        let mut unfinished = Vec::new();
        for name in self.record.unfinished(scope) {
            unfinished.extend(self.if_unfinished(&name).await?);
        }
        unfinished.sort_by(|a, b| b.created_at.cmp(&a.created_at));
        Ok(unfinished)
    }

    async fn if_unfinished(&self, name: &str) -> Result<Option<Execution>, Problem> {
        let execution = self
            .cloud_run
            .get(name)
            .await?
            .filter(|execution| !execution.state.is_finished());
        if execution.is_none() {
            self.record.is_over(name);
        }
        Ok(execution)
    }

    /// Cancels the executions and waits for their ends, as long as there is time to start another afterwards.
    async fn end(&self, executions: &[Execution], deadline: Instant) -> Result<(), Problem> {
        for execution in executions {
            self.cloud_run.cancel(&execution.name).await?;
        }
        for execution in executions {
            while self.if_unfinished(&execution.name).await?.is_some() {
                if Instant::now() + LOOK_FOR_THE_END + TIME_TO_SEND > deadline {
                    return Err(busy(
                        "The scope's execution is being cancelled but has not ended yet; repeat the request.",
                        execution,
                    ));
                }
                sleep(LOOK_FOR_THE_END).await;
            }
        }
        Ok(())
    }

    async fn send(&self, start: &Start, deadline: Instant) -> Result<Execution, Problem> {
        let outcome = self
            .sending
            .send(&start.marker, &start.overrides, deadline)
            .await;
        match outcome {
            Ok(execution) => {
                self.doubts().remove(start.marker.start());
                Ok(execution)
            }
            Err(Failure::NotStarted(problem)) => Err(problem),
            Err(Failure::Unknown(sent_at, cause)) => {
                if start.marker.is_keyed() {
                    self.doubt(start.marker.start(), sent_at);
                }
                Err(self.unknown(sent_at, &cause))
            }
        }
    }

    /// Remembers that a send may still come true. It is only of use until the quiet time is over.
    fn doubt(&self, start: &str, sent_at: Instant) {
        let mut doubts = self.doubts();
        doubts.retain(|_, sent_at| sent_at.elapsed() < self.quiet);
        doubts.insert(start.to_owned(), sent_at);
    }

    fn unknown(&self, sent_at: Instant, cause: &str) -> Problem {
        let quiet_in = self.quiet.saturating_sub(sent_at.elapsed());
        unknown(quiet_in.as_secs() + 1, cause)
    }

    async fn read(&self, depth: Depth, deadline: Instant) -> Result<(), Problem> {
        let read = timeout_at(deadline.into(), self.record.read(depth)).await;
        read.unwrap_or_else(|_| Err(Kind::UpstreamTimeout.into()))
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<String, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_progress() -> Problem {
    let detail = "The start with this Idempotency-Key is still under way. Repeat the request after the time in Retry-After.";
    Problem::new(Kind::IdempotencyInProgress, detail)
}

fn busy(detail: &'static str, execution: &Execution) -> Problem {
    Problem::new(Kind::ScopeBusy, detail).execution(execution.links.itself.clone())
}
