//! Starts executions so that each key starts one and no start is lost: one request in flight per key, an index of past starts,
//! leases among instances, and the settings for a scope that already has an unfinished execution.

mod ambiguous;
mod detached;
mod duplicates;
mod error;
mod execution_index;
mod in_flight;
mod invocation_id;
mod lease;
mod on_running;
mod scope_lock;
mod submit;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout_at};

use self::ambiguous::AmbiguousSends;
use self::detached::Detached;
pub use self::error::{Busy, Error};
use self::execution_index::{ExecutionIndex, Horizon, IndexedStart};
use self::in_flight::{FOLLOW_TIMEOUT, InFlight, Role, follow};
pub use self::invocation_id::{IdempotencyKey, InvocationId, KEY_PATTERN, KeyOwner};
pub use self::lease::Store;
use self::lease::{Acquired, Lease, Leases, Recorded};
use self::scope_lock::ScopeLocks;
use self::submit::{Failure, Submitter};
use crate::config::{self, OnRunning};
use crate::execution::Execution;
use crate::gcp::cloud_run::CloudRun;
use crate::overrides::Overrides;
use crate::process::Process;
use crate::scope::Scope;

/// How long after its deadline a start may still be writing to the store.
const GRACE: Duration = Duration::from_secs(1);
/// How often to ask whether the instance that holds the lease has finished.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A start that a caller asks for.
#[derive(Clone)]
pub struct Start {
    /// The scope in which the execution is started.
    pub scope: Scope,
    /// The process to start.
    pub process: Arc<Process>,
    /// Identifies this start among all others.
    pub id: InvocationId,
    /// The overrides to send. They set `INVOCATION_ID`.
    pub overrides: Overrides,
    /// What to do when the scope has as many unfinished executions of the process as it may have.
    pub on_running: OnRunning,
    /// When the request arrived.
    pub begun_at: Timestamp,
}

impl Start {
    /// Whether the execution is of the same scope and process.
    fn is_alike(&self, execution: &Execution) -> bool {
        execution.belongs_to(&self.scope) && execution.process == self.process.name
    }
}

/// An execution, and whether this request started it.
#[derive(Clone)]
pub struct Started {
    /// The execution.
    pub execution: Arc<Execution>,
    /// Whether another start made it and this one joined it.
    pub joined: bool,
    /// Whether an earlier request with the same key already got it as its answer.
    pub replayed: bool,
}

type Outcome = Result<Started, Error>;

/// Starts executions.
#[derive(Clone)]
pub struct Starts(Arc<Inner>);

struct Inner {
    /// Runs work to its end after its request is dropped.
    this: Weak<Inner>,
    /// When this process began to start executions.
    since: Instant,
    cloud_run: Arc<CloudRun>,
    index: Arc<ExecutionIndex>,
    submitter: Submitter,
    locks: ScopeLocks,
    /// None if this process is the only one that starts executions.
    leases: Option<Leases>,
    /// Set once the store has taken a lease of this process.
    store_reached: OnceCell<()>,
    detached: Arc<Detached>,
    in_flight: Arc<InFlight>,
    ambiguous: AmbiguousSends,
    /// Until when the list is read for duplicates. None if it is not being read.
    looking_until: Mutex<Option<Instant>>,
    deadline: Duration,
}

impl Starts {
    /// No start is in flight and the index is empty. `store` keeps the leases of many instances.
    pub fn new(cloud_run: Arc<CloudRun>, store: Option<Store>, settings: &config::Start) -> Self {
        let deadline = Duration::from_secs(settings.deadline_seconds);
        let quiet = Duration::from_secs(settings.quiet_seconds);
        let index = Arc::new(ExecutionIndex::new(Arc::clone(&cloud_run), quiet));
        let leases = store.map(|store| Leases::new(store, deadline + quiet, index.listing_lag()));
        Self(Arc::new_cyclic(|this| Inner {
            this: this.clone(),
            since: Instant::now(),
            submitter: Submitter::new(Arc::clone(&cloud_run), Arc::clone(&index), quiet),
            cloud_run,
            index,
            locks: ScopeLocks::default(),
            leases,
            store_reached: OnceCell::new(),
            detached: Arc::default(),
            in_flight: Arc::default(),
            ambiguous: AmbiguousSends::new(quiet),
            looking_until: Mutex::default(),
            deadline,
        }))
    }

    /// Tests that a lease can be taken and released. None if this process needs no store.
    pub async fn check_store(&self) -> Option<Result<(), Error>> {
        Some(self.0.leases.as_ref()?.check().await)
    }

    /// Whether the store, if one is needed, has ever taken a lease of this process. Asked once, so that a store that fails later
    /// takes no instance away: those can read executions without it.
    pub async fn reached_store(&self) -> Result<(), Error> {
        let Some(leases) = &self.0.leases else {
            return Ok(());
        };
        let reached = self.0.store_reached.get_or_try_init(|| leases.check());
        reached.await.copied()
    }

