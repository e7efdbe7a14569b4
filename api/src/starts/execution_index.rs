//! An index of the newest part of Cloud Run's list of executions. That list is the record of which starts were made.
//!
//! The list is read once as far back as needed. Later reads stop at what is known already, so that a look-up costs one page
//! regardless of the number of executions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};

use super::Start;
use super::error::Error;
use super::invocation_id::{InvocationId, KeyDigest};
use crate::execution::Execution;
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::upstream_timing;
use crate::scope::{ProcessName, Scope};

/// How long a repeated key is answered with the execution of its first use.
pub const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// The largest assumed difference between Google's clock and ours.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);
/// How much later than it was created an execution may appear in the list. Google documents no bound.
const LISTING_LAG: Duration = Duration::from_secs(30);
/// Executions of the first page if it is not known how many there are to read, and of every later page.
const FIRST_PAGE: usize = 100;
const NEXT_PAGES: usize = 500;
/// Extra executions on the first page, for those that other processes started since the last read.
const SPARE: usize = 10;
/// Executions read at most: Cloud Run keeps 1,000 finished executions of a job and runs 1,000 per region.
const MAX_LISTED: usize = 50_000;
/// How many empty pages one read accepts.
const MAX_EMPTY_PAGES: usize = 100;
/// Old entries are evicted after this many were added, even if the list is never read.
const ENTRIES_PER_SWEEP: usize = 1_000;
/// The most unfinished executions in the index. Cloud Run runs fewer at a time, so the end of any others was not seen.
const MAX_UNFINISHED: usize = 2_000;

/// How far back the index must be complete for a look-up.
#[derive(Clone, Copy)]
pub enum Horizon {
    /// The lifetime of a key.
    Key,
    /// Back to this moment.
    Since(Timestamp),
    /// Everything that Cloud Run keeps: what runs now may have begun long ago.
    All,
    /// To this moment, and the states of executions that are known already are read again.
    Afresh(Timestamp),
}

/// An index of the newest part of the list of executions.
pub struct ExecutionIndex {
    cloud_run: Arc<CloudRun>,
    listing_lag: SignedDuration,
    snapshot: Mutex<Snapshot>,
    last_read: tokio::sync::Mutex<Option<LastRead>>,
}

#[derive(Default)]
struct Snapshot {
    /// By key. A key mostly has one.
    starts: HashMap<KeyDigest, Vec<IndexedStart>>,
    /// By name.
    unfinished: HashMap<String, Unfinished>,
    /// Everything that was created since and was visible at the last read is in the index.
    complete_since: Option<Timestamp>,
    /// When the newest execution of that read was created, by Google's clock, as all creation times.
    newest: Option<Timestamp>,
    /// How many executions that read had to return if it only read newer ones, and how many entries were added since.
    seen: Option<usize>,
    added_since: usize,
    /// Entries added since the last sweep.
    added: usize,
    /// Entries were evicted during the current read, so its result must not be treated as complete.
    evicted: bool,
    /// Keys with several executions, two of which may be unfinished.
    suspects: HashSet<KeyDigest>,
    /// Executions that were cancelled because an older one of the same start is unfinished.
    cancelled: HashSet<String>,
}

struct Unfinished {
    scope: Scope,
    process: Option<ProcessName>,
    created_at: Timestamp,
}

/// An execution and the start that it came from.
#[derive(Clone)]
pub struct IndexedStart {
    /// The start.
    pub id: InvocationId,
    /// The name of the execution.
    pub name: String,
    /// When it was created, or joined.
    pub created_at: Timestamp,
    scope: Scope,
    process: Option<ProcessName>,
    /// Whether the start joined an execution that another start made.
    joined: bool,
}

/// Two unfinished executions of one start.
pub struct Duplicate {
    /// The start.
    pub id: InvocationId,
    /// The name of the execution that is kept.
    pub older: String,
    /// The name of the execution that is cancelled.
    pub younger: String,
}

/// When the list was last read, how far, and with what result.
struct LastRead {
    began: Instant,
    /// The index is complete since then.
    back_to: Timestamp,
    /// The states of everything since then were read.
    afresh_to: Option<Timestamp>,
    outcome: Result<(), Error>,
}

