//! What is known of past starts. Cloud Run's own list of executions is the record; this is a copy of its newest part.
//!
//! The list is read whole as far back as needed once, and from then on only what is newer, so that a look-up costs a page
//! however many executions there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::invocation_id::{Marker, StartId};
use crate::execution::Execution;
use crate::gcp::cloud_run::CloudRun;
use crate::gcp::upstream_timing;
use crate::http::problem::{Kind, Problem};
use crate::scope::Scope;

/// How long a key names its start.
pub const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// How far Google's clock and ours may be apart.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);
/// Executions of a page when nothing says how many there are to read, and of the pages that follow.
const FIRST_PAGE: usize = 100;
const NEXT_PAGES: usize = 500;
/// Room on the first page for executions that others started since the last read.
const SPARE: usize = 10;
/// Pages read at most: Cloud Run keeps 1,000 finished executions of a job and runs 1,000 per region.
const MAX_PAGES: usize = 100;
/// Notes taken of executions until what is past is forgotten: also where nobody ever has the list read.
const NOTES_PER_SWEEP: usize = 1_000;
/// More unfinished executions than Cloud Run runs at a time are ones whose end we did not see.
const MAX_UNFINISHED: usize = 2_000;

/// How far back a look-up must know everything.
#[derive(Clone, Copy)]
pub enum Depth {
    /// As far as anything can be that this key started.
    Key,
    /// To this moment.
    Since(Timestamp),
    /// Everything Cloud Run keeps: what runs now may have begun long ago.
    All,
}

/// A copy of the newest part of the list of executions.
pub struct Record {
    cloud_run: Arc<CloudRun>,
    /// How much later than it was created an execution may appear in the list.
    lag: SignedDuration,
    copy: Mutex<Copy>,
    reading: tokio::sync::Mutex<LastRead>,
}

#[derive(Default)]
struct Copy {
    starts: HashMap<StartId, Known>,
    /// By name.
    unfinished: HashMap<String, Unfinished>,
    /// All that was created since and was visible at the last read is here.
    from: Option<Timestamp>,
    /// When the newest execution of that read was created: Google's clock, as all creation times.
    newest: Option<Timestamp>,
    /// How many executions that read had to see if it was of what is newer, and how many notes were taken since.
    seen: Option<usize>,
    notes_since: usize,
    /// Notes taken since the last sweep.
    notes: usize,
    /// Unfinished executions were given up since the current read began, so that it cannot vouch for all.
    gave_up: bool,
}

struct Unfinished {
    scope: Scope,
    created_at: Timestamp,
}

/// An execution and the start it came from.
#[derive(Clone)]
pub struct Known {
    /// The start.
    pub marker: Marker,
    /// The execution's name.
    pub name: String,
    created_at: Timestamp,
}

/// When the list was last read, and what came of it.
#[derive(Default)]
struct LastRead(Option<(Instant, Timestamp, Result<(), Problem>)>);