    /// Starts an execution, or answers with the one that the same request started before.
    ///
    /// A start that has begun is finished even if its caller closes the connection.
    pub async fn start(&self, start: Start) -> Result<Started, Error> {
        let leader = match self.0.in_flight.join_or_lead(start.id)? {
            Role::Unkeyed => None,
            Role::Leader(leader) => Some(leader),
            Role::Follower(outcome) => return follow(outcome).await,
        };
        let inner = Arc::clone(&self.0);
        let deadline = Instant::now() + inner.deadline;
        let work = self.0.detached.run_to_completion(async move {
            let outcome = inner.run(&start, deadline).await;
            if let Some(leader) = leader {
                leader.publish(&outcome);
            }
            outcome
        });
        let outcome = timeout_at((deadline + GRACE).into(), work).await;
        outcome.unwrap_or_else(|_| {
            Err(Error::Ambiguous {
                retry_after: GRACE,
                cause: "the start is still in flight after its deadline".to_owned(),
            })
        })
    }

    /// Adds executions that were read from Cloud Run's list for another purpose. Duplicates among them are cancelled.
    pub async fn observe(&self, executions: &[Execution]) {
        self.0.index.add_listed(executions);
        self.0.cancel_duplicates().await;
    }

    /// Looks for duplicates of executions that were started before this process, if processes do not share a store.
    pub fn look_for_duplicates(&self) {
        if self.0.leases.is_none() {
            self.0.look_later();
        }
    }

    /// Waits for the starts whose callers have closed their connections.
    pub async fn drain(&self) {
        self.0.detached.drain().await;
    }
}

impl Inner {
    async fn run(&self, start: &Start, deadline: Instant) -> Outcome {
        // Futures of the rare paths are boxed, here and below: inline, they would make the future of every start three times as large.
        if start.id.is_keyed()
            && let Some(outcome) = Box::pin(self.by_key(start, deadline)).await
        {
            return outcome;
        }
        self.begin(start, deadline).await
    }

    /// The outcome of an earlier request with the same key, or of the start under a lease. None if this request must start it.
    async fn by_key(&self, start: &Start, deadline: Instant) -> Option<Outcome> {
        if let Some(known) = self.index.find(start) {
            return Some(self.replay_known(start, known, deadline).await);
        }
        if let Some(leases) = &self.leases {
            return Some(self.begin_leased(leases, start, deadline).await);
        }
        self.look_up(start, deadline).await.transpose()
    }

    /// The execution that an earlier request with the same key started. Fails while that is not known yet.
    async fn look_up(&self, start: &Start, deadline: Instant) -> Result<Option<Started>, Error> {
        let sent_by = self.ambiguous.sent_by(start.id.key());
        // Read it again now: only a list that is read after the window proves that the send had no effect.
        let is_over = sent_by.is_none_or(|sent_by| self.ambiguous.is_over(sent_by));
        let ambiguous = |cause: &str| sent_by.map(|sent_by| self.ambiguous.error(sent_by, cause));
        self.read(Horizon::Key, deadline)
            .await
            .map_err(|error| ambiguous(&error.to_string()).unwrap_or(error))?;
        if let Some(known) = self.index.find(start) {
            return self.replay(start, &known).await.map(Some);
        }
        match ambiguous("an earlier send is not in the list, but may still appear") {
            Some(error) if !is_over => Err(error),
            _ => Ok(None),
        }
    }

    /// As [`Self::replay`], after reading the list for an older execution of the same start if there may be one.
    async fn replay_known(&self, start: &Start, known: IndexedStart, deadline: Instant) -> Outcome {
        if self.may_have_duplicate(&known)
            && self.read(Horizon::Key, deadline).await.is_ok()
            && let Some(oldest) = self.index.find(start)
        {
            return self.replay(start, &oldest).await;
        }
        self.replay(start, &known).await
    }

    async fn replay(&self, start: &Start, known: &IndexedStart) -> Outcome {
        start.id.ensure_same_request(&known.id)?;
        self.replay_named(start, &known.name).await
    }

    async fn replay_named(&self, start: &Start, name: &str) -> Outcome {
        self.ambiguous.resolve(start.id.key());
        let execution = self.cloud_run.get(name).await?;
        let execution = execution.filter(|execution| start.is_alike(execution));
        let execution = execution.ok_or(Error::Deleted)?;
        Ok(Started {
            joined: execution.invocation_id != Some(start.id.to_string()),
            execution: execution.into(),
            replayed: true,
        })
    }