impl ExecutionIndex {
    /// An empty index. `quiet` is how long after an unanswered send an execution may be created.
    pub fn new(cloud_run: Arc<CloudRun>, quiet: Duration) -> Self {
        let lag = LISTING_LAG.max(quiet);
        Self {
            cloud_run,
            listing_lag: SignedDuration::try_from(lag).unwrap_or(SignedDuration::MAX),
            snapshot: Mutex::default(),
            last_read: tokio::sync::Mutex::default(),
        }
    }

    /// How much later than it was created an execution may appear in the list.
    pub fn listing_lag(&self) -> SignedDuration {
        self.listing_lag
    }

    /// The execution that the start made, or an earlier one with the same key, as far as the list was read. An execution of
    /// another scope or process is ignored: anyone who may run the job can set its `INVOCATION_ID`.
    pub fn find(&self, start: &Start) -> Option<IndexedStart> {
        self.find_alike(&start.id, &start.scope, start.process.name.as_ref())
    }

    fn find_alike(
        &self,
        id: &InvocationId,
        scope: &Scope,
        process: Option<&ProcessName>,
    ) -> Option<IndexedStart> {
        let oldest = Timestamp::now() - KEY_LIFETIME;
        let snapshot = self.snapshot();
        let starts = snapshot.starts.get(&id.key())?;
        let alike = starts.iter().filter(|start| {
            let is_alike = start.scope == *scope && start.process.as_ref() == process;
            if !is_alike {
                tracing::warn!(
                    invocationId = %id, scope = scope.as_str(), execution = start.name,
                    "an execution of another scope or process has the INVOCATION_ID of this start; it is ignored"
                );
            }
            is_alike && start.created_at > oldest
        });
        // If there are two, the older one counts: it was answered first.
        alike.min_by_key(|start| start.age()).cloned()
    }

    /// Whether an execution of the start was seen.
    pub fn knows(&self, key: KeyDigest) -> bool {
        self.snapshot().starts.contains_key(&key)
    }

    /// Executions of the start's scope and process whose end was not seen yet, newest first: when each was created, and its name.
    /// None if entries were evicted since the last read, so that another read is needed.
    pub fn unfinished(&self, start: &Start) -> Option<Vec<(Timestamp, String)>> {
        self.unfinished_of(&start.scope, start.process.name.as_ref())
    }

    fn unfinished_of(
        &self,
        scope: &Scope,
        process: Option<&ProcessName>,
    ) -> Option<Vec<(Timestamp, String)>> {
        let snapshot = self.snapshot();
        let all = Horizon::All.back_to();
        snapshot.complete_since.filter(|since| *since <= all)?;
        let mut of_scope: Vec<_> = snapshot
            .unfinished
            .iter()
            .filter(|(_, unfinished)| {
                unfinished.scope == *scope && unfinished.process.as_ref() == process
            })
            .map(|(name, unfinished)| (unfinished.created_at, name.clone()))
            .collect();
        of_scope.sort_by(|a, b| b.cmp(a));
        Some(of_scope)
    }

    /// Adds an execution, or records that it has ended.
    pub fn add(&self, execution: &Execution) {
        let mut snapshot = self.snapshot();
        snapshot.add(execution);
        snapshot.added_since += 1;
        snapshot.sweep_in_time(self.listing_lag);
    }

    /// Adds executions from a list that was read for another purpose.
    pub fn add_listed(&self, executions: &[Execution]) {
        let mut snapshot = self.snapshot();
        for execution in executions {
            snapshot.add(execution);
        }
        snapshot.sweep_in_time(self.listing_lag);
    }

    /// Records that a start joined an execution that another start made. Cloud Run's list does not show that.
    pub fn add_joined(&self, id: &InvocationId, execution: &Execution) {
        let start = IndexedStart {
            id: *id,
            name: execution.name.clone(),
            created_at: Timestamp::now(),
            scope: execution.scope.clone(),
            process: execution.process.clone(),
            joined: true,
        };
        let mut snapshot = self.snapshot();
        snapshot.starts.entry(id.key()).or_default().push(start);
    }

    /// Records that an execution has ended or no longer exists.
    pub fn set_finished(&self, name: &str) {
        self.snapshot().unfinished.remove(name);
    }

