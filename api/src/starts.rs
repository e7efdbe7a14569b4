//! Never twice, never lost: the marker, the single flight per key, the record of what was started, and what to do when the
//! scope is running something already.

mod detached;
mod execution_index;
mod invocation_id;
mod lease;
mod scope_lock;
mod submit;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{sleep, timeout, timeout_at};

use self::detached::Unattended;
use self::execution_index::{Depth, Known, Record};
use self::invocation_id::StartId;
pub use self::invocation_id::{IdempotencyKey, KEY_PATTERN, Marker};
use self::lease::{Claim, Claims, Taken};
use self::scope_lock::Turns;
use self::submit::{Failure, Sending, unknown};
use crate::config::{self, OnRunning};
use crate::execution::Execution;
use crate::gcp::client::Google;
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::metadata::Location;
use crate::http::problem::{Kind, Problem};
use crate::overrides::Overrides;
use crate::process::Process;
use crate::scope::Scope;

/// How long a repetition waits for the start that is under way.
const WAIT_FOR_THE_SAME: Duration = Duration::from_secs(2);
/// What a start keeps of its time for the send, once it waited for others.
const TIME_TO_SEND: Duration = Duration::from_secs(1);
/// How long after its deadline a start still answers for itself: it may be taking a last note.
const GRACE: Duration = Duration::from_secs(1);
/// How often to ask whether another instance is done.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How often to look whether a cancelled execution has ended.
const LOOK_FOR_THE_END: Duration = Duration::from_millis(250);

/// A start that was asked for.
pub struct Start {
    /// For whom.
    pub scope: Scope,
    /// What.
    pub process: Arc<Process>,
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
    pub execution: Arc<Execution>,
    /// Whether some other start made it: the scope had it running.
    pub joined: bool,
    /// Whether an earlier request with the same key was answered with it.
    pub replayed: bool,
}

/// Where many instances keep their claims: a Firestore database.
pub struct Store {
    /// Calls it.
    pub google: Google,
    /// The project it is in.
    pub location: Arc<Location>,
    /// Firestore's API, without a slash at the end.
    pub base_url: String,
}

/// Starts executions.
#[derive(Clone)]
pub struct Starts(Arc<Inner>);

struct Inner {
    cloud_run: Arc<CloudRun>,
    record: Arc<Record>,
    sending: Sending,
    turns: Turns,
    /// None where this process is the only one that starts.
    claims: Option<Claims>,
    unattended: Arc<Unattended>,
    /// Starts with a key under way, by what their markers have in common.
    flights: Mutex<HashMap<StartId, Flight>>,
    /// Starts that may have been accepted unseen, by what their markers have in common.
    doubts: Mutex<HashMap<StartId, Doubt>>,
    deadline: Duration,
    quiet: Duration,
}

/// The outcome of a start, once there is one.
type Landing = watch::Receiver<Option<Result<Started, Problem>>>;

struct Flight {
    marker: Marker,
    outcome: Landing,
}

/// Something may still come of a start: for the quiet time after the last moment at which it can have been sent.
struct Doubt {
    scope: Scope,
    sent_by: Instant,
}

impl Starts {
    /// Nothing is under way, nothing is known. `store` keeps the claims of many instances.
    pub fn new(cloud_run: Arc<CloudRun>, store: Option<Store>, settings: &config::Start) -> Self {
        let deadline = Duration::from_secs(settings.deadline_seconds);
        let quiet = Duration::from_secs(settings.quiet_seconds);
        let lag = SignedDuration::try_from(quiet).unwrap_or(SignedDuration::MAX);
        let record = Arc::new(Record::new(Arc::clone(&cloud_run), lag));
        // As long as its owner may send, and as what it sent may come true.
        let lease = deadline + quiet;
        let claims = store.map(|store| Claims::new(store, Marker::random(), lease));
        Self(Arc::new(Inner {
            sending: Sending::new(Arc::clone(&cloud_run), Arc::clone(&record)),
            cloud_run,
            record,
            turns: Turns::default(),
            claims,
            unattended: Arc::default(),
            flights: Mutex::default(),
            doubts: Mutex::default(),
            deadline,
            quiet,
        }))
    }