    /// Starts the execution unless another instance is starting it or has started it.
    async fn begin_leased(&self, leases: &Leases, start: &Start, deadline: Instant) -> Outcome {
        let (lease, is_fresh) = match self.acquire(leases, start, deadline).await? {
            Key::Replayed(started) => return Ok(*started),
            Key::Leased { lease, is_fresh } => (lease, is_fresh),
        };
        // If the list cannot be read, it is unknown what was sent under the earlier lease, so this lease is kept.
        let earlier = if is_fresh {
            None
        } else {
            self.look_up(start, deadline).await?
        };
        let outcome = match earlier {
            Some(replayed) => Ok(replayed),
            None => self.begin(start, deadline).await,
        };
        let recorded = recorded(&outcome);
        match &outcome {
            Ok(started) => {
                let name = &started.execution.name;
                warn(leases.complete(&lease, start, name, recorded).await);
            }
            // The lease is kept until the send can no longer take effect.
            Err(error) if error.may_take_effect() => {}
            Err(_) => warn(leases.release(&lease, start, recorded).await),
        }
        outcome
    }

    async fn acquire(
        &self,
        leases: &Leases,
        start: &Start,
        deadline: Instant,
    ) -> Result<Key, Error> {
        let until = deadline.min(Instant::now() + FOLLOW_TIMEOUT);
        let leased = |lease, is_fresh| Ok(Key::Leased { lease, is_fresh });
        loop {
            match leases.acquire(start).await? {
                Acquired::Fresh(lease) => return leased(lease, true),
                Acquired::Reclaimed(lease) => return leased(lease, false),
                Acquired::Completed(name) => {
                    return self.replay_named(start, &name).await.map(Key::replayed);
                }
                // The instance that holds it may have died after it sent.
                Acquired::HeldElsewhere => self.read(Horizon::Key, deadline).await?,
            }
            if let Some(known) = self.index.find(start) {
                return self.replay(start, &known).await.map(Key::replayed);
            }
            if Instant::now() + ASK_AGAIN > until {
                return Err(Error::InProgress);
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// Starts without looking at earlier requests with the key. Unfinished executions of the scope still decide, by `on_running`.
    async fn begin(&self, start: &Start, deadline: Instant) -> Outcome {
        match (start.on_running, &self.leases) {
            (OnRunning::Allow, Some(leases)) if !start.id.is_keyed() => {
                Box::pin(self.send_recorded(leases, start, deadline)).await
            }
            (OnRunning::Allow, _) => self.send(start, deadline).await,
            _ => Box::pin(self.start_exclusively(start, deadline)).await,
        }
    }

    /// Sends a start that has no lease, and meanwhile leaves a record of it for other instances. The name of the execution
    /// is added to that record after the answer.
    async fn send_recorded(&self, leases: &Leases, start: &Start, deadline: Instant) -> Outcome {
        let sent = leases.record(start, Recorded::Sent);
        let (outcome, written) = tokio::join!(self.send(start, deadline), sent);
        warn(written);
        let (this, start, recorded_outcome) = (self.this.clone(), start.clone(), outcome.clone());
        self.detached.spawn(async move {
            if let Some(leases) = this
                .upgrade()
                .as_ref()
                .and_then(|inner| inner.leases.as_ref())
            {
                warn(leases.record(&start, recorded(&recorded_outcome)).await);
            }
        });
        outcome
    }

    async fn send(&self, start: &Start, deadline: Instant) -> Outcome {
        let began = Instant::now();
        match self.submitter.submit(start, deadline).await {
            Ok(submitted) => {
                self.ambiguous.resolve(start.id.key());
                let execution = if self.may_be_duplicate(start, &submitted, began) {
                    Box::pin(self.oldest(start, submitted, began, deadline)).await
                } else {
                    submitted.execution
                };
                Ok(Started {
                    execution,
                    joined: false,
                    replayed: false,
                })
            }
            Err(Failure::NotStarted(error)) => Err(Error::NotStarted(error)),
            Err(Failure::Ambiguous(sent_by, cause)) => {
                self.ambiguous.record(start, sent_by);
                Err(self.ambiguous.error(sent_by, cause))
            }
        }
    }

    async fn read(&self, horizon: Horizon, deadline: Instant) -> Result<(), Error> {
        let read = timeout_at(deadline.into(), self.index.read(horizon)).await;
        read.unwrap_or(Err(Error::OutOfTime))?;
        self.cancel_duplicates().await;
        Ok(())
    }
}

/// The result of looking at a key that instances share.
enum Key {
    Leased { lease: Lease, is_fresh: bool },
    Replayed(Box<Started>),
}

impl Key {
    fn replayed(started: Started) -> Self {
        Self::Replayed(Box::new(started))
    }
}

/// What is recorded for other instances about a start with this outcome.
fn recorded(outcome: &Outcome) -> Recorded<'_> {
    match outcome {
        Ok(started) if !started.joined && !started.replayed => {
            Recorded::Made(&started.execution.name)
        }
        Err(error) if error.may_take_effect() => Recorded::Sent,
        Ok(_) | Err(_) => Recorded::Nothing,
    }
}

/// A failed write only costs time: the next request finds the execution in Cloud Run's list instead.
fn warn(written: Result<(), Error>) {
    if let Err(error) = written {
        tracing::warn!(cause = %error, "could not update the idempotency store");
    }
}