    /// Pairs of unfinished executions of one start that were seen since the last call.
    pub fn take_duplicates(&self) -> Vec<Duplicate> {
        self.snapshot().take_duplicates()
    }

    /// Marks the younger one of a pair as cancelled, so that it is not reported again until it has ended.
    pub fn set_cancelled(&self, name: String) {
        self.snapshot().cancelled.insert(name);
    }

    /// Refreshes the index back to `horizon`. Concurrent callers share one read, provided that it began after they asked.
    pub async fn read(self: &Arc<Self>, horizon: Horizon) -> Result<(), Error> {
        let asked_at = Instant::now();
        let index = Arc::clone(self);
        // In a separate task: this caller may give up at its deadline while others still wait for the read.
        let reading = tokio::spawn(async move {
            let mut last_read = index.last_read.lock().await;
            let back_to = horizon.back_to();
            let reached = |read: &LastRead| match horizon {
                Horizon::Afresh(_) => read.afresh_to.is_some_and(|moment| moment <= back_to),
                _ => read.back_to <= back_to,
            };
            let shared = last_read
                .as_ref()
                .filter(|read| read.began >= asked_at && reached(read));
            if let Some(read) = shared {
                return read.outcome.clone();
            }
            let began = Instant::now();
            let known = index.snapshot().complete_since;
            let outcome = index.read_list(horizon).await;
            *last_read = Some(LastRead {
                began,
                back_to: known.map_or(back_to, |since| since.min(back_to)),
                afresh_to: Some(back_to).filter(|_| horizon.is_afresh()),
                outcome: outcome.clone(),
            });
            outcome
        });
        let _timer = upstream_timing::upstream(asked_at);
        let outcome = reading.await;
        outcome.unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
    }

    async fn read_list(&self, horizon: Horizon) -> Result<(), Error> {
        let plan = self.snapshot().begin_to_read(horizon, self.listing_lag);
        let (mut token, mut limit) = (None, plan.limit);
        let (mut newest, mut seen, mut listed, mut empty) = (None, 0, 0, 0);
        let mut names = HashSet::new();
        while listed < MAX_LISTED && empty < MAX_EMPTY_PAGES {
            let page = self.cloud_run.list(token.as_deref(), limit).await?;
            let mut snapshot = self.snapshot();
            for execution in &page.executions {
                let created_at = snapshot.add(execution);
                seen += usize::from(created_at >= plan.stop_at);
                if horizon.is_afresh() {
                    names.insert(execution.name.clone());
                }
            }
            newest = newest.max(page.newest);
            let passed = page.oldest.is_some_and(|oldest| oldest < plan.stop_at);
            if passed || page.next.is_none() {
                if horizon.is_afresh() {
                    snapshot.forget_the_deleted(plan.stop_at, self.listing_lag, &names);
                }
                snapshot.end_reading(&plan, newest, seen);
                return Ok(());
            }
            listed += page.listed;
            empty += usize::from(page.listed == 0);
            (token, limit) = (page.next, NEXT_PAGES);
        }
        let endless = crate::gcp::client::Error::NotTheApi("the list has no end".to_owned());
        Err(endless.into())
    }

    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock()
    }
}

impl Horizon {
    fn back_to(self) -> Timestamp {
        match self {
            Self::Key => Timestamp::now() - KEY_LIFETIME - CLOCK_SKEW,
            Self::Since(moment) => moment - CLOCK_SKEW,
            Self::Afresh(moment) => moment,
            Self::All => Timestamp::UNIX_EPOCH,
        }
    }

    fn is_afresh(self) -> bool {
        matches!(self, Self::Afresh(_))
    }
}

impl IndexedStart {
    /// Orders the executions of one start. Every process that sees two of them gets the same order.
    fn age(&self) -> (Timestamp, &str) {
        (self.created_at, &self.name)
    }
}

/// What one read of the list covers.
#[derive(Debug, PartialEq, Eq)]
struct ReadPlan {
    /// Older executions need not be read.
    stop_at: Timestamp,
    /// Executions of the first page.
    limit: usize,
    /// After the read the index is complete since then.
    complete_since: Timestamp,
    /// Whether only executions are read that are newer than those of the last read.
    is_newer_only: bool,
}