    /// Whether the store of claims takes them and gives them back; none if this process needs no store.
    pub async fn try_store(&self) -> Option<Result<(), Problem>> {
        Some(self.0.claims.as_ref()?.try_out().await)
    }

    /// Starts an execution, or answers with the one that the same request started before.
    ///
    /// It goes on when the caller has gone: what has begun is not undone by a closed connection.
    pub async fn start(&self, start: Start) -> Result<Started, Problem> {
        let flying = match self.take_off(&start)? {
            TakeOff::Alone => None,
            TakeOff::First(flying) => Some(flying),
            TakeOff::Again(outcome) => return landed(outcome).await,
        };
        let inner = Arc::clone(&self.0);
        let deadline = Instant::now() + inner.deadline;
        let work = self.0.unattended.attend(async move {
            let outcome = inner.run(&start, deadline).await;
            if let Some(flying) = flying {
                flying.land(&outcome);
            }
            outcome
        });
        let unknown = || unknown(1, "the start is still under way after its deadline");
        let outcome = timeout_at((deadline + GRACE).into(), work).await;
        outcome.unwrap_or_else(|_| Err(unknown()))
    }

    /// Waits for the starts that are under way and whose callers have gone.
    pub async fn landed(&self) {
        self.0.unattended.done().await;
    }

    /// Joins the flight of the same start, or begins one. Nobody can repeat a start without a key.
    fn take_off(&self, start: &Start) -> Result<TakeOff, Problem> {
        if !start.marker.is_keyed() {
            return Ok(TakeOff::Alone);
        }
        let mut flights = self.0.flights();
        if let Some(flight) = flights.get(&start.marker.start()) {
            flight.marker.must_equal(&start.marker)?;
            return Ok(TakeOff::Again(flight.outcome.clone()));
        }
        let (land, outcome) = watch::channel(None);
        let (marker, inner) = (start.marker, Arc::clone(&self.0));
        flights.insert(marker.start(), Flight { marker, outcome });
        let start = marker.start();
        Ok(TakeOff::First(Flying { inner, start, land }))
    }
}

/// How a start begins.
enum TakeOff {
    /// Nobody else can wait for it.
    Alone,
    /// Others may come to wait for it.
    First(Flying),
    /// It is under way.
    Again(Landing),
}

/// What came of the start that the same request began, if that is known soon.
async fn landed(mut outcome: Landing) -> Result<Started, Problem> {
    let landed = timeout(WAIT_FOR_THE_SAME, outcome.wait_for(Option::is_some)).await;
    let outcome = match landed.map_err(|_| in_progress())? {
        Ok(outcome) => outcome.clone(),
        Err(_) => None, // it panicked, which was logged there
    };
    let started = outcome.unwrap_or_else(|| Err(Kind::Internal.into()))?;
    Ok(Started {
        replayed: true,
        ..started
    })
}

/// Takes a flight off the list when it is over, however it ends.
struct Flying {
    inner: Arc<Inner>,
    start: StartId,
    land: watch::Sender<Option<Result<Started, Problem>>>,
}

impl Flying {
    /// Tells those who wait.
    fn land(self, outcome: &Result<Started, Problem>) {
        let land = self.land.clone();
        drop(self);
        if land.receiver_count() > 0 {
            land.send_replace(Some(outcome.clone()));
        }
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.start);
    }
}

/// A scope's turn, here and, if there are other instances, among them.
struct Turn {
    _here: OwnedMutexGuard<()>,
    everywhere: Option<Claim>,
    /// What the turn before this one started. The list may not show it yet.
    last: Option<String>,
}