impl Record {
    /// Knows nothing yet. `lag` is how late an execution may appear in the list.
    pub fn new(cloud_run: Arc<CloudRun>, lag: SignedDuration) -> Self {
        Self {
            cloud_run,
            lag,
            copy: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// The execution that a start with this marker's caller, scope and key made, as far as was read.
    pub fn find(&self, marker: &Marker) -> Option<Known> {
        let oldest = Timestamp::now() - KEY_LIFETIME;
        let copy = self.copy();
        copy.starts
            .get(&marker.start())
            .filter(|known| known.created_at > oldest)
            .cloned()
    }

    /// Whether an execution of the start was seen.
    pub fn knows(&self, start: StartId) -> bool {
        self.copy().starts.contains_key(&start)
    }

    /// Names of executions of the scope whose end was not seen yet, newest first. None if that takes another read, because
    /// some were given up since the last.
    pub fn unfinished(&self, scope: &Scope) -> Option<Vec<String>> {
        let copy = self.copy();
        copy.from.filter(|from| *from <= Depth::All.timestamp())?;
        let mut of_scope: Vec<_> = copy
            .unfinished
            .iter()
            .filter(|(_, unfinished)| unfinished.scope == *scope)
            .map(|(name, unfinished)| (unfinished.created_at, name.clone()))
            .collect();
        of_scope.sort_by(|a, b| b.cmp(a));
        Some(of_scope.into_iter().map(|(_, name)| name).collect())
    }

    /// Takes note of an execution, or of its end.
    pub fn add(&self, execution: &Execution) {
        let mut copy = self.copy();
        copy.add(execution);
        copy.notes_since += 1;
        copy.sweep_in_time(self.lag);
    }

    /// Takes note that a start was answered with an execution that some other start made. Cloud Run's list cannot say so.
    pub fn joined(&self, marker: &Marker, execution: &Execution) {
        let known = Known {
            name: execution.name.clone(),
            created_at: Timestamp::now(),
            marker: *marker,
        };
        self.copy().starts.insert(marker.start(), known);
    }

    /// Takes note that an execution is over or gone.
    pub fn is_over(&self, name: &str) {
        self.copy().unfinished.remove(name);
    }

    /// Reads the list so that everything back to `depth` is known that is visible now. However many ask at a time, it is
    /// read once for those who asked before that began.
    pub async fn read(self: &Arc<Self>, depth: Depth) -> Result<(), Problem> {
        let asked_at = Instant::now();
        let record = Arc::clone(self);
        // In a task of its own: whoever asked may run out of time, and the others still want it.
        let reading = tokio::spawn(async move {
            let mut last = record.reading.lock().await;
            let back_to = depth.timestamp();
            let shared = last
                .0
                .as_ref()
                .filter(|(began, reached, _)| *began >= asked_at && *reached <= back_to);
            if let Some((_, _, outcome)) = shared {
                return outcome.clone();
            }
            let (began, back_to) = (Instant::now(), record.reach(back_to));
            let outcome = record.copy_list(back_to).await;
            last.0 = Some((began, back_to, outcome.clone()));
            outcome
        });
        let _waiting = upstream_timing::upstream(asked_at);
        let outcome = reading.await;
        outcome.unwrap_or_else(|error| Err(Problem::from(Kind::Internal).because(error)))
    }

    /// How far back is worth reading: further than asked only if that is known already.
    fn reach(&self, back_to: Timestamp) -> Timestamp {
        let copy = self.copy();
        copy.from.filter(|from| *from < back_to).unwrap_or(back_to)
    }

    async fn copy_list(&self, back_to: Timestamp) -> Result<(), Problem> {
        let (stop_at, mut limit) = self.copy().begin_to_read(back_to, self.lag);
        let (mut token, mut newest, mut seen) = (None, None, 0);
        for _ in 0..MAX_PAGES {
            let page = self.cloud_run.list(token.as_deref(), limit).await?;
            let mut copy = self.copy();
            for execution in &page.executions {
                let created_at = copy.add(execution);
                seen += usize::from(created_at >= stop_at);
            }
            newest = newest.max(page.newest);
            let passed = page.oldest.is_some_and(|oldest| oldest < stop_at);
            if passed || page.next.is_none() {
                copy.end_reading(back_to, newest, Some(seen).filter(|_| stop_at > back_to));
                return Ok(());
            }
            (token, limit) = (page.next, NEXT_PAGES);
        }
        Err(Problem::from(Kind::UpstreamProtocol).because("the list of executions has no end"))
    }

    fn copy(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Depth {
    fn timestamp(self) -> Timestamp {
        match self {
            Self::Key => Timestamp::now() - KEY_LIFETIME - CLOCK_SKEW,
            Self::Since(moment) => moment - CLOCK_SKEW,
            Self::All => Timestamp::UNIX_EPOCH,
        }
    }
}

impl Copy {
    /// Where reading may stop, and how many executions to ask for first. It stops at the newest execution of the last read,
    /// and a little before, since the list may show an execution late.
    fn begin_to_read(&mut self, back_to: Timestamp, lag: SignedDuration) -> (Timestamp, usize) {
        self.sweep_in_time(lag);
        let notes = std::mem::take(&mut self.notes_since);
        self.gave_up = false;
        match (self.from, self.newest) {
            (Some(from), Some(newest)) if from <= back_to => {
                let expected = self.seen.map_or(FIRST_PAGE, |seen| seen + notes + SPARE);
                let stop_at = newest.checked_sub(lag).unwrap_or(back_to);
                (stop_at, expected.min(NEXT_PAGES))
            }
            _ => (back_to, FIRST_PAGE),
        }
    }

    fn end_reading(&mut self, back_to: Timestamp, newest: Option<Timestamp>, seen: Option<usize>) {
        self.from = Some(back_to).filter(|_| !self.gave_up);
        self.newest = self.newest.max(newest);
        self.seen = seen;
    }

    fn sweep_in_time(&mut self, lag: SignedDuration) {
        if self.notes >= NOTES_PER_SWEEP {
            self.forget_the_old(lag);
        }
    }

    /// Forgets keys past their time, and starts without a key once nobody can be looking for them any more.
    fn forget_the_old(&mut self, lag: SignedDuration) {
        let now = Timestamp::now();
        let (oldest, late) = (now - KEY_LIFETIME, now - lag - CLOCK_SKEW);
        self.starts.retain(|_, known| {
            let since = if known.marker.is_keyed() {
                oldest
            } else {
                late
            };
            known.created_at > since
        });
        if self.unfinished.len() > MAX_UNFINISHED {
            // Read anew, but for those that the list may not show yet.
            self.unfinished
                .retain(|_, unfinished| unfinished.created_at > late);
            (self.from, self.newest, self.gave_up) = (None, None, true);
        }
        self.notes = 0;
    }

    /// Takes note of an execution; when it was created.
    fn add(&mut self, execution: &Execution) -> Timestamp {
        self.notes += 1;
        let created_at = execution.created_at.unwrap_or_else(Timestamp::now);
        if execution.state.is_finished() {
            self.unfinished.remove(&execution.name);
        } else {
            let scope = execution.scope.clone();
            self.unfinished
                .insert(execution.name.clone(), Unfinished { scope, created_at });
        }
        let Some(marker) = execution.invocation_id.as_deref().and_then(Marker::parse) else {
            return created_at;
        };
        let known = Known {
            name: execution.name.clone(),
            created_at,
            marker,
        };
        let oldest = Timestamp::now() - KEY_LIFETIME;
        // Should there ever be two, the older one is the start's: that is what was answered first.
        let earlier = self.starts.get(&known.marker.start()).filter(|earlier| {
            earlier.created_at > oldest
                && (earlier.created_at, &earlier.name) <= (known.created_at, &known.name)
        });
        if earlier.is_none() && known.created_at > oldest {
            self.starts.insert(known.marker.start(), known);
        }
        created_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{Links, State, Tasks};

    fn execution(number: usize, marker: &Marker, created_at: Timestamp) -> Execution {
        let name = format!("test-job-{number}");
        let scope: Scope = "acme".parse().unwrap();
        Execution {
            process: None,
            parameters: None,
            links: Links::new(&scope, &name),
            name,
            scope,
            job: "test-job".to_owned(),
            invocation_id: Some(marker.to_string()),
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

    #[test]
    fn what_is_never_asked_for_does_not_pile_up() {
        let record = Record::new(
            Arc::new(CloudRun::for_tests()),
            SignedDuration::from_secs(30),
        );
        let an_hour_ago = Timestamp::now() - SignedDuration::from_hours(1);
        for number in 0..10 * NOTES_PER_SWEEP {
            let marker = Marker::random();
            record.add(&execution(number, &marker, an_hour_ago));
        }
        let copy = record.copy();
        assert!(copy.starts.len() <= NOTES_PER_SWEEP);
        assert!(copy.unfinished.len() <= MAX_UNFINISHED + NOTES_PER_SWEEP);
    }

    #[test]
    fn a_read_asks_for_about_as_many_as_there_can_be() {
        let lag = SignedDuration::from_secs(30);
        let mut copy = Copy::default();
        let now = Timestamp::now();
        let a_day_ago = now - KEY_LIFETIME;
        assert_eq!(copy.begin_to_read(a_day_ago, lag), (a_day_ago, FIRST_PAGE));
        copy.end_reading(a_day_ago, Some(now), None);
        let newer = now - lag;
        assert_eq!(copy.begin_to_read(now, lag), (newer, FIRST_PAGE));
        copy.end_reading(a_day_ago, Some(now), Some(3));
        copy.notes_since = 2;
        assert_eq!(copy.begin_to_read(now, lag), (newer, 5 + SPARE));
        copy.end_reading(a_day_ago, Some(now), Some(100_000));
        assert_eq!(copy.begin_to_read(now, lag), (newer, NEXT_PAGES));
    }

    #[test]
    fn a_read_vouches_for_nothing_that_was_given_up_meanwhile() {
        let lag = SignedDuration::from_secs(30);
        let mut copy = Copy::default();
        let now = Timestamp::now();
        let an_hour_ago = now - SignedDuration::from_hours(1);
        copy.begin_to_read(Timestamp::UNIX_EPOCH, lag);
        for number in 0..=MAX_UNFINISHED {
            copy.add(&execution(number, &Marker::random(), an_hour_ago));
        }
        copy.sweep_in_time(lag);
        copy.end_reading(Timestamp::UNIX_EPOCH, Some(now), None);
        let again = copy.begin_to_read(Timestamp::UNIX_EPOCH, lag);
        assert_eq!(again, (Timestamp::UNIX_EPOCH, FIRST_PAGE));
    }

    #[test]
    fn what_was_given_up_since_the_read_is_missed() {
        let record = Record::new(
            Arc::new(CloudRun::for_tests()),
            SignedDuration::from_secs(30),
        );
        let scope = "acme".parse().unwrap();
        let now = Timestamp::now();
        record.copy().end_reading(now, Some(now), None);
        assert!(
            record.unfinished(&scope).is_none(),
            "that read was not of all"
        );
        let all = Depth::All.timestamp();
        record.copy().end_reading(all, Some(now), None);
        assert!(
            record
                .unfinished(&scope)
                .is_some_and(|names| names.is_empty())
        );
        for number in 0..MAX_UNFINISHED + NOTES_PER_SWEEP {
            record.add(&execution(number, &Marker::random(), now));
        }
        assert!(record.unfinished(&scope).is_none());
    }

    #[test]
    fn a_key_names_its_start_for_a_day() {
        let record = Record::new(
            Arc::new(CloudRun::for_tests()),
            SignedDuration::from_secs(30),
        );
        let keyed = Marker::parse(&format!("{}-{}", "a".repeat(32), "b".repeat(16))).unwrap();
        let late = Timestamp::now() - KEY_LIFETIME + SignedDuration::from_mins(1);
        record.add(&execution(0, &keyed, late));
        record.copy().forget_the_old(SignedDuration::from_secs(30));
        assert_eq!(record.find(&keyed).unwrap().name, "test-job-0");
        let past = Timestamp::now() - KEY_LIFETIME;
        let other = Marker::parse(&format!("{}-{}", "c".repeat(32), "b".repeat(16))).unwrap();
        record.add(&execution(1, &other, past));
        assert!(record.find(&other).is_none());
    }
}