impl Snapshot {
    /// A read stops a little before the newest execution of the last read, since the list may show an execution late.
    fn begin_to_read(&mut self, horizon: Horizon, lag: SignedDuration) -> ReadPlan {
        self.sweep_in_time(lag);
        let added = std::mem::take(&mut self.added_since);
        self.evicted = false;
        let back_to = horizon.back_to();
        let complete_since = self.complete_since.filter(|since| *since < back_to);
        let complete_since = complete_since.unwrap_or(back_to);
        let plan = |stop_at, limit, is_newer_only| ReadPlan {
            stop_at,
            limit,
            complete_since,
            is_newer_only,
        };
        match (self.complete_since, self.newest) {
            _ if horizon.is_afresh() => plan(back_to, NEXT_PAGES, false),
            (Some(since), Some(newest)) if since <= back_to => {
                let expected = self.seen.map_or(FIRST_PAGE, |seen| seen + added + SPARE);
                let stop_at = newest.checked_sub(lag).unwrap_or(complete_since);
                plan(stop_at, expected.min(NEXT_PAGES), true)
            }
            _ => plan(complete_since, FIRST_PAGE, false),
        }
    }

    fn end_reading(&mut self, plan: &ReadPlan, newest: Option<Timestamp>, seen: usize) {
        self.complete_since = Some(plan.complete_since).filter(|_| !self.evicted);
        self.newest = self.newest.max(newest);
        self.seen = Some(seen).filter(|_| plan.is_newer_only);
    }

    /// Forgets unfinished executions that a read should have seen: Cloud Run keeps only so many that have ended.
    fn forget_the_deleted(
        &mut self,
        stop_at: Timestamp,
        lag: SignedDuration,
        seen: &HashSet<String>,
    ) {
        let late = Timestamp::now() - lag - CLOCK_SKEW;
        self.unfinished.retain(|name, unfinished| {
            let should_be_seen = (stop_at..late).contains(&unfinished.created_at);
            !should_be_seen || seen.contains(name)
        });
    }

    fn sweep_in_time(&mut self, lag: SignedDuration) {
        if self.added >= ENTRIES_PER_SWEEP {
            self.evict_the_old(lag);
        }
    }

    /// Evicts keys past their lifetime, and starts without a key once no look-up needs them any more.
    fn evict_the_old(&mut self, lag: SignedDuration) {
        let now = Timestamp::now();
        let (oldest, late) = (now - KEY_LIFETIME, now - lag - CLOCK_SKEW);
        self.starts.retain(|_, starts| {
            starts
                .retain(|start| start.created_at > if start.id.is_keyed() { oldest } else { late });
            !starts.is_empty()
        });
        if self.unfinished.len() > MAX_UNFINISHED {
            // They are read again when needed. Those that the list may not show yet are kept.
            self.unfinished
                .retain(|_, unfinished| unfinished.created_at > late);
            (self.complete_since, self.newest, self.evicted) = (None, None, true);
        }
        let unfinished = &self.unfinished;
        self.cancelled.retain(|name| unfinished.contains_key(name));
        self.added = 0;
    }

    /// Adds an execution and returns when it was created.
    fn add(&mut self, execution: &Execution) -> Timestamp {
        self.added += 1;
        let name = &execution.name;
        let created_at = execution.created_at.unwrap_or_else(Timestamp::now);
        if execution.state.is_finished() {
            self.unfinished.remove(name);
        } else if !self.unfinished.contains_key(name) {
            let unfinished = Unfinished {
                scope: execution.scope.clone(),
                process: execution.process.clone(),
                created_at,
            };
            self.unfinished.insert(name.clone(), unfinished);
        }
        let id = execution.invocation_id.as_deref();
        let Some(id) = id.and_then(InvocationId::parse) else {
            return created_at;
        };
        if created_at <= Timestamp::now() - KEY_LIFETIME {
            return created_at;
        }
        let starts = self.starts.entry(id.key()).or_default();
        if !starts
            .iter()
            .any(|start| start.name == *name && !start.joined)
        {
            starts.push(IndexedStart {
                id,
                name: name.clone(),
                created_at,
                scope: execution.scope.clone(),
                process: execution.process.clone(),
                joined: false,
            });
        }
        if starts.len() > 1 && !execution.state.is_finished() {
            self.suspects.insert(id.key());
        }
        created_at
    }