impl Inner {
    async fn run(&self, start: &Start, deadline: Instant) -> Result<Started, Problem> {
        // What most starts do not need is boxed, here and below: it would make the future of every start three times as large.
        if start.marker.is_keyed()
            && let Some(outcome) = Box::pin(self.by_key(start, deadline)).await
        {
            return outcome;
        }
        self.begin(start, deadline).await
    }

    /// What came of a key before, or comes of it among many instances; none if it is to be started here.
    async fn by_key(&self, start: &Start, deadline: Instant) -> Option<Result<Started, Problem>> {
        if let Some(known) = self.record.find(&start.marker) {
            return Some(self.replay(start, &known).await);
        }
        if let Some(claims) = &self.claims {
            return Some(self.begin_claimed(claims, start, deadline).await);
        }
        self.look_up(start, deadline).await.transpose()
    }

    /// The execution that an earlier request with the same key started. Fails where that cannot be told yet.
    async fn look_up(&self, start: &Start, deadline: Instant) -> Result<Option<Started>, Problem> {
        let doubt = self
            .doubts()
            .get(&start.marker.start())
            .map(|doubt| doubt.sent_by);
        // As of now: only a list that was read after the quiet time says that nothing came of it.
        let quiet = doubt.is_none_or(|sent_by| sent_by.elapsed() >= self.quiet);
        let unknown = |cause: &str| doubt.map(|sent_by| self.unknown(sent_by, cause));
        self.read(Depth::Key, deadline).await.map_err(|problem| {
            unknown(problem.cause().unwrap_or("the list cannot be read")).unwrap_or(problem)
        })?;
        if let Some(known) = self.record.find(&start.marker) {
            return self.replay(start, &known).await.map(Some);
        }
        match unknown("an earlier send is not in the list, but may still appear") {
            Some(problem) if !quiet => Err(problem),
            _ => Ok(None),
        }
    }

    async fn replay(&self, start: &Start, known: &Known) -> Result<Started, Problem> {
        start.marker.must_equal(&known.marker)?;
        self.replay_named(start, &known.name).await
    }

    async fn replay_named(&self, start: &Start, name: &str) -> Result<Started, Problem> {
        self.doubts().remove(&start.marker.start());
        let gone = "The execution that this Idempotency-Key started has been deleted. Use a new key for a new start.";
        let execution = self.cloud_run.get(name).await?;
        let execution = execution.ok_or_else(|| Problem::new(Kind::ExecutionNotFound, gone))?;
        Ok(Started {
            joined: execution.invocation_id != Some(start.marker.to_string()),
            execution: execution.into(),
            replayed: true,
        })
    }

    /// Starts if no other instance does or did.
    async fn begin_claimed(
        &self,
        claims: &Claims,
        start: &Start,
        deadline: Instant,
    ) -> Result<Started, Problem> {
        let (claim, new) = match self.claim(claims, start, deadline).await? {
            Claimed::Replayed(started) => return Ok(*started),
            Claimed::Mine { claim, new } => (claim, new),
        };
        // Without a list nobody knows what the claim's last owner sent: it stays claimed, and the lease goes on.
        let earlier = match new {
            true => None,
            false => self.look_up(start, deadline).await?,
        };
        let outcome = match earlier {
            Some(replayed) => Ok(replayed),
            None => self.begin(start, deadline).await,
        };
        let noted = match &outcome {
            Ok(started) => claims.settle(&claim, Some(&started.execution.name)).await,
            // It holds until what was sent can no longer come true.
            Err(problem) if problem.kind == Kind::StartOutcomeUnknown => Ok(()),
            Err(_) => claims.release(&claim).await,
        };
        note(noted);
        outcome
    }

