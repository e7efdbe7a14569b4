//! What is known of past starts. Cloud Run's own list of executions is the record; this is a copy of its newest part.
//!
//! The list is read whole as far back as needed once, and from then on only what is newer, so that a look-up costs a page
//! however many executions there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::marker::{Marker, StartId};
use crate::cloud_run::CloudRun;
use crate::execution::Execution;
use crate::problem::{Kind, Problem};
use crate::scope::Scope;

/// How long a key names its start.
pub const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);
/// How far Google's clock and ours may be apart.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);
/// Executions of the first page, which mostly is the only one, and of those that follow.
const FIRST_PAGE: u32 = 100;
const NEXT_PAGES: u32 = 500;
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
    /// Notes taken since the last sweep.
    notes: usize,
    /// When the newest execution of that read was created: Google's clock, as all creation times.
    newest: Option<Timestamp>,
}

struct Unfinished {
    scope: String,
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

    /// Names of executions of the scope whose end was not seen yet, newest first.
    pub fn unfinished(&self, scope: &Scope) -> Vec<String> {
        let copy = self.copy();
        let mut of_scope: Vec<_> = copy
            .unfinished
            .iter()
            .filter(|(_, unfinished)| unfinished.scope == scope.as_str())
            .map(|(name, unfinished)| (unfinished.created_at, name.clone()))
            .collect();
        of_scope.sort_by(|a, b| b.cmp(a));
        of_scope.into_iter().map(|(_, name)| name).collect()
    }

    /// Takes note of an execution, or of its end.
    pub fn add(&self, execution: &Execution) {
        let mut copy = self.copy();
        copy.add(execution);
        copy.notes += 1;
        if copy.notes >= NOTES_PER_SWEEP {
            copy.forget_the_old(self.lag);
        }
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
        reading
            .await
            .unwrap_or_else(|error| Err(Problem::from(Kind::Internal).because(error)))
    }

    /// How far back is worth reading: further than asked only if that is known already.
    fn reach(&self, back_to: Timestamp) -> Timestamp {
        let copy = self.copy();
        copy.from.filter(|from| *from < back_to).unwrap_or(back_to)
    }

    async fn copy_list(&self, back_to: Timestamp) -> Result<(), Problem> {
        let stop_at = self.stop_at(back_to);
        let (mut token, mut limit, mut newest) = (None, FIRST_PAGE, None);
        for _ in 0..MAX_PAGES {
            let page = self.cloud_run.list(token.as_deref(), limit).await?;
            let mut copy = self.copy();
            for execution in &page.executions {
                copy.add(execution);
            }
            newest = newest.max(moment(page.newest.as_deref()));
            let passed = moment(page.oldest.as_deref()).is_some_and(|oldest| oldest < stop_at);
            if passed || page.next.is_none() {
                (copy.from, copy.newest) = (Some(back_to), copy.newest.max(newest));
                return Ok(());
            }
            (token, limit) = (page.next, NEXT_PAGES);
        }
        Err(Problem::from(Kind::UpstreamProtocol).because("the list of executions has no end"))
    }

    /// Where reading may stop: at the newest execution of the last read, and a little before, since the list may show an
    /// execution late.
    fn stop_at(&self, back_to: Timestamp) -> Timestamp {
        let mut copy = self.copy();
        copy.forget_the_old(self.lag);
        match (copy.from, copy.newest) {
            (Some(from), Some(newest)) if from <= back_to => {
                newest.checked_sub(self.lag).unwrap_or(back_to)
            }
            _ => back_to,
        }
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

fn moment(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|text| text.parse().ok())
}

impl Copy {
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
            (self.from, self.newest) = (None, None);
        }
        self.notes = 0;
    }

    fn add(&mut self, execution: &Execution) {
        let created_at = moment(execution.created_at.as_deref()).unwrap_or_else(Timestamp::now);
        if execution.state.is_finished() {
            self.unfinished.remove(&execution.name);
        } else {
            let scope = execution.scope.clone();
            self.unfinished
                .insert(execution.name.clone(), Unfinished { scope, created_at });
        }
        let Some(marker) = execution.invocation_id.as_deref().and_then(Marker::parse) else {
            return;
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{Links, State, Tasks};

    fn execution(number: usize, marker: &Marker, created_at: Timestamp) -> Execution {
        let name = format!("test-job-{number}");
        Execution {
            links: Links::new("acme", &name),
            name,
            scope: "acme".to_owned(),
            job: "test-job".to_owned(),
            invocation_id: Some(marker.to_string()),
            state: State::Pending,
            reason: None,
            message: None,
            tasks: Tasks::default(),
            created_at: Some(created_at.to_string()),
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