    fn take_duplicates(&mut self) -> Vec<Duplicate> {
        let mut duplicates = Vec::new();
        for key in std::mem::take(&mut self.suspects) {
            let starts = self.starts.get(&key).into_iter().flatten();
            let mut unfinished: Vec<_> = starts
                .filter(|start| !start.joined && self.unfinished.contains_key(&start.name))
                .collect();
            unfinished.sort_by_key(|start| start.age());
            for (at, younger) in unfinished.iter().enumerate() {
                let same = |older: &&&IndexedStart| {
                    older.id == younger.id
                        && older.scope == younger.scope
                        && older.process == younger.process
                };
                let older = unfinished[..at].iter().find(same);
                if let Some(older) = older.filter(|_| !self.cancelled.contains(&younger.name)) {
                    duplicates.push(Duplicate {
                        id: younger.id,
                        older: older.name.clone(),
                        younger: younger.name.clone(),
                    });
                }
            }
        }
        duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{Links, State, Tasks};

    const LAG: SignedDuration = SignedDuration::from_secs(30);

    fn execution(number: usize, id: &InvocationId, created_at: Timestamp) -> Execution {
        let name = format!("test-job-{number}");
        Execution {
            process: None,
            parameters: None,
            progress: None,
            links: Links::new(&scope(), &name),
            name,
            scope: scope(),
            job: "test-job".to_owned(),
            invocation_id: Some(id.to_string()),
            state: State::Pending,
            reason: None,
            message: None,
            tasks: Tasks::default(),
            created_at: Some(created_at),
            started_at: None,
            completed_at: None,
            log_uri: None,
        }
    }

    fn index() -> ExecutionIndex {
        ExecutionIndex::new(Arc::new(CloudRun::for_tests()), Duration::from_secs(2))
    }

    fn keyed(digit: char) -> InvocationId {
        let key = digit.to_string().repeat(32);
        InvocationId::parse(&format!("{key}-{}", "b".repeat(16))).unwrap()
    }

    fn scope() -> Scope {
        "acme".parse().unwrap()
    }

    fn plan(stop_at: Timestamp, limit: usize, complete_since: Timestamp) -> ReadPlan {
        let is_newer_only = stop_at != complete_since;
        ReadPlan {
            stop_at,
            limit,
            complete_since,
            is_newer_only,
        }
    }

    #[test]
    fn entries_that_are_never_looked_up_are_evicted() {
        let index = index();
        let an_hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
        for number in 0..10 * ENTRIES_PER_SWEEP {
            index.add(&execution(number, &InvocationId::random(), an_hour_ago));
        }
        let snapshot = index.snapshot();
        assert!(snapshot.starts.len() <= ENTRIES_PER_SWEEP);
        assert!(snapshot.unfinished.len() <= MAX_UNFINISHED + ENTRIES_PER_SWEEP);
    }

    #[test]
    fn a_read_asks_for_about_as_many_executions_as_can_be_new() {
        let mut snapshot = Snapshot::default();
        let now = Timestamp::now();
        let a_day_ago = now - KEY_LIFETIME;
        let whole = plan(a_day_ago, FIRST_PAGE, a_day_ago);
        let since = |moment| Horizon::Since(moment + CLOCK_SKEW);
        assert_eq!(snapshot.begin_to_read(since(a_day_ago), LAG), whole);
        snapshot.end_reading(&whole, Some(now), 700);
        let newer = |limit| plan(now - LAG, limit, a_day_ago);
        let again = snapshot.begin_to_read(since(now), LAG);
        assert_eq!(again, newer(FIRST_PAGE));
        snapshot.end_reading(&again, Some(now), 3);
        snapshot.added_since = 2;
        let again = snapshot.begin_to_read(since(now), LAG);
        assert_eq!(again, newer(5 + SPARE));
        snapshot.end_reading(&again, Some(now), 100_000);
        assert_eq!(snapshot.begin_to_read(since(now), LAG), newer(NEXT_PAGES));
    }

    #[test]
    fn a_read_is_not_complete_if_entries_were_evicted_meanwhile() {
        let mut snapshot = Snapshot::default();
        let now = Timestamp::now();
        let an_hour_ago = now - SignedDuration::from_hours(1);
        let first = snapshot.begin_to_read(Horizon::All, LAG);
        for number in 0..=MAX_UNFINISHED {
            snapshot.add(&execution(number, &InvocationId::random(), an_hour_ago));
        }
        snapshot.sweep_in_time(LAG);
        snapshot.end_reading(&first, Some(now), 0);
        assert_eq!(snapshot.begin_to_read(Horizon::All, LAG), first);
    }

    #[test]
    fn unfinished_executions_are_returned_only_after_a_complete_read() {
        let index = index();
        let now = Timestamp::now();
        let read = |since| {
            index
                .snapshot()
                .end_reading(&plan(since, 1, since), Some(now), 0)
        };
        read(now);
        assert!(
            index.unfinished_of(&scope(), None).is_none(),
            "the read was not complete"
        );
        read(Horizon::All.back_to());
        assert!(
            index
                .unfinished_of(&scope(), None)
                .is_some_and(|all| all.is_empty())
        );
        for number in 0..MAX_UNFINISHED + ENTRIES_PER_SWEEP {
            index.add(&execution(number, &InvocationId::random(), now));
        }
        assert!(index.unfinished_of(&scope(), None).is_none());
    }

    #[test]
    fn a_key_finds_its_execution_for_a_day() {
        let index = index();
        let late = Timestamp::now() - KEY_LIFETIME + SignedDuration::from_mins(1);
        index.add(&execution(0, &keyed('a'), late));
        index.snapshot().evict_the_old(LAG);
        let found = index.find_alike(&keyed('a'), &scope(), None).unwrap();
        assert_eq!(found.name, "test-job-0");
        let past = Timestamp::now() - KEY_LIFETIME;
        index.add(&execution(1, &keyed('c'), past));
        assert!(index.find_alike(&keyed('c'), &scope(), None).is_none());
    }

    #[test]
    fn an_execution_of_another_scope_or_process_is_ignored() {
        let index = index();
        let now = Timestamp::now();
        let mut foreign = execution(0, &keyed('a'), now - SignedDuration::from_secs(1));
        foreign.scope = "globex".parse().unwrap();
        index.add(&foreign);
        assert!(index.find_alike(&keyed('a'), &scope(), None).is_none());
        let mut foreign = execution(2, &keyed('a'), now - SignedDuration::from_secs(1));
        foreign.process = ProcessName::new("import");
        index.add(&foreign);
        assert!(index.find_alike(&keyed('a'), &scope(), None).is_none());
        index.add(&execution(1, &keyed('a'), now));
        let found = index.find_alike(&keyed('a'), &scope(), None).unwrap();
        assert_eq!(found.name, "test-job-1");
        assert!(index.take_duplicates().is_empty());
    }

    #[test]
    fn of_unfinished_executions_of_one_start_all_but_the_oldest_are_duplicates() {
        let index = index();
        let now = Timestamp::now();
        let earlier = |seconds| now - SignedDuration::from_secs(seconds);
        let other_request = InvocationId::parse(&format!("{}-{}", "a".repeat(32), "c".repeat(16)));
        index.add(&execution(0, &other_request.unwrap(), earlier(9)));
        for (number, seconds) in [(1, 1), (2, 5), (3, 3)] {
            index.add(&execution(number, &keyed('a'), earlier(seconds)));
        }
        let pairs = |index: &ExecutionIndex| {
            let duplicates = index.take_duplicates().into_iter();
            let mut pairs: Vec<_> = duplicates.map(|pair| (pair.older, pair.younger)).collect();
            pairs.sort();
            pairs
        };
        let pair = |older: &str, younger: &str| (older.to_owned(), younger.to_owned());
        let expected = [
            pair("test-job-2", "test-job-1"),
            pair("test-job-2", "test-job-3"),
        ];
        assert_eq!(pairs(&index), expected);
        assert!(index.take_duplicates().is_empty(), "they are reported once");
        index.set_cancelled("test-job-1".to_owned());
        index.set_finished("test-job-2");
        index.add(&execution(1, &keyed('a'), earlier(1)));
        assert!(
            index.take_duplicates().is_empty(),
            "it was cancelled already"
        );
    }
}