    async fn claim(
        &self,
        claims: &Claims,
        start: &Start,
        deadline: Instant,
    ) -> Result<Claimed, Problem> {
        let until = deadline.min(Instant::now() + WAIT_FOR_THE_SAME);
        loop {
            match claims.take(&start.marker).await? {
                Taken::New(claim) => return Ok(Claimed::Mine { claim, new: true }),
                Taken::Again(claim) => return Ok(Claimed::Mine { claim, new: false }),
                Taken::Started(name) => {
                    return self.replay_named(start, &name).await.map(Claimed::replayed);
                }
                Taken::Held => self.read(Depth::Key, deadline).await?, // its owner may have died since it sent
            }
            if let Some(known) = self.record.find(&start.marker) {
                return self.replay(start, &known).await.map(Claimed::replayed);
            }
            if Instant::now() + ASK_AGAIN > until {
                return Err(in_progress());
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// Starts, whatever the key's past; what else the scope is running counts.
    async fn begin(&self, start: &Start, deadline: Instant) -> Result<Started, Problem> {
        match start.on_running {
            OnRunning::Allow => self.send(start, deadline).await,
            _ => Box::pin(self.begin_in_turn(start, deadline)).await,
        }
    }

    /// Starts if nothing else of the scope stands against it.
    async fn begin_in_turn(&self, start: &Start, deadline: Instant) -> Result<Started, Problem> {
        let turn = self.turn(start, deadline).await?;
        let way = timeout_at(
            deadline.into(),
            self.make_way(start, turn.last.as_deref(), deadline),
        );
        let way = way
            .await
            .unwrap_or_else(|_| Err(Kind::UpstreamTimeout.into()));
        let outcome = match way {
            Ok(Some(execution)) => Ok(self.join(start, execution)),
            Ok(None) => self.send(start, deadline).await,
            Err(problem) => Err(problem),
        };
        self.end_turn(&turn, &outcome).await;
        outcome
    }

    async fn turn(&self, start: &Start, deadline: Instant) -> Result<Turn, Problem> {
        let busy = || Problem::new(Kind::ScopeBusy, "Another start of this scope is under way.");
        let until = deadline - TIME_TO_SEND;
        let here = timeout_at(until.into(), self.turns.take(&start.scope)).await;
        let here = here.map_err(|_| busy())?;
        let Some(claims) = &self.claims else {
            return Ok(Turn {
                _here: here,
                everywhere: None,
                last: None,
            });
        };
        // Never left in the middle of a call: that could take the turn, and nobody would know.
        loop {
            if let Some((claim, last)) = claims.take_turn(&start.scope, &start.marker).await? {
                return Ok(Turn {
                    _here: here,
                    everywhere: Some(claim),
                    last,
                });
            }
            if Instant::now() + ASK_AGAIN > until {
                return Err(busy());
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn end_turn(&self, turn: &Turn, outcome: &Result<Started, Problem>) {
        let (Some(claims), Some(claim)) = (&self.claims, &turn.everywhere) else {
            return;
        };
        note(match outcome {
            Ok(started) => claims.settle(claim, Some(&started.execution.name)).await,
            // What was sent may still come true; until then the scope counts as busy.
            Err(problem) if problem.kind == Kind::StartOutcomeUnknown => Ok(()),
            Err(_) => claims.settle(claim, turn.last.as_deref()).await,
        });
    }

    /// Does what `on_running` says about the scope's unfinished executions. Returns the one to answer with, if any.
    async fn make_way(
        &self,
        start: &Start,
        last: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<Execution>, Problem> {
        let doubtful = self.doubtful(start);
        let unfinished = self.unfinished(start, last, deadline).await?;
        let settled = doubtful.iter().all(|start| self.record.knows(*start));
        if !settled && (unfinished.is_empty() || start.on_running == OnRunning::Replace) {
            let detail = "Whether an earlier start of this scope came about is not known yet.";
            return Err(Problem::new(Kind::ScopeBusy, detail));
        }
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

    /// Other starts of the scope that may still come true.
    fn doubtful(&self, start: &Start) -> Vec<StartId> {
        let doubts = self.doubts();
        let others = doubts.iter().filter(|(other, doubt)| {
            **other != start.marker.start()
                && doubt.scope == start.scope
                && doubt.sent_by.elapsed() < self.quiet
        });
        others.map(|(other, _)| *other).collect()
    }

    /// The scope's unfinished executions as Cloud Run has them now: the newest, and if they are to be replaced all others.
    /// `last` is looked at whether listed or not.
    async fn unfinished(
        &self,
        start: &Start,
        last: Option<&str>,
        deadline: Instant,
    ) -> Result<Vec<Execution>, Problem> {
        let mut names = loop {
            self.read(Depth::All, deadline).await?;
            if let Some(names) = self.record.unfinished(&start.scope) {
                break names;
            }
        };
        if let Some(last) = last.filter(|last| !names.iter().any(|name| name == last)) {
            names.insert(0, last.to_owned());
        }
        let mut unfinished = Vec::new();
        for name in names {
            unfinished.extend(self.if_unfinished(&name).await?);
            if !unfinished.is_empty() && start.on_running != OnRunning::Replace {
                break;
            }
        }
        Ok(unfinished)
    }

    /// Answers with an execution of another start. The key names it from now on.
    fn join(&self, start: &Start, execution: Execution) -> Started {
        if start.marker.is_keyed() {
            self.record.joined(&start.marker, &execution);
        }
        Started {
            execution: execution.into(),
            joined: true,
            replayed: false,
        }
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

    async fn send(&self, start: &Start, deadline: Instant) -> Result<Started, Problem> {
        let outcome = self
            .sending
            .send(
                &start.marker,
                &start.process.target,
                &start.overrides,
                deadline,
            )
            .await;
        match outcome {
            Ok(execution) => {
                self.doubts().remove(&start.marker.start());
                Ok(Started {
                    execution: execution.into(),
                    joined: false,
                    replayed: false,
                })
            }
            Err(Failure::NotStarted(problem)) => Err(problem),
            Err(Failure::Unknown(sent_by, cause)) => {
                self.doubt(start, sent_by);
                Err(self.unknown(sent_by, &cause))
            }
        }
    }

    /// Remembers that a send may still come true. It is only of use until the quiet time is over.
    fn doubt(&self, start: &Start, sent_by: Instant) {
        let mut doubts = self.doubts();
        doubts.retain(|_, doubt| doubt.sent_by.elapsed() < self.quiet);
        let scope = start.scope.clone();
        doubts.insert(start.marker.start(), Doubt { scope, sent_by });
    }

    fn unknown(&self, sent_by: Instant, cause: &str) -> Problem {
        let quiet_in = self.quiet.saturating_sub(sent_by.elapsed());
        unknown(quiet_in.as_secs() + 1, cause)
    }

    async fn read(&self, depth: Depth, deadline: Instant) -> Result<(), Problem> {
        let read = timeout_at(deadline.into(), self.record.read(depth)).await;
        read.unwrap_or_else(|_| Err(Kind::UpstreamTimeout.into()))
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<StartId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, HashMap<StartId, Doubt>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of claiming a key.
enum Claimed {
    Mine { claim: Claim, new: bool },
    Replayed(Box<Started>),
}

impl Claimed {
    fn replayed(started: Started) -> Self {
        Self::Replayed(Box::new(started))
    }
}

/// A note that could not be taken: whoever comes next finds the execution in Cloud Run's list instead.
fn note(noted: Result<(), Problem>) {
    if let Err(problem) = noted {
        tracing::warn!(
            cause = problem.cause(),
            "the idempotency store did not take a note"
        );
    }
}

fn in_progress() -> Problem {
    let detail = "The start with this Idempotency-Key is still under way. Repeat the request after the time in Retry-After.";
    Problem::new(Kind::IdempotencyInProgress, detail)
}

fn busy(detail: &'static str, execution: &Execution) -> Problem {
    Problem::new(Kind::ScopeBusy, detail).execution(execution.links.self_path.clone())
}
